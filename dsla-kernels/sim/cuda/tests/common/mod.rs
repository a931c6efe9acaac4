//! What the tests share: kernels and a device.
#![allow(dead_code)]

use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use ptxsim_cuda::{Fake, Options, Session};
use std::sync::Arc;

/// y = a x + y; a kernel that writes without asking how long y is; one with dynamic shared memory; one that hangs.
pub const PTX: &str = include_str!("kernels.ptx");

/// The fake for this test alone, and a context on it.
pub fn device() -> (Session, Arc<CudaContext>) {
    let fake = Fake::exclusive().expect("the fake driver");
    let context = CudaContext::new(0).expect("a context");
    (fake, context)
}

/// As [`device`], with streams ordered by the program, not by cudarc, and by a seed.
pub fn reordered(seed: u64) -> (Session, Arc<CudaContext>) {
    let (fake, context) = device();
    // SAFETY: no slice exists yet; the tests order their streams themselves.
    unsafe { context.disable_event_tracking() };
    fake.set(&Options { reorder: seed, ..Options::default() });
    (fake, context)
}

pub fn module(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context.load_module(Ptx::from_src(PTX)).expect("the module")
}

pub fn kernel(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context).load_function(name).expect("the kernel")
}

pub fn grid(n: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: ((n as u32).div_ceil(64), 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 }
}

/// Launch saxpy over all of `y`.
pub fn saxpy(
    stream: &Arc<CudaStream>,
    f: &CudaFunction,
    a: f32,
    x: &CudaSlice<f32>,
    y: &mut CudaSlice<f32>,
) -> Result<(), cudarc::driver::DriverError> {
    let n = y.len() as u32;
    let config = grid(y.len());
    // SAFETY: the kernel takes these parameters and stays within n elements, which both slices have.
    unsafe { stream.launch_builder(f).arg(&a).arg(x).arg(y).arg(&n).launch(config) }.map(drop)
}

pub fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

/// The device address of a slice.
pub fn address<T>(slice: &CudaSlice<T>) -> u64 {
    use cudarc::driver::DevicePtr;
    slice.device_ptr(cudarc::driver::DeviceSlice::stream(slice)).0
}
