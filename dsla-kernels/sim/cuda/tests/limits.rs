//! Limits that a driver checks at the launch.

mod common;

use common::*;
use cudarc::driver::sys::{CUfunction_attribute_enum as Attribute, CUresult};
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg};
use std::sync::Arc;

fn launch(
    stream: &Arc<CudaStream>,
    f: &CudaFunction,
    y: &mut CudaSlice<u32>,
    grid_dim: (u32, u32, u32),
    block_dim: (u32, u32, u32),
    shared_mem_bytes: u32,
) -> CUresult {
    let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes };
    // SAFETY: the kernels take one pointer; a launch that passes the checks writes 64 elements, which y has.
    let launched = unsafe { stream.launch_builder(f).arg(y).launch(config) };
    launched.err().map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

#[test]
fn more_than_48_kilobytes_of_shared_memory_need_the_attribute() {
    let (fake, context) = device();
    let stream = context.default_stream();
    let f = kernel(&context, "shared");
    let mut y = stream.alloc_zeros::<u32>(64).unwrap();
    let mut run = |shared| launch(&stream, &f, &mut y, (1, 1, 1), (64, 1, 1), shared);
    assert_eq!(run(48 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(run((48 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(fake.take_faults()[0].detail.contains("MAX_DYNAMIC_SHARED_SIZE_BYTES"));
    let allow = |bytes| f.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
    allow(100 << 10).unwrap();
    assert_eq!(run(100 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(run((100 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    allow(163 << 10).unwrap();
    assert_eq!(run(163 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(allow((163 << 10) + 1).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(run((163 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(stream.clone_dtoh(&y).unwrap(), (0..64).collect::<Vec<u32>>());
}

#[test]
fn grids_and_blocks() {
    let (_fake, context) = device();
    let stream = context.default_stream();
    let f = kernel(&context, "shared");
    let mut y = stream.alloc_zeros::<u32>(64).unwrap();
    let mut run = |grid, block| launch(&stream, &f, &mut y, grid, block, 4096);
    for (grid, block) in [
        ((1 << 31, 1, 1), (1, 1, 1)),
        ((1, 65536, 1), (1, 1, 1)),
        ((1, 1, 65536), (1, 1, 1)),
        ((0, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
        ((1, 1, 1), (32, 33, 1)),
        ((1, 1, 1), (0, 1, 1)),
    ] {
        assert_eq!(run(grid, block), CUresult::CUDA_ERROR_INVALID_VALUE, "{grid:?} {block:?}");
    }
    assert_eq!(run((1, 1, 1), (64, 1, 1)), CUresult::CUDA_SUCCESS);
    // The context has survived.
    context.synchronize().unwrap();
}

#[test]
fn occupancy_by_threads_and_shared_memory() {
    let (_fake, context) = device();
    let f = kernel(&context, "shared");
    let blocks =
        |threads, shared| f.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap();
    assert_eq!(blocks(32, 0), 32);
    assert_eq!(blocks(256, 0), 8);
    assert_eq!(blocks(33, 0), 32);
    assert_eq!(blocks(128, 40 << 10), 4);
    assert_eq!(blocks(128, 163 << 10), 1);
    assert_eq!(blocks(128, 164 << 10), 0);
    assert_eq!(f.get_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK).unwrap(), 1024);
}
