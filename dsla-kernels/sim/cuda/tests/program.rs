//! A whole cudarc program, unmodified, on the fake driver.

mod common;

use common::*;
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUevent_flags};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use ptxsim_cuda::{Fake, Options};

#[test]
fn answers_of_the_device() {
    let (fake, context) = device();
    // SAFETY: only asks whether the library loads.
    assert!(unsafe { cudarc::driver::sys::is_culib_present() });
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(context.name().unwrap(), "ptxsim (no hardware)");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.total_mem().unwrap(), 40 << 30);
    assert!(context.has_async_alloc());
    let ask = |a| context.attribute(a).unwrap();
    assert_eq!(ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 108);
    assert_eq!(ask(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
    assert_eq!(ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 48 << 10);
    assert_eq!(ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 163 << 10);
    assert_eq!(ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
    fake.set(&Options { capacity: 1 << 20, devices: 3, ..Options::default() });
    assert_eq!(CudaContext::device_count().unwrap(), 3);
    let third = CudaContext::new(2).unwrap();
    let stream = third.default_stream();
    let held = stream.alloc_zeros::<u8>(1 << 19).unwrap();
    assert_eq!(third.mem_get_info().unwrap(), (1 << 19, 1 << 20));
    assert_eq!(context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
    drop(held);
    assert!(CudaContext::new(3).is_err());
}

#[test]
fn saxpy_on_two_streams_with_events() {
    let (fake, context) = device();
    fake.set(&Options { record: true, ..Options::default() });
    let f = kernel(&context, "saxpy");
    let (n, first) = (1000, context.default_stream());
    let x = first.clone_htod(&ramp(n)).unwrap();
    let mut y = first.alloc_zeros::<f32>(n).unwrap();
    let start = first.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    saxpy(&first, &f, 2.0, &x, &mut y).unwrap();
    let second = first.fork().unwrap();
    saxpy(&second, &f, 3.0, &x, &mut y).unwrap();
    first.join(&second).unwrap();
    let end = first.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let want: Vec<f32> = ramp(n).iter().map(|x| 5.0 * x).collect();
    assert_eq!(first.clone_dtoh(&y).unwrap(), want);
    assert!(start.elapsed_ms(&end).unwrap() > 0.0);
    assert!(end.is_complete());
    context.synchronize().unwrap();
    let launches = fake.take_launches();
    assert_eq!(launches.len(), 2);
    assert_eq!(
        (launches[0].kernel.as_str(), launches[0].grid, launches[0].block),
        ("saxpy", [16, 1, 1], [64, 1, 1])
    );
    assert!(launches[0].counters.warp_instructions.iter().sum::<u64>() > 32 * 16);
    assert_eq!(launches[0].counters.unique_store_bytes, 4 * n as u64);
    assert_eq!(fake.take_faults(), []);
}

/// cudarc's own event tracking orders slices between streams, whatever the seed.
#[test]
fn tracked_streams_agree_under_every_seed() {
    for seed in 0..20 {
        let (fake, context) = device();
        fake.set(&Options { reorder: seed, ..Options::default() });
        let f = kernel(&context, "saxpy");
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let x = first.clone_htod(&ramp(100)).unwrap();
        let mut y = second.clone_htod(&ramp(100)).unwrap();
        saxpy(&first, &f, 1.0, &x, &mut y).unwrap();
        let mut z = second.alloc_zeros::<f32>(100).unwrap();
        saxpy(&second, &f, 1.0, &y, &mut z).unwrap();
        drop(y);
        let want: Vec<f32> = ramp(100).iter().map(|x| 2.0 * x).collect();
        assert_eq!(first.clone_dtoh(&z).unwrap(), want, "seed {seed}");
        drop((x, z));
        context.synchronize().unwrap();
        assert_eq!(fake.take_faults(), []);
        assert_eq!((fake.live_bytes(), fake.live_allocations()), (0, 0));
    }
}

#[test]
fn fills_copies_and_views() {
    let (fake, context) = device();
    let stream = context.default_stream();
    let a = stream.clone_htod(&[1u32, 2, 3, 4, 5, 6]).unwrap();
    let mut b = stream.alloc_zeros::<u32>(4).unwrap();
    stream.memcpy_dtod(&a.slice(2..4), &mut b.slice_mut(1..3)).unwrap();
    assert_eq!(stream.clone_dtoh(&b).unwrap(), [0, 3, 4, 0]);
    let (at, null) = (address(&b), std::ptr::null_mut());
    // SAFETY: four words of a live allocation.
    unsafe { cudarc::driver::sys::cuMemsetD32Async(at, 0x0102_0304, 4, null).result().unwrap() };
    assert_eq!(stream.clone_dtoh(&b).unwrap(), [0x0102_0304; 4]);
    // SAFETY: eight bytes of a live allocation.
    unsafe { cudarc::driver::result::memset_d8_sync(at, 7, 8).unwrap() };
    assert_eq!(stream.clone_dtoh(&b).unwrap(), [0x0707_0707, 0x0707_0707, 0x0102_0304, 0x0102_0304]);
    assert_eq!(fake.take_faults(), []);
}

/// Page-locked memory is copied when the stream gets there, not at the call.
#[test]
fn page_locked_memory() {
    let (fake, context) = reordered(3);
    let stream = context.new_stream().unwrap();
    // SAFETY: written before it is read.
    let mut host = unsafe { context.alloc_pinned::<u32>(8) }.unwrap();
    host.as_mut_slice().unwrap().copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let device = stream.clone_htod(&host).unwrap();
    // SAFETY: written by the copy below.
    let mut back = unsafe { context.alloc_pinned::<u32>(8) }.unwrap();
    stream.memcpy_dtoh(&device, &mut back).unwrap();
    // cudarc waits for its own event only where it tracks events.
    assert_eq!(back.as_slice().unwrap(), [u32::MAX; 8]);
    stream.synchronize().unwrap();
    assert_eq!(back.as_slice().unwrap(), [1, 2, 3, 4, 5, 6, 7, 8]);
    drop((host, back, device));
    context.synchronize().unwrap();
    assert_eq!(fake.take_faults(), []);
    assert_eq!(fake.live_bytes(), 0);
}

#[test]
fn nothing_stays_alive() {
    let (fake, context) = device();
    let before = fake.usage();
    {
        let stream = context.new_stream().unwrap();
        let f = kernel(&context, "unguarded");
        let mut y = stream.alloc_zeros::<u32>(64).unwrap();
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: 64 threads write 64 elements.
        unsafe { stream.launch_builder(&f).arg(&mut y).launch(config) }.unwrap();
        let alive = fake.usage();
        assert_eq!((alive.bytes, alive.allocations, alive.streams), (256, 1, before.streams + 1));
        assert!(alive.modules > before.modules && alive.events > before.events);
    }
    drop(context);
    let after = fake.usage();
    assert_eq!((after.bytes, after.allocations, after.contexts), (0, 0, before.contexts - 1));
    assert_eq!((after.modules, after.streams, after.events), (before.modules, before.streams, before.events));
    assert_eq!(after.peak_bytes, 256);
}

#[test]
fn threads_share_a_device() {
    let (fake, context) = device();
    let f = kernel(&context, "saxpy");
    std::thread::scope(|scope| {
        for t in 0..4 {
            let (context, f) = (&context, &f);
            scope.spawn(move || {
                let stream = context.new_stream().unwrap();
                let x = stream.clone_htod(&ramp(256)).unwrap();
                let mut y = stream.alloc_zeros::<f32>(256).unwrap();
                for _ in 0..5 {
                    saxpy(&stream, f, t as f32, &x, &mut y).unwrap();
                }
                let want: Vec<f32> = ramp(256).iter().map(|x| 5.0 * t as f32 * x).collect();
                assert_eq!(stream.clone_dtoh(&y).unwrap(), want);
            });
        }
    });
    assert_eq!(fake.take_faults(), []);
}

#[test]
fn installing_twice_is_once() {
    assert!(Fake::install().is_ok());
    assert!(Fake::install().is_ok());
}
