//! The engine thread with a model that fails on demand. It counts: after token t comes t + 1. Or it is chained: then
//! what comes depends on all that was fed, how, and at how many converted layers.

mod fake;
mod memory;

use super::*;
use crate::adapt::{Ladder, Policy, Threshold};
use crate::backend::Held;
use crate::engine::Core;
use crate::footprint::Footprint;
use crate::prefix::Weight;
use crate::{Event, FinishReason, Generation, Request, SamplingParams};
use dsla_model::Tokenizer;
use fake::{Fake, fake};
use std::sync::atomic::{AtomicUsize, Ordering};

const VOCAB: usize = 50;
const LAYERS: usize = 4;
/// Bytes of a token in a layer, and of a layer's state.
const TOKEN: usize = 10;
const STATE: usize = 100;
/// A prompt that holds it makes every call that feeds it fail; the second also leaves a mark on the sequence.
const FAILS: u32 = 40;
const FAILS_LATE: u32 = 41;
const NAN: u32 = 42;
const PANICS: u32 = 43;

fn start(backend: &Fake, config: EngineConfig) -> Core {
    let facts = Facts {
        vocab: VOCAB,
        context: 10_000,
        text: false,
        ladder: Ladder::new(LAYERS, LAYERS, &[], None),
        policy: (0, 0),
        footprint: Footprint::new(LAYERS, TOKEN, (0..=LAYERS).map(|k| k * STATE).collect()),
        budget: config.kv_budget,
    };
    Core::start(backend.clone(), facts, config).expect("an engine")
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), params: SamplingParams { max_tokens, ..SamplingParams::default() } }
}

fn submit(core: &Core, prompt: &[u32], max_tokens: usize) -> Generation {
    core.submit(request(prompt, max_tokens)).expect("accepted")
}

fn ids(generation: Generation) -> Vec<u32> {
    generation.wait().expect("a completion").ids
}

/// Waits for what the engine thread does on its own time.
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "not in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_error_ends_its_request_and_no_other() {
    for bad in [FAILS, FAILS_LATE, NAN, PANICS] {
        let backend = fake(1);
        let core = start(&backend, EngineConfig { prefill_chunk: 4, ..EngineConfig::default() });
        let first = submit(&core, &[1], 30);
        let poisoned = submit(&core, &[2, bad, 3], 30);
        let last = submit(&core, &[3], 30);
        let error = poisoned.wait().expect_err("an error").to_string();
        let want = match bad {
            NAN => "NaN",
            PANICS => "got a panic (as ordered), want logits",
            _ => "poisoned",
        };
        assert!(error.contains(want), "{bad}: {error}");
        let count = |from: u32| (0..30).map(|i| (from + i) % 30).collect::<Vec<_>>();
        assert_eq!(ids(first), count(2), "{bad}");
        assert_eq!(ids(last), count(4), "{bad}");
        eventually("all freed", || backend.live.load(Ordering::SeqCst) == 0);
        eventually("counted", || core.shared.stats().failed == 1 && core.shared.stats().finished == 2);
        assert_eq!(core.shared.stats().reserved_bytes, 0);
    }
}

#[test]
fn a_step_that_failed_half_way_is_not_continued() {
    // The second sequence is touched by the failing call; with it gone the others run alone.
    let backend = fake(0);
    let mut batch = vec![];
    let core = start(&Fake { pause: Duration::from_millis(5), ..backend.clone() }, EngineConfig::default());
    for prompt in [[1, 2], [2, FAILS_LATE], [3, 4]] {
        batch.push(submit(&core, &prompt, 3));
    }
    let results: Vec<_> = batch.into_iter().map(|g| g.wait().map(|c| c.ids)).collect();
    assert_eq!(results[0].as_ref().ok(), Some(&vec![3, 4, 5]));
    assert!(results[1].is_err());
    assert_eq!(results[2].as_ref().ok(), Some(&vec![5, 6, 7]));
}

