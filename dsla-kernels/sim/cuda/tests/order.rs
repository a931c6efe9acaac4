//! Streams are lazy: what the program does not order, a seed does.

mod common;

use common::*;
use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, result};
use std::sync::Arc;

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
    // The other way round: a blocking stream's copy comes after what the legacy stream fills.
    let back = |seed| {
        let (_fake, context) = reordered(seed);
        let stream = result::stream::create(result::stream::StreamKind::Default).unwrap();
        let legacy = context.default_stream();
        let x: CudaSlice<u32> = legacy.clone_htod(&[7; 16]).unwrap();
        let y: CudaSlice<u32> = legacy.clone_htod(&[0; 16]).unwrap();
        // SAFETY: two live allocations of 64 bytes, then a stream of this context that is used no more.
        unsafe {
            result::memcpy_dtod_async(address(&y), address(&x), 64, stream).unwrap();
            result::stream::synchronize(stream).unwrap();
            result::stream::destroy(stream).unwrap();
        }
        legacy.clone_dtoh(&y).unwrap() == [7; 16]
    };
    assert!((1..=20).all(back));
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

/// A deterministic sequence.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n) as usize
    }
}

/// A slice and the events of its last write and of the reads since.
struct Tracked {
    slice: CudaSlice<f32>,
    written: CudaEvent,
    read: Vec<CudaEvent>,
}

/// Random programs of three streams and four slices, every use ordered after the ones it conflicts with: every seed
/// gives what calls in order give, and the simulator finds nothing. (cudarc's own tracking would not do: it keeps
/// one event for all readers of a slice, so a writer or a free overtakes all readers but the last. These seeds
/// showed it.)
#[test]
fn random_programs_agree_with_their_order() {
    let run = |program: u64, seed: u64| {
        let (fake, context) = reordered(seed);
        let f = kernel(&context, "saxpy");
        let streams: Vec<_> = (0..3).map(|_| context.new_stream().unwrap()).collect();
        let mark = |stream: &Arc<CudaStream>| stream.record_event(None).unwrap();
        let mut slices: Vec<Tracked> = (0..4)
            .map(|i| {
                let slice = streams[i % 3].clone_htod(&[i as f32 + 1.0; 8]).unwrap();
                Tracked { slice, written: mark(&streams[i % 3]), read: Vec::new() }
            })
            .collect();
        let mut dice = Dice(program * 2 + 1);
        for _ in 0..30 {
            let (stream, from, kind) = (&streams[dice.roll(3)], dice.roll(4), dice.roll(5));
            let to = (from + 1 + dice.roll(3)) % 4;
            let [x, y] = slices.get_disjoint_mut([from, to]).unwrap();
            stream.wait(&x.written).unwrap();
            for event in y.read.drain(..) {
                stream.wait(&event).unwrap();
            }
            stream.wait(&y.written).unwrap();
            match kind {
                0 => {
                    let host = stream.clone_dtoh(&x.slice).unwrap();
                    stream.memcpy_htod(&host, &mut y.slice).unwrap();
                }
                1 => {
                    // The old slice is freed in the stream that made it.
                    let owner = cudarc::driver::DeviceSlice::stream(&y.slice).clone();
                    owner.join(stream).unwrap();
                    y.slice = stream.clone_dtod(&x.slice).unwrap();
                }
                2 => stream.memcpy_dtod(&x.slice, &mut y.slice).unwrap(),
                _ => saxpy(stream, &f, 0.5, &x.slice, &mut y.slice).unwrap(),
            }
            x.read.push(mark(stream));
            y.written = mark(stream);
        }
        context.synchronize().unwrap();
        let end: Vec<Vec<f32>> = slices.iter().map(|s| streams[0].clone_dtoh(&s.slice).unwrap()).collect();
        drop(slices);
        context.synchronize().unwrap();
        assert_eq!(fake.take_faults(), [], "program {program}, seed {seed}");
        assert_eq!(fake.live_bytes(), 0);
        end
    };
    for program in 0..30 {
        let want = run(program, 0);
        for seed in 1..6 {
            assert_eq!(run(program, seed), want, "program {program}, seed {seed}");
        }
    }
}

/// The same seed gives the same order, whatever ran in this process before.
#[test]
fn a_seed_is_an_order() {
    let all = || (1..=20).map(|seed| producer_and_consumer(seed, false)).collect::<Vec<_>>();
    assert_eq!(all(), all());
}

/// A host function runs in its stream's order.
#[test]
fn host_functions_keep_the_order() {
    unsafe extern "C" fn add(to: *mut std::ffi::c_void) {
        // SAFETY: the test gives a counter that lives until the stream is done.
        unsafe { &*to.cast::<std::sync::atomic::AtomicU32>() }
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    let counter = std::sync::atomic::AtomicU32::new(0);
    let (_fake, context) = reordered(2);
    let stream = context.new_stream().unwrap();
    let to = (&raw const counter).cast_mut().cast();
    // SAFETY: the counter lives until the stream is synchronised below.
    unsafe { result::stream::launch_host_function(stream.cu_stream(), add, to) }.unwrap();
    assert_eq!(counter.load(std::sync::atomic::Ordering::SeqCst), 0);
    stream.synchronize().unwrap();
    assert_eq!(counter.load(std::sync::atomic::Ordering::SeqCst), 1);
}
