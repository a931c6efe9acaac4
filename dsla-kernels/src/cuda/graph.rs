//! CUDA graphs: a sequence of launches captured once, replayed with one call. A decode step is dozens of small kernels
//! whose launches would cost more than their work.

use super::{Buffer, Context, context};
use crate::{DType, Device, Error, Result};
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags_enum as Flags, CUstreamCaptureMode_enum as Mode};
use std::cell::RefCell;
use std::sync::Arc;

/// Launches that were captured. Every address they use is fixed: what changes from replay to replay must be read from
/// device memory (positions, ids, slots), and tensors allocated inside the capture live in the graph's own memory.
pub struct Graph {
    graph: CudaGraph,
    cx: Arc<Context>,
    // Temporaries of the captured launches.
    _memory: Arc<Buffer>,
}

/// Memory for the tensors that a capture allocates, handed out from the front, taken back all at once.
struct Arena {
    ordinal: usize,
    memory: Arc<Buffer>,
    used: usize,
}

thread_local! {
    static ARENA: RefCell<Option<Arena>> = const { RefCell::new(None) };
}

/// Alignment of an allocation, as the driver's.
const ALIGN: usize = 256;

/// During a capture on this thread: memory of the arena instead of an allocation, which a graph may not make.
pub(super) fn captured(cx: &Context, bytes: usize) -> Option<Result<(u64, Arc<Buffer>)>> {
    ARENA.with_borrow_mut(|arena| {
        let arena = arena.as_mut().filter(|a| a.ordinal == cx.ordinal)?;
        let (at, all) = (arena.used, arena.memory.ptr());
        let size = bytes.next_multiple_of(ALIGN);
        if at + size > arena.memory.bytes() {
            let free = arena.memory.bytes() - at;
            return Some(Err(Error::OutOfMemory { device: cx.device(), want: bytes, free }));
        }
        arena.used += size;
        Some(Ok((all.address + at as u64, arena.memory.clone())))
    })
}

impl Graph {
    /// Capture what `f` launches on `device`; nothing runs yet. `workspace`: bytes for the tensors that `f` allocates.
    /// `f` must have run once before (kernels are loaded at their first launch) and may not read results.
    ///
    /// Errors: no such device; `f`'s own; a workspace that is too small ([`Error::OutOfMemory`]); what the driver does
    /// not capture.
    pub fn capture(device: Device, workspace: usize, f: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let Device::Cuda(ordinal) = device else {
            let got = device.to_string();
            return Err(Error::Argument { op: "graph", arg: "device", got, want: "cuda".into() });
        };
        let cx = context(ordinal)?;
        let memory = Arc::new(Buffer::new(ordinal, workspace.next_multiple_of(ALIGN) / 4, DType::F32)?);
        let stream = cx.stream().clone();
        let failed = |e| cx.failed("capture", e);
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed)?;
        ARENA.set(Some(Arena { ordinal, memory: memory.clone(), used: 0 }));
        let done = f();
        ARENA.set(None);
        // Ended whatever `f` says: a stream must not stay in capture.
        let graph = stream.end_capture(Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        done?;
        let nothing = || Error::Argument {
            op: "graph",
            arg: "capture",
            got: "no launches".into(),
            want: "at least one".into(),
        };
        let graph = graph.map_err(failed)?.ok_or_else(nothing)?;
        Ok(Graph { graph, cx, _memory: memory })
    }

    /// Queue all launches again, in their order, after everything queued before.
    ///
    /// Errors: the driver's refusal.
    pub fn launch(&self) -> Result<()> {
        self.graph.launch().map_err(|e| self.cx.failed("graph", e))
    }
}