#[test]
fn a_panic_outside_a_step_leaves_nobody_waiting() {
    let policy = Policy::custom(|load, target| {
        assert!(load.running < 2, "as ordered");
        target
    });
    let core = start(&fake(1), EngineConfig { policy, ..EngineConfig::default() });
    let both = [[1], [2]].map(|prompt| submit(&core, &prompt, 5000));
    for generation in both {
        assert!(matches!(generation.wait(), Err(Error::Stopped)));
    }
    eventually("stopped", || matches!(core.submit(request(&[1], 1)), Err(Error::Stopped)));
    core.shutdown(Duration::MAX);
}

#[test]
fn events_end_once() {
    let core = start(&Fake { eos: vec![5], ..fake(0) }, EngineConfig::default());
    let events: Vec<Event> = submit(&core, &[2], 9).map(|e| e.expect("an event")).collect();
    let tokens: Vec<_> = events.iter().map(|e| (e.token, e.finish)).collect();
    assert_eq!(tokens, [(Some(3), None), (Some(4), None), (None, Some(FinishReason::Stop))]);
    assert_eq!(events[2].usage.generated, 2);
    let mut params = SamplingParams { max_tokens: 4, ignore_eos: true, ..SamplingParams::default() };
    params.logprobs = Some(2);
    let on =
        core.submit(Request { prompt: vec![2], params }).expect("accepted").wait().expect("a completion");
    assert_eq!((on.ids, on.finish), (vec![3, 4, 5, 6], FinishReason::Length));
    assert_eq!(on.logprobs.len(), 4);
    assert_eq!(on.logprobs[0].top[0].0, 3);
    assert_eq!(on.logprobs[0].top[0].1, on.logprobs[0].logprob);
}

#[test]
fn dropping_cancels_and_frees() {
    let backend = fake(1);
    let core = start(&backend, EngineConfig { max_running: 2, ..EngineConfig::default() });
    let (a, b, queued) = (submit(&core, &[1], 5000), submit(&core, &[1], 5000), submit(&core, &[1], 5000));
    eventually("two run", || core.shared.stats().running == 2);
    let calls = backend.calls.load(Ordering::SeqCst);
    drop((a, b, queued));
    eventually("free", || backend.live.load(Ordering::SeqCst) == 0);
    assert!(backend.calls.load(Ordering::SeqCst) <= calls + 6, "by the next steps");
    eventually("counted", || core.shared.stats().cancelled == 3);
    let stats = core.shared.stats();
    assert_eq!((stats.queued, stats.running, stats.kv_bytes, stats.reserved_bytes), (0, 0, 0, 0));
    let last = submit(&core, &[1], 5000);
    last.cancel();
    assert_eq!(last.wait().expect("an end").finish, FinishReason::Cancelled);
}

#[test]
fn the_queue_is_bounded_and_served_in_order() {
    let backend = fake(2);
    let core = start(&backend, EngineConfig { max_running: 1, max_queue: 3, ..EngineConfig::default() });
    let first = submit(&core, &[1], 20);
    eventually("it runs", || core.shared.stats().running == 1);
    let mut queued: Vec<_> = (0..3).map(|_| submit(&core, &[1], 2)).collect();
    let full = core.submit(request(&[1], 2)).expect_err("full").to_string();
    assert_eq!(full, "queue: got 3 requests waiting, want fewer than 3");
    assert_eq!(core.shared.stats().queued, 3);
    let last = queued.pop().expect("three");
    assert_eq!(ids(last), [2, 3]);
    for before in queued.iter_mut() {
        assert!(!before.events.is_empty(), "served before the last one");
    }
    assert_eq!(ids(first).len(), 20);
}

