//! Streams are lazy: what the program does not order, a seed does.

mod common;

use common::*;
use cudarc::driver::{CudaSlice, result};

/// A kernel writes y in one stream, another copies y. With or without the wait between them.
fn producer_and_consumer(seed: u64, wait: bool) -> Vec<f32> {
    let (fake, context) = reordered(seed);
    let f = kernel(&context, "saxpy");
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let x = first.clone_htod(&ramp(64)).unwrap();
    let mut y = first.alloc_zeros::<f32>(64).unwrap();
    let mut z = second.alloc_zeros::<f32>(64).unwrap();
    context.synchronize().unwrap();
    saxpy(&first, &f, 1.0, &x, &mut y).unwrap();
    if wait {
        second.wait(&first.record_event(None).unwrap()).unwrap();
    }
    second.memcpy_dtod(&y, &mut z).unwrap();
    let got = second.clone_dtoh(&z).unwrap();
    context.synchronize().unwrap();
    assert_eq!(fake.take_faults(), []);
    got
}

#[test]
fn a_missing_wait_shows_under_some_seed() {
    let wrong = (1..=20).filter(|&seed| producer_and_consumer(seed, false) != ramp(64)).count();
    assert!(wrong > 3, "{wrong} of 20 seeds caught it");
    // In the order of the calls it hides.
    assert_eq!(producer_and_consumer(0, false), ramp(64));
}

#[test]
fn with_the_wait_every_seed_is_right() {
    for seed in 0..=20 {
        assert_eq!(producer_and_consumer(seed, true), ramp(64), "seed {seed}");
    }
}

/// A free that does not wait for a reader in another stream: use after free under some seed.
#[test]
fn a_free_that_overtakes_its_reader() {
    let mut caught = 0;
    for seed in 1..=20 {
        let (fake, context) = reordered(seed);
        let f = kernel(&context, "saxpy");
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let x = first.clone_htod(&ramp(64)).unwrap();
        let mut y = second.alloc_zeros::<f32>(64).unwrap();
        context.synchronize().unwrap();
        saxpy(&second, &f, 1.0, &x, &mut y).unwrap();
        drop(x);
        if context.synchronize().is_err() {
            let faults = fake.take_faults();
            assert!(faults[0].is(ptxsim::FaultKind::OutOfBounds), "{}", faults[0]);
            assert!(faults[0].detail.contains("freed"), "{}", faults[0]);
            caught += 1;
        }
        drop((y, first, second));
        fake.clear_error();
    }
    assert!(caught > 3, "{caught} of 20 seeds caught it");
}

/// Memory that one stream fills and another reads too early, before anything is there.
#[test]
fn a_read_before_the_first_write() {
    let mut caught = 0;
    for seed in 1..=20 {
        let (fake, context) = reordered(seed);
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let x = first.clone_htod(&ramp(64)).unwrap();
        match second.clone_dtoh(&x) {
            Ok(got) => assert_eq!(got, ramp(64)),
            Err(_) => {
                assert!(fake.take_faults()[0].is(ptxsim::FaultKind::Uninitialised));
                caught += 1;
            }
        }
    }
    assert!(caught > 3, "{caught} of 20 seeds caught it");
}

/// The host's bytes are taken at the call: changing them afterwards changes nothing.
#[test]
fn pageable_memory_is_taken_at_the_call() {
    for seed in 0..5 {
        let (_fake, context) = reordered(seed);
        let stream = context.new_stream().unwrap();
        let mut host = vec![1u32; 16];
        let device = stream.clone_htod(&host).unwrap();
        host.fill(2);
        assert_eq!(stream.clone_dtoh(&device).unwrap(), [1; 16]);
    }
}

/// The legacy stream waits for blocking streams and they for it; cudarc's own streams are non-blocking.
#[test]
fn the_legacy_stream_orders_blocking_streams_only() {
    let run = |seed, kind: fn() -> result::stream::StreamKind| {
        let (_fake, context) = reordered(seed);
        let stream = result::stream::create(kind()).unwrap();
        let legacy = context.default_stream();
        let x: CudaSlice<u32> = legacy.clone_htod(&[7; 16]).unwrap();
        let y: CudaSlice<u32> = legacy.clone_htod(&[0; 16]).unwrap();
        context.synchronize().unwrap();
        // SAFETY: two live allocations of 64 bytes.
        unsafe { result::memcpy_dtod_async(address(&y), address(&x), 64, stream) }.unwrap();
        let got = legacy.clone_dtoh(&y).unwrap();
        // SAFETY: created above, not used afterwards.
        unsafe { result::stream::destroy(stream) }.unwrap();
        context.synchronize().unwrap();
        got == [7; 16]
    };
    assert!((1..=20).all(|seed| run(seed, || result::stream::StreamKind::Default)));
    assert!(!(1..=20).all(|seed| run(seed, || result::stream::StreamKind::NonBlocking)));
}

/// A program that asks whether an event is over is kept waiting, not for ever.
#[test]
fn queries_come_true_in_time() {
    let mut waited = 0;
    for seed in 1..=10 {
        let (_fake, context) = reordered(seed);
        let stream = context.new_stream().unwrap();
        let mut y = stream.alloc_zeros::<u32>(4).unwrap();
        for _ in 0..20 {
            stream.memset_zeros(&mut y).unwrap();
        }
        let event = stream.record_event(None).unwrap();
        let mut asked = 0;
        while !event.try_is_complete().unwrap() {
            asked += 1;
            assert!(asked < 100);
        }
        waited += asked;
        assert!(event.is_complete());
    }
    assert!(waited > 10);
}

/// A queue without any synchronisation does not grow for ever.
#[test]
fn a_full_queue_drains() {
    let (fake, context) = reordered(1);
    let stream = context.new_stream().unwrap();
    let mut y = stream.alloc_zeros::<u32>(4).unwrap();
    for _ in 0..3000 {
        stream.memset_zeros(&mut y).unwrap();
    }
    let pending = fake.usage().pending;
    assert!((100..1100).contains(&pending), "{pending}");
    stream.synchronize().unwrap();
    assert_eq!(fake.usage().pending, 0);
}
