//! Capture and graphs.
#![allow(non_snake_case)]

use super::{Out, cu};
use crate::code::{Code, Outcome};
use crate::state::{Handle, State};

cu!(cuStreamBeginCapture_v2(stream: Handle, mode: u32) Fails |s| {
    let stream = s.stream(stream)?;
    s.begin_capture(stream, mode)
});

cu!(cuStreamEndCapture(stream: Handle, graph: Out<Handle>) Fails |s| {
    let stream = s.stream(stream)?;
    let captured = s.end_capture(stream);
    graph.set(captured.unwrap_or(0))?;
    captured.map(drop)
});

cu!(cuStreamIsCapturing(stream: Handle, status: Out<u32>) Fails |s| {
    let stream = s.stream(stream)?;
    s.forbid_implicit(stream)?;
    let capture = s.streams[&stream].capture.as_ref().and_then(|c| s.captures.get(&c.0));
    // CU_STREAM_CAPTURE_STATUS_NONE, ACTIVE, INVALIDATED.
    status.set(capture.map_or(0, |c| 1 + u32::from(c.invalid)))
});

/// Flags: 1 free on launch, 2 upload, 4 launch from the device, 8 node priorities.
fn instantiate(s: &mut State, exec: Out<Handle>, graph: Handle, flags: u64) -> Outcome {
    if flags & !15 != 0 || flags & 5 == 5 {
        return Err(Code::INVALID_VALUE);
    }
    if flags & 4 != 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    let nodes = s.graphs.get(&graph).ok_or(Code::INVALID_HANDLE)?.nodes.clone();
    let handle = s.handle();
    s.execs.insert(handle, crate::capture::Exec { nodes, last: None });
    exec.set(handle)
}

cu!(cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) Fails
    |s| instantiate(s, exec, graph, flags));

cu!(cuGraphUpload(exec: Handle, stream: Handle) Fails |s| {
    s.stream(stream)?;
    if s.execs.contains_key(&exec) { Ok(()) } else { Err(Code::INVALID_HANDLE) }
});

cu!(cuGraphLaunch(exec: Handle, stream: Handle) Fails |s| {
    let stream = s.stream(stream)?;
    s.launch_graph(exec, stream)
});

cu!(cuGraphDestroy(graph: Handle) Releases
    |s| s.graphs.remove(&graph).map(drop).ok_or(Code::INVALID_HANDLE));
cu!(cuGraphExecDestroy(exec: Handle) Releases
    |s| s.execs.remove(&exec).map(drop).ok_or(Code::INVALID_HANDLE));