#[test]
fn shutdown_drains_then_cancels() {
    let backend = fake(1);
    let core = start(&backend, EngineConfig { max_running: 2, ..EngineConfig::default() });
    let (short, long, queued) =
        (submit(&core, &[1], 5), submit(&core, &[1], 9000), submit(&core, &[1], 9000));
    let begin = Instant::now();
    core.shutdown(Duration::from_millis(150));
    assert!(begin.elapsed() >= Duration::from_millis(150) && begin.elapsed() < Duration::from_secs(10));
    assert_eq!(short.wait().expect("drained").finish, FinishReason::Length);
    let long = long.wait().expect("cancelled");
    assert!(
        long.finish == FinishReason::Cancelled
            && long.ids.len() > 5
            && long.usage.generated == long.ids.len()
    );
    assert_eq!(queued.wait().expect("cancelled").finish, FinishReason::Cancelled);
    assert_eq!(backend.live.load(Ordering::SeqCst), 0);
    assert!(matches!(core.submit(request(&[1], 1)), Err(Error::ShuttingDown)));
    core.shutdown(Duration::MAX);
    assert!(core.shared.subscribe().recv().is_err());
}

#[test]
fn shutdown_of_an_idle_engine_and_a_generous_deadline() {
    let core = start(&fake(0), EngineConfig::default());
    let work = submit(&core, &[1], 100);
    core.shutdown(Duration::MAX);
    assert_eq!(ids(work).len(), 100);
    let core = start(&fake(0), EngineConfig::default());
    core.shutdown(Duration::ZERO);
    drop(core);
}

/// Up when a prompt of 9 tokens waits, at once; down again when none does, if it `relaxes`.
fn eager(step: usize, relaxes: bool) -> Policy {
    let (period, cooldown) = (Duration::ZERO, Duration::ZERO);
    let relax_queue = if relaxes { 0.5 } else { 0.0 };
    Policy::Threshold(Threshold {
        prompt_tokens: 9,
        period,
        cooldown,
        relax_queue,
        step,
        ..Threshold::default()
    })
}

#[test]
fn running_sequences_follow_the_target_and_pinned_ones_do_not() {
    let config = EngineConfig {
        policy: eager(3, false),
        max_folds_per_step: 2,
        prefill_chunk: 64,
        ..EngineConfig::default()
    };
    let core = start(&fake(1), config);
    let reports = core.shared.subscribe();
    let mut free = submit(&core, &[1, 2, 3], 40);
    let mut pinned = request(&[1], 40);
    pinned.params.rate = Some(0.25);
    let pinned = core.submit(pinned).expect("accepted");
    let first = free.next().expect("an event").expect("a token");
    assert_eq!((first.usage.converted, first.usage.layers), (0, 4));
    let long = submit(&core, &[1; 9], 3).wait().expect("a completion");
    assert_eq!(long.usage.converted, 3, "starts at the target");
    assert_eq!(long.usage.rate(), 0.75);
    let rates: Vec<_> = free.by_ref().map(|e| e.expect("a token").usage.converted).collect();
    assert_eq!(rates.last(), Some(&3));
    assert!(rates.windows(2).all(|w| w[0] <= w[1] && w[1] - w[0] <= 2), "{rates:?}");
    assert!(pinned.map(|e| e.expect("a token").usage.converted).all(|k| k == 1));
    eventually("idle", || core.shared.stats().running == 0);
    let stats = core.shared.stats();
    assert_eq!((stats.folds, stats.converted_max), (3, 3));
    core.shutdown(Duration::ZERO);
    let reports: Vec<_> = reports.iter().collect();
    assert!(reports.iter().all(|r| r.folds <= 2));
    assert_eq!(reports.iter().map(|r| r.folds).sum::<usize>(), 3);
    assert_eq!(reports.iter().map(|r| r.generated_tokens).sum::<usize>() as u64, stats.generated_tokens);
    assert_eq!(reports.iter().map(|r| r.prompt_tokens).sum::<usize>(), 3 + 1 + 9);
    assert_eq!(reports.len() as u64, stats.steps);
    assert!(reports.windows(2).all(|w| w[0].at <= w[1].at));
    let fold = reports.iter().position(|r| r.folds > 0).expect("a fold");
    assert!(reports[fold].stats.sequences[0].state_bytes > 0);
}

