//! Capture and replay.

mod common;

use common::*;
use cudarc::driver::sys::{
    CUgraphInstantiate_flags as Flags, CUresult, CUstreamCaptureMode as Mode, CUstreamCaptureStatus as Status,
};
use cudarc::driver::{CudaFunction, CudaGraph, CudaSlice, CudaStream, result};
use std::sync::Arc;

fn ended(outcome: Result<Option<CudaGraph>, cudarc::driver::DriverError>) -> CUresult {
    outcome.err().map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

/// Two kernels on a fork of the captured stream, one on the stream, joined: replayed three times it equals the same
/// calls made three times, under every seed.
#[test]
fn replay_equals_eager() {
    let round = |stream: &Arc<CudaStream>, side: &Arc<CudaStream>, f: &_, x: &_, y: &mut _, z: &mut _| {
        side.join(stream).unwrap();
        saxpy(side, f, 2.0, x, z).unwrap();
        saxpy(stream, f, 1.0, x, y).unwrap();
        stream.join(side).unwrap();
        saxpy(stream, f, 0.5, z, y).unwrap();
    };
    let run = |seed, graph| {
        let (fake, context) = reordered(seed);
        let f = kernel(&context, "saxpy");
        let (stream, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let x = stream.clone_htod(&ramp(100)).unwrap();
        let mut y = stream.alloc_zeros::<f32>(100).unwrap();
        let mut z = stream.alloc_zeros::<f32>(100).unwrap();
        context.synchronize().unwrap();
        if graph {
            stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            round(&stream, &side, &f, &x, &mut y, &mut z);
            assert_eq!(side.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
            let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
            assert_eq!(side.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_NONE);
            // Nothing has run yet.
            assert_eq!(stream.clone_dtoh(&y).unwrap(), [0.0; 100]);
            graph.upload().unwrap();
            for _ in 0..3 {
                graph.launch().unwrap();
            }
            let got = stream.clone_dtoh(&y).unwrap();
            drop(graph);
            assert_eq!(fake.usage().graphs, 0);
            got
        } else {
            for _ in 0..3 {
                round(&stream, &side, &f, &x, &mut y, &mut z);
            }
            stream.clone_dtoh(&y).unwrap()
        }
    };
    let want = run(0, false);
    assert_ne!(want, [0.0; 100]);
    for seed in 0..10 {
        assert_eq!(run(seed, true), want, "seed {seed}");
        assert_eq!(run(seed, false), want, "seed {seed}");
    }
}

/// A graph that doubles y: a copy to z, and z added. Whatever overlaps it spoils it.
fn doubling(
    stream: &Arc<CudaStream>,
    f: &CudaFunction,
    y: &mut CudaSlice<f32>,
    z: &mut CudaSlice<f32>,
) -> CudaGraph {
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    stream.memcpy_dtod(y, z).unwrap();
    saxpy(stream, f, 1.0, z, y).unwrap();
    stream.end_capture(Flags(0)).unwrap().unwrap()
}

/// A graph launched into a capture becomes part of it.
#[test]
fn graphs_nest() {
    for seed in 0..10 {
        let (_fake, context) = reordered(seed);
        let f = kernel(&context, "saxpy");
        let stream = context.new_stream().unwrap();
        let mut y = stream.clone_htod(&[1.0f32; 64]).unwrap();
        let mut z = stream.alloc_zeros::<f32>(64).unwrap();
        let inner = doubling(&stream, &f, &mut y, &mut z);
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        inner.launch().unwrap();
        inner.launch().unwrap();
        let outer = stream.end_capture(Flags(0)).unwrap().unwrap();
        outer.launch().unwrap();
        inner.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [8.0; 64], "seed {seed}");
    }
}

/// Launches of one instance run one after the other, in whatever streams.
#[test]
fn an_instance_does_not_overlap_itself() {
    for seed in 0..20 {
        let (_fake, context) = reordered(seed);
        let f = kernel(&context, "saxpy");
        let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let mut y = stream.clone_htod(&[1.0f32; 64]).unwrap();
        let mut z = stream.alloc_zeros::<f32>(64).unwrap();
        let graph = doubling(&stream, &f, &mut y, &mut z);
        context.synchronize().unwrap();
        graph.launch().unwrap();
        // SAFETY: a live graph and a live stream of one context.
        unsafe { result::graph::launch(graph.cu_graph_exec(), other.cu_stream()) }.unwrap();
        context.synchronize().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [4.0; 64], "seed {seed}");
    }
}

#[test]
fn what_a_capture_forbids() {
    let (_fake, context) = reordered(0);
    let f = kernel(&context, "saxpy");
    let (stream, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let x = stream.clone_htod(&ramp(64)).unwrap();
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    let outside = side.record_event(None).unwrap();
    let global = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    let lost = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;

    // Synchronising the stream, or everything.
    stream.begin_capture(global).unwrap();
    assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(stream.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    assert_eq!(ended(stream.end_capture(Flags(0))), lost);
    stream.begin_capture(global).unwrap();
    assert_eq!(context.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(ended(stream.end_capture(Flags(0))), lost);

    // Work outside the capture cannot be waited for.
    stream.begin_capture(global).unwrap();
    assert_eq!(stream.wait(&outside).unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(ended(stream.end_capture(Flags(0))), lost);

    // A stream that joined must be joined back.
    stream.begin_capture(global).unwrap();
    side.join(&stream).unwrap();
    saxpy(&side, &f, 1.0, &x, &mut y).unwrap();
    assert_eq!(ended(stream.end_capture(Flags(0))), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);

    // An event of the capture is none for the host.
    stream.begin_capture(global).unwrap();
    let inside = stream.record_event(None).unwrap();
    assert_eq!(inside.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_CAPTURED_EVENT);
    assert_eq!(ended(side.end_capture(Flags(0))), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    assert_eq!(ended(stream.end_capture(Flags(0))), CUresult::CUDA_SUCCESS);

    // The default stream cannot be captured, and not twice.
    let legacy = context.default_stream();
    assert_eq!(legacy.begin_capture(global).unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    stream.begin_capture(global).unwrap();
    assert_eq!(stream.begin_capture(global).unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_STATE);
    let flags = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
        | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    assert_eq!(ended(stream.end_capture(flags)), CUresult::CUDA_ERROR_INVALID_VALUE);
    saxpy(&stream, &f, 1.0, &x, &mut y).unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), ramp(64));
}

/// A graph that outlives the memory it was captured with.
#[test]
fn a_graph_of_freed_memory_faults() {
    let (fake, context) = reordered(0);
    let f = kernel(&context, "saxpy");
    let stream = context.new_stream().unwrap();
    let x = stream.clone_htod(&ramp(64)).unwrap();
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    saxpy(&stream, &f, 1.0, &x, &mut y).unwrap();
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    graph.launch().unwrap();
    drop(x);
    assert_eq!(graph.launch().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(fake.take_faults()[0].detail.contains("freed"));
}
