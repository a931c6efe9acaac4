//! What goes wrong: codes as hardware gives them, and the reasons it keeps to itself.

mod common;

use common::*;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{DriverError, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;
use ptxsim::FaultKind;
use ptxsim_cuda::Options;

fn code<T>(outcome: Result<T, DriverError>) -> CUresult {
    outcome.err().map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

const ONE: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };

#[test]
fn out_of_bounds_kills_the_context_and_says_where() {
    let (fake, context) = device();
    let stream = context.default_stream();
    let f = kernel(&context, "unguarded");
    let mut y = stream.alloc_zeros::<u32>(60).unwrap();
    // SAFETY: it is the test that 64 threads write 60 elements.
    let launched = unsafe { stream.launch_builder(&f).arg(&mut y).launch(ONE) };
    assert_eq!(code(launched), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let text = format!("{:?}", stream.synchronize().unwrap_err());
    assert!(text.contains("ILLEGAL_ADDRESS") && text.contains("illegal memory access"), "{text}");
    assert_eq!(code(stream.alloc_zeros::<u32>(1)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let faults = fake.take_faults();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].is(FaultKind::OutOfBounds) && faults[0].kernel == "unguarded", "{}", faults[0]);
    let line = PTX.lines().nth(faults[0].line - 1).unwrap();
    assert!(line.contains("st.global.u32 [%rd2], %r3"), "{line}");
    // What is dropped is given back all the same, and the end of the context ends the error.
    drop((y, f, stream));
    assert_eq!(fake.live_allocations(), 0);
    drop(context);
    let context = cudarc::driver::CudaContext::new(0).unwrap();
    assert_eq!(code(context.synchronize()), CUresult::CUDA_SUCCESS);
}

/// Queued, the launch succeeds and the next synchronising call brings the error.
#[test]
fn a_lazy_fault_comes_later() {
    let (fake, context) = reordered(1);
    let stream = context.new_stream().unwrap();
    let f = kernel(&context, "unguarded");
    let mut y = stream.alloc_zeros::<u32>(60).unwrap();
    // SAFETY: it is the test that 64 threads write 60 elements.
    let launched = unsafe { stream.launch_builder(&f).arg(&mut y).launch(ONE) };
    assert_eq!(code(launched), CUresult::CUDA_SUCCESS);
    drop(stream.alloc_zeros::<u32>(8).unwrap());
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!((fake.usage().pending, fake.live_allocations()), (0, 1));
    assert_eq!(code(context.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(fake.take_faults().len(), 1);
    fake.clear_error();
    assert_eq!(code(context.synchronize()), CUresult::CUDA_SUCCESS);
}

#[test]
fn use_after_free() {
    let (fake, context) = device();
    let stream = context.default_stream();
    let f = kernel(&context, "unguarded");
    let y = stream.alloc_zeros::<u32>(64).unwrap();
    let stale = address(&y);
    drop(y);
    // SAFETY: it is the test that the pointer is stale.
    let launched = unsafe { stream.launch_builder(&f).arg(&stale).launch(ONE) };
    assert_eq!(code(launched), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(fake.take_faults()[0].detail.contains("freed"));
    fake.clear_error();
    // SAFETY: it is the test that the pointer is stale.
    let copied = unsafe { result::memcpy_htod_sync(stale, &[1u32]) };
    assert_eq!(code(copied), CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: it is the test that the pointer is stale.
    let freed = unsafe { result::free_sync(stale) };
    assert_eq!(code(freed), CUresult::CUDA_ERROR_INVALID_VALUE);
    let faults = fake.take_faults();
    assert_eq!(faults.iter().filter(|f| f.kind == "Driver").count(), 2, "{faults:?}");
    assert_eq!(code(context.synchronize()), CUresult::CUDA_SUCCESS);
}

#[test]
fn a_hang_times_out() {
    let (fake, context) = device();
    fake.set(&Options { budget: 1000, ..Options::default() });
    let stream = context.default_stream();
    let f = kernel(&context, "hang");
    // SAFETY: the kernel has no parameters.
    let launched = unsafe { stream.launch_builder(&f).launch(ONE) };
    assert_eq!(code(launched), CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
    assert!(fake.take_faults()[0].is(FaultKind::Budget));
}

#[test]
fn uninitialised_memory_is_no_result() {
    let (fake, context) = device();
    let stream = context.default_stream();
    // SAFETY: it is the test that nothing is written there.
    let y = unsafe { stream.alloc::<f32>(16) }.unwrap();
    assert_eq!(code(stream.clone_dtoh(&y)), CUresult::CUDA_ERROR_ASSERT);
    assert!(fake.take_faults()[0].is(FaultKind::Uninitialised));
    // No kernel failed: the context lives.
    assert_eq!(code(context.synchronize()), CUresult::CUDA_SUCCESS);
}

#[test]
fn copies_stay_in_their_allocation() {
    let (fake, context) = device();
    let stream = context.default_stream();
    let y = stream.alloc_zeros::<u8>(16).unwrap();
    // SAFETY: it is the test that 17 bytes do not fit.
    let written = unsafe { result::memcpy_htod_async(address(&y), &[0u8; 17], std::ptr::null_mut()) };
    assert_eq!(code(written), CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: it is the test that the range begins behind its allocation.
    let filled = unsafe { result::memset_d8_async(address(&y) + 16, 0, 1, std::ptr::null_mut()) };
    assert_eq!(code(filled), CUresult::CUDA_ERROR_INVALID_VALUE);
    let faults = fake.take_faults();
    assert!(
        faults[0].detail.contains("17 bytes") && faults[0].detail.contains("16 bytes are left"),
        "{}",
        faults[0]
    );
    assert_eq!(faults.len(), 2);
}

#[test]
fn memory_runs_out() {
    let (fake, context) = device();
    fake.set(&Options { capacity: 1000, ..Options::default() });
    let stream = context.default_stream();
    let held = stream.alloc_zeros::<u8>(600).unwrap();
    assert_eq!(code(stream.alloc_zeros::<u8>(401)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    drop(held);
    let again = stream.alloc_zeros::<u8>(1000).unwrap();
    assert_eq!((fake.live_bytes(), fake.peak_bytes()), (1000, 1000));
    drop(again);
    fake.reset_peak();
    assert_eq!((fake.live_bytes(), fake.peak_bytes()), (0, 0));
}

#[test]
fn injected_errors_come_once() {
    let (fake, context) = device();
    let stream = context.default_stream();
    fake.fail_next("cuMemAllocAsync", 2);
    assert_eq!(code(stream.alloc_zeros::<u8>(1)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(code(stream.alloc_zeros::<u8>(1)), CUresult::CUDA_SUCCESS);
    fake.fail_next("cuStreamSynchronize", 719);
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_SUCCESS);
}

#[test]
fn bad_modules_say_why() {
    let (fake, context) = device();
    let load = |text: &str| code(context.load_module(Ptx::from_src(text)));
    assert_eq!(load(&PTX.replace("fma.rn.f32", "frobnicate.f32")), CUresult::CUDA_ERROR_INVALID_PTX);
    let faults = fake.take_faults();
    assert!(faults[0].is(FaultKind::Load) && faults[0].line > 0, "{}", faults[0]);
    assert_eq!(load(&PTX.replace("sm_80", "sm_90")), CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(fake.take_faults()[0].detail.contains("sm_90"));
    let module = module(&context);
    assert_eq!(code(module.load_function("saxpi")), CUresult::CUDA_ERROR_NOT_FOUND);
    assert!(fake.take_faults()[0].detail.contains("saxpy"));
}

#[test]
fn wrong_handles_are_refused() {
    let (_fake, context) = device();
    context.bind_to_thread().unwrap();
    let nothing = 0xdead0usize;
    // SAFETY: handles are names to the driver, it does not follow them.
    unsafe {
        let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
        assert_eq!(code(result::stream::synchronize(nothing as sys::CUstream)), invalid);
        assert_eq!(code(result::event::query(nothing as sys::CUevent)), invalid);
        assert_eq!(code(result::module::unload(nothing as sys::CUmodule)), invalid);
        assert_eq!(code(result::graph::destroy(nothing as sys::CUgraph)), invalid);
    }
}

/// Two blocks write the same elements: found when races are looked for.
#[test]
fn options_reach_the_simulator() {
    let run = |races| {
        let (fake, context) = device();
        fake.set(&Options { races, schedule: 3, perturb: Some(1), ..Options::default() });
        assert_eq!(fake.options().races, races);
        let stream = context.default_stream();
        let f = kernel(&context, "shared");
        let mut y = stream.alloc_zeros::<u32>(64).unwrap();
        let config = LaunchConfig { grid_dim: (2, 1, 1), shared_mem_bytes: 256, ..ONE };
        // SAFETY: 64 threads of each block write 64 elements.
        let launched = code(unsafe { stream.launch_builder(&f).arg(&mut y).launch(config) }.map(drop));
        (launched, fake.take_faults().pop())
    };
    assert_eq!(run(false), (CUresult::CUDA_SUCCESS, None));
    let (launched, fault) = run(true);
    assert_eq!(launched, CUresult::CUDA_ERROR_ASSERT);
    assert!(fault.is_some_and(|f| f.is(FaultKind::GlobalRace)));
}