#[test]
fn an_idle_engine_returns_to_the_teacher() {
    let core = start(&fake(0), EngineConfig { policy: eager(1, true), ..EngineConfig::default() });
    assert_eq!(submit(&core, &[1; 9], 1).wait().expect("a completion").usage.converted, 1);
    eventually("no converted layers", || core.shared.stats().converted_target == 0);
}

#[test]
fn without_folding_only_new_sequences_change() {
    let off = EngineConfig { policy: eager(3, true), fold_running: false, ..EngineConfig::default() };
    let on = EngineConfig { policy: eager(3, true), ..EngineConfig::default() };
    for (backend, config) in [(fake(1), off), (Fake { foldable: false, ..fake(1) }, on)] {
        let core = start(&backend, config);
        let mut old = submit(&core, &[1], 30);
        old.next().expect("an event").expect("a token");
        assert_eq!(submit(&core, &[1; 9], 2).wait().expect("a completion").usage.converted, 3);
        assert_eq!(old.wait().expect("a completion").usage.converted, 0);
        assert_eq!(core.shared.stats().folds, 0);
    }
}

#[test]
fn the_byte_budget_holds_at_every_step() {
    // The teacher needs 4 x 10 x 30 = 1200 bytes for 30 tokens.
    let config = EngineConfig { kv_budget: Some(2500), prefill_chunk: 7, ..EngineConfig::default() };
    let core = start(&fake(1), config);
    let reports = core.shared.subscribe();
    let all: Vec<_> = (0..8).map(|_| submit(&core, &[1; 20], 10)).collect();
    for generation in all {
        assert_eq!(ids(generation).len(), 10);
    }
    let error = core.submit(request(&[1; 20], 50)).expect_err("too large").to_string();
    assert_eq!(
        error,
        "memory: a request of 70 tokens: got 2800 bytes of caches at 0 converted layers, want at most 2500"
    );
    core.shutdown(Duration::ZERO);
    let held = |r: &StepReport| r.stats.kv_bytes + r.stats.state_bytes + r.stats.prefix.bytes;
    let reports: Vec<_> = reports.iter().collect();
    assert!(
        reports.iter().all(|r| held(r) <= 2500 && r.stats.reserved_bytes <= 2500 && r.stats.running <= 2)
    );
    assert!(reports.iter().any(|r| r.stats.running == 2));
}

#[test]
fn folds_make_room_and_never_break_the_budget() {
    // 100 tokens: 4000 bytes as the teacher, 1300 with 3 of 4 layers converted.
    let config = EngineConfig { policy: eager(3, true), kv_budget: Some(4000), ..EngineConfig::default() };
    let core = start(&fake(1), config);
    let reports = core.shared.subscribe();
    let first = submit(&core, &[1; 8], 92);
    eventually("it runs", || core.shared.stats().running == 1);
    let second = submit(&core, &[1; 50], 50);
    // Short sequences hold more when converted: 2 tokens are 80 bytes, or 320.
    let short = submit(&core, &[1], 1);
    assert_eq!(ids(first).len() + ids(second).len() + ids(short).len(), 143);
    core.shutdown(Duration::ZERO);
    let reports: Vec<_> = reports.iter().collect();
    assert!(reports.iter().all(|r| r.stats.reserved_bytes <= 4000));
    assert!(reports.iter().any(|r| r.stats.running == 2), "folding the first made room for the second");
}

#[test]
fn a_policy_of_ones_own_sees_the_load() {
    let seen = Arc::new(AtomicUsize::new(0));
    let most = Arc::clone(&seen);
    let policy = Policy::custom(move |load, _| {
        most.fetch_max(load.queued_requests + load.running, Ordering::SeqCst);
        if load.running > 0 { 99 } else { 0 }
    });
    let core = start(&fake(1), EngineConfig { policy, ..EngineConfig::default() });
    let all: Vec<_> = (0..3).map(|_| submit(&core, &[1], 10)).collect();
    for generation in all {
        assert_eq!(generation.wait().expect("a completion").usage.converted, LAYERS);
    }
    assert!(seen.load(Ordering::SeqCst) >= 1);
}

fn noop() -> std::task::Context<'static> {
    std::task::Context::from_waker(std::task::Waker::noop())
}

#[test]
fn a_stream_gives_what_the_iterator_gives() {
    use futures_core::Stream;
    let core = start(&fake(0), EngineConfig::default());
    let want: Vec<Event> = submit(&core, &[2], 9).map(|e| e.expect("an event")).collect();
    let mut stream = std::pin::pin!(submit(&core, &[2], 9));
    let mut got = vec![];
    eventually("the stream's end", || {
        while let std::task::Poll::Ready(next) = stream.as_mut().poll_next(&mut noop()) {
            match next {
                Some(event) => got.push(event.expect("an event")),
                None => return true,
            }
        }
        false
    });
    assert_eq!(got, want);
}

#[test]
fn penalties_bias_and_a_least_number_of_tokens_steer_the_text() {
    let core = start(&Fake { eos: vec![5], ..fake(0) }, EngineConfig::default());
    let run = |change: fn(&mut SamplingParams)| {
        let mut request = request(&[2], 6);
        change(&mut request.params);
        let got = core.submit(request).expect("accepted").wait().expect("a completion");
        (got.ids, got.finish)
    };
    assert_eq!(run(|_| ()), (vec![3, 4], FinishReason::Stop));
    // After 4 comes 5 with logit 9 and all others have 0: with 5 out of reach the lowest id.
    let (ids, finish) = run(|p| p.min_tokens = 4);
    assert_eq!((&ids[..4], finish), (&[3, 4, 0, 1][..], FinishReason::Length));
    assert_eq!(ids.len(), 6);
    assert_eq!(run(|p| p.stop_ids = vec![4]), (vec![3], FinishReason::Stop));
    let on = run(|p| (p.ignore_eos, p.stop_ids) = (true, vec![6]));
    assert_eq!(on, (vec![3, 4, 5], FinishReason::Stop), "stop ids end it even so");
    assert_eq!(run(|p| p.logit_bias = vec![(9, 50.0)]).0, [9; 6]);
    // 9 has 10 against the 9 of what follows; once it was taken, 8.
    let (ids, _) = run(|p| (p.logit_bias, p.frequency_penalty) = (vec![(9, 10.0)], 2.0));
    assert_eq!(ids[..2], [9, 10], "a penalty takes the bias away");
}

#[test]
fn latencies_are_noted_where_they_happen() {
    let core = start(&fake(5), EngineConfig { max_running: 1, ..EngineConfig::default() });
    let all = [submit(&core, &[1, 2], 3), submit(&core, &[1], 3)];
    all.into_iter().for_each(|g| assert_eq!(ids(g).len(), 3));
    // A step is counted after its events are out.
    eventually("counted", || core.shared.stats().finished == 2);
    let l = core.shared.latency().clone();
    let counts = [&l.queue, &l.first_token, &l.whole, &l.inter_token, &l.per_token].map(|h| h.count());
    assert_eq!(counts, [2, 2, 2, 4, 2]);
    assert_eq!((l.prompt_tokens.sum(), l.generated_tokens.sum(), l.step_tokens.sum()), (3.0, 6.0, 9.0));
    assert!(l.queue.sum() >= 0.015, "the second waited for three steps of the first: {}", l.queue.sum());
    assert!(l.whole.sum() >= l.first_token.sum() + 4.0 * 0.005);
    let p50 = l.recent_inter_token.quantile(0.5).expect("tokens");
    assert!(p50 >= 0.005, "{p50}");
    assert_eq!(core.shared.stats().finished_by_length, 2);
}
