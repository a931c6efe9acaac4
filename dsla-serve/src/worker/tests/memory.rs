//! The prefix cache and preemption, over the chained model: one token, piece or fold out of place changes all that follows.

use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;

fn chained(pause_ms: u64) -> Fake {
    Fake { chained: true, grain: Some(8), ..fake(pause_ms) }
}

fn prompt(n: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i + 7 * n + i * n) % 30) as u32).collect()
}

fn pinned(prompt: &[u32], max_tokens: usize, rate: f64) -> Request {
    let mut request = request(prompt, max_tokens);
    request.params.rate = Some(rate);
    request
}

/// What the model says when a token of its text is drawn at each of these numbers of converted layers.
fn reference(prompt: &[u32], converted: &[usize]) -> Vec<u32> {
    reference_of(prompt, &[(prompt.len(), converted[0])], converted)
}

/// The same when the prompt is fed in pieces: where each ends, and its number of converted layers.
fn reference_of(prompt: &[u32], pieces: &[(usize, usize)], converted: &[usize]) -> Vec<u32> {
    let model = chained(0);
    let mut seq = model.start(pieces[0].1).expect("a sequence");
    let mut feed = |tokens: &[u32], k: usize| {
        while seq.converted < k {
            model.fold(&mut seq).expect("a fold");
        }
        let logits =
            model.forward(&mut [Feed { seq: &mut seq, tokens, logits: Want::Last }]).expect("logits");
        logits.f32().iter().position(|x| *x > 0.0).expect("one") as u32
    };
    let (mut at, mut next) = (0, 0);
    for &(end, k) in pieces {
        next = feed(&prompt[at..end], k);
        at = end;
    }
    let mut ids = vec![next];
    for &k in &converted[1..] {
        ids.push(feed(&[ids[ids.len() - 1]], k));
    }
    ids
}

/// The engine waits for all requests before it admits the first.
fn together(
    backend: &Fake,
    config: EngineConfig,
    requests: Vec<Request>,
) -> (Core, Vec<Generation>, Receiver<StepReport>) {
    let (there, max_queue) = (Arc::new(AtomicBool::new(false)), requests.len().max(1));
    let waits = Arc::clone(&there);
    let mut inner = config.policy;
    let policy = Policy::custom(move |load, target| {
        while !waits.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        match &mut inner {
            Policy::Custom(decide) => decide(load, target),
            _ => 0,
        }
    });
    let core = start(backend, EngineConfig { policy, max_queue, ..config });
    let all = requests.into_iter().map(|r| core.submit(r).expect("accepted")).collect();
    let reports = core.shared.subscribe();
    there.store(true, Ordering::Release);
    (core, all, reports)
}

#[test]
fn a_hit_changes_nothing_but_the_work() {
    let backend = chained(0);
    let config = || EngineConfig { prefill_chunk: 32, snapshot_every: 32, ..EngineConfig::default() };
    let first = prompt(1, 100);
    let turn = [&first[..], &prompt(2, 30)].concat();
    for rate in [0.0, 0.5, 1.0] {
        let core = start(&backend, config());
        let run = |p: &[u32]| {
            let got = core.submit(pinned(p, 20, rate)).expect("accepted").wait().expect("a completion");
            assert_eq!(got.ids, reference(p, &[(rate * 4.0) as usize; 20]));
            got.usage.cached_tokens
        };
        assert_eq!(run(&first), 0);
        assert_eq!(run(&first), 80, "the last cut that leaves 17 tokens");
        assert_eq!(run(&turn), 80, "the next turn of a chat");
        assert_eq!(run(&turn), 112);
        // The first two turns stay with the one cut that they have in common; a third part has a cut of its own.
        assert_eq!(run(&[&first[..50], &prompt(3, 30)].concat()), 32, "a whole chunk");
        assert_eq!(run(&[&first[..50], &prompt(4, 30)].concat()), 48, "where the last one left the first");
        let mut out = pinned(&turn, 20, rate);
        out.params.cache_prompt = false;
        let out = core.submit(out).expect("accepted").wait().expect("a completion");
        assert_eq!(out.usage.cached_tokens, 0, "its wish");
        eventually("counted", || core.shared.stats().finished == 7);
        let stats = core.shared.stats();
        assert_eq!(stats.prefix.hits, 80 + 80 + 112 + 32 + 48);
        assert_eq!(stats.prefix.queries - stats.prefix.hits + turn.len() as u64, stats.prompt_tokens);
        assert_eq!(stats.prefix.other_rate, 0);
        drop(core);
        assert_eq!(backend.live.load(Ordering::SeqCst), 0, "the cache went too");
    }
}

#[test]
fn prompts_that_come_together_are_fed_once() {
    let config = EngineConfig { prefill_chunk: 32, snapshot_every: 32, ..EngineConfig::default() };
    let first = prompt(1, 100);
    let other = |n| [&first[..50], &prompt(n, 30)].concat();
    let prompts = [first.clone(), first.clone(), first.clone(), other(2), other(3), prompt(9, 60)];
    let ask = |p: &Vec<u32>| request(p, 10);
    let (core, all, _) = together(&chained(0), config, prompts.iter().map(ask).collect());
    let mut cached = vec![];
    for (p, generation) in prompts.iter().zip(all) {
        let got = generation.wait().expect("a completion");
        assert_eq!(got.ids, reference(p, &[0; 10]));
        cached.push(got.usage.cached_tokens);
    }
    // The fourth was still in the queue when the first passed token 48: a whole chunk of it serves, and from there on
    // the fourth itself leaves a cut for the fifth.
    assert_eq!(cached, [0, 80, 80, 32, 48, 0]);
    eventually("counted", || core.shared.stats().finished == 6);
    assert_eq!(core.shared.stats().prompt_tokens, 100 + 20 + 20 + 48 + 32 + 60);
}

#[test]
fn nobody_waits_for_a_snapshot_that_is_not_kept() {
    let config =
        EngineConfig { prefill_chunk: 32, snapshot_every: 32, prefix_cache: 1, ..EngineConfig::default() };
    let ask = |_| request(&prompt(1, 100), 10);
    let (core, all, _) = together(&chained(0), config, (0..3).map(ask).collect());
    for generation in all {
        let got = generation.wait().expect("a completion");
        assert_eq!((got.ids, got.usage.cached_tokens), (reference(&prompt(1, 100), &[0; 10]), 0));
    }
    assert_eq!(core.shared.stats().prefix.entries, 0);
}

#[test]
fn another_rate_is_no_hit_and_counted() {
    let core =
        start(&chained(0), EngineConfig { prefill_chunk: 32, snapshot_every: 32, ..EngineConfig::default() });
    let p = prompt(1, 100);
    for (rate, cached) in [(0.0, 0), (0.5, 0), (0.5, 80), (0.0, 80)] {
        let got = core.submit(pinned(&p, 5, rate)).expect("accepted").wait().expect("a completion");
        assert_eq!(got.usage.cached_tokens, cached);
        assert_eq!(got.ids, reference(&p, &[(rate * 4.0) as usize; 5]));
    }
    assert_eq!(core.shared.stats().prefix.other_rate, 80);
}

#[test]
fn folding_a_sequence_leaves_the_snapshot_alone() {
    let target = Arc::new(AtomicUsize::new(0));
    let wish = Arc::clone(&target);
    let policy = Policy::custom(move |_, _| wish.load(Ordering::SeqCst));
    let core = start(
        &chained(1),
        EngineConfig { policy, prefill_chunk: 32, snapshot_every: 32, ..EngineConfig::default() },
    );
    let p = prompt(1, 60);
    for cached in [0, 40, 40] {
        target.store(0, Ordering::SeqCst);
        let mut folded = submit(&core, &p, 40);
        let mut events = vec![folded.next().expect("an event").expect("a token")];
        target.store(4, Ordering::SeqCst);
        events.extend(folded.map(|e| e.expect("a token")));
        let ids: Vec<u32> = events.iter().filter_map(|e| e.token).collect();
        let converted: Vec<usize> = events.iter().map(|e| e.usage.converted).collect();
        assert_eq!((events[0].usage.cached_tokens, converted[0], converted[39]), (cached, 0, 4));
        assert_eq!(ids, reference(&p, &converted));
    }
}

#[test]
fn a_sequence_of_a_slot_that_was_used_knows_nothing_of_it() {
    let core =
        start(&chained(0), EngineConfig { max_running: 1, prefill_chunk: 8, ..EngineConfig::default() });
    for n in 0..20 {
        // Prompts that share nothing, a part, or all with the ones before.
        let p = [&prompt(1, 10 * (n % 4))[..], &prompt(n % 3, 30)].concat();
        assert_eq!(ids(submit(&core, &p, 10)), reference_in(&p, 8, 10), "{n}");
    }
    assert!(core.shared.stats().prefix.hits > 0);
}

/// Text at no converted layers; pieces do not matter unless they are single tokens.
fn reference_in(prompt: &[u32], chunk: usize, tokens: usize) -> Vec<u32> {
    assert_ne!(prompt.len() % chunk, 1, "the last piece of more than one token");
    reference(prompt, &vec![0; tokens])
}

#[test]
fn the_cache_gives_way_before_anyone_waits() {
    // A token is 40 bytes: 100 of them.
    let budget = 4000;
    let config = EngineConfig {
        kv_budget: Some(budget),
        prefill_chunk: 32,
        snapshot_every: 32,
        ..EngineConfig::default()
    };
    let backend = chained(0);
    let core = start(&backend, config);
    let reports = core.shared.subscribe();
    for n in 0..6 {
        assert_eq!(ids(submit(&core, &prompt(n, 40), 5)), reference(&prompt(n, 40), &[0; 5]));
    }
    eventually("counted", || core.shared.stats().finished == 6);
    let stats = core.shared.stats();
    assert!(stats.prefix.entries > 0 && stats.prefix.evictions > 0, "{:?}", stats.prefix);
    let large = core.submit(request(&prompt(9, 90), 10)).expect("accepted");
    assert_eq!(ids(large).len(), 10);
    core.shutdown(Duration::from_secs(20));
    let reports: Vec<_> = reports.iter().collect();
    let all = |r: &StepReport| r.stats.kv_bytes + r.stats.state_bytes + r.stats.prefix.bytes;
    assert!(reports.iter().all(|r| all(r) <= budget && r.stats.preemptions == 0));
    assert_eq!(backend.live.load(Ordering::SeqCst), 0);
}

#[test]
fn zero_bytes_switch_it_off() {
    let config = EngineConfig { prefix_cache: 0, prefill_chunk: 8, ..EngineConfig::default() };
    let core = start(&chained(0), config);
    for _ in 0..2 {
        let got = submit(&core, &prompt(1, 60), 3).wait().expect("a completion");
        assert_eq!((got.ids, got.usage.cached_tokens), (reference(&prompt(1, 60), &[0; 3]), 0));
    }
    assert_eq!(core.shared.stats().prefix, crate::PrefixStats::default());
}

#[test]
fn a_preempted_text_is_the_text() {
    // 240 tokens of 40 bytes each: three fit at first, and one at the end.
    let budget = 12_600;
    for prefix_cache in [0, 1 << 20] {
        let backend = chained(0);
        let config = EngineConfig {
            kv_budget: Some(budget),
            prefix_cache,
            prefill_chunk: 16,
            max_running: 8,
            ..EngineConfig::default()
        };
        let ask = |n: usize| request(&prompt(n, 40), 200);
        let (core, all, reports) = together(&backend, config, (0..6).map(ask).collect());
        for (n, generation) in all.into_iter().enumerate() {
            // Every event once, in order, as if nothing had happened.
            let events: Vec<Event> = generation.map(|e| e.expect("an event")).collect();
            let got: Vec<u32> = events.iter().filter_map(|e| e.token).collect();
            assert_eq!(got, reference(&prompt(n, 40), &[0; 200]), "{n}");
            assert!(events.iter().enumerate().all(|(i, e)| e.usage.generated == i + 1));
        }
        eventually("counted", || core.shared.stats().finished == 6);
        let stats = core.shared.stats();
        assert!(stats.preemptions > 0 && stats.recomputed_tokens > 0);
        assert_eq!((stats.generated_tokens, stats.prompt_tokens), (6 * 200, 6 * 40), "once each");
        let held = |r: &StepReport| r.stats.kv_bytes + r.stats.state_bytes + r.stats.prefix.bytes;
        assert!(reports.try_iter().all(|r| held(&r) <= budget && r.stats.reserved_bytes <= budget));
        let queue = core.shared.latency().queue.count();
        assert_eq!(queue, 6, "a request is admitted once");
    }
}

#[test]
fn what_was_folded_is_folded_again_at_the_same_place() {
    // Three run; folding one of four layers lets them go on to 136 tokens each, then the third has to leave, and at 206 the
    // second.
    let mut looks = 0;
    let policy = Policy::custom(move |_, _| {
        looks += 1;
        usize::from(looks > 40)
    });
    let config =
        EngineConfig { policy, kv_budget: Some(12_600), prefill_chunk: 64, ..EngineConfig::default() };
    let ask = |n: usize| request(&prompt(n, 40), 200);
    let (core, all, reports) = together(&chained(0), config, (0..3).map(ask).collect());
    for (n, generation) in all.into_iter().enumerate() {
        let events: Vec<Event> = generation.map(|e| e.expect("an event")).collect();
        let got: Vec<u32> = events.iter().filter_map(|e| e.token).collect();
        let converted: Vec<usize> = events.iter().map(|e| e.usage.converted).collect();
        let at = converted.iter().position(|k| *k == 1).expect("a fold");
        assert!((30..60).contains(&at), "{at}");
        assert_eq!(got, reference(&prompt(n, 40), &converted), "{n}");
    }
    core.shutdown(Duration::from_secs(20));
    let stats = core.shared.stats();
    assert!((stats.preemptions, stats.folds) == (2, 3), "{stats:?}");
    assert!(stats.recomputed_tokens > 130, "far beyond its fold");
    let held = |r: &StepReport| r.stats.kv_bytes + r.stats.state_bytes;
    assert!(reports.iter().map(|r| held(&r)).max().is_some_and(|most| most > 12_000), "memory is used");
}

#[test]
fn a_fold_within_the_prompt_is_repeated_there() {
    // The second has another rate, so the third only learns from it where to cut: at 40, and is folded there. Fed again it
    // knows its own cuts alone.
    let mut looks = 0;
    let policy = Policy::custom(move |_, _| {
        looks += 1;
        usize::from(looks >= 4)
    });
    let config =
        EngineConfig { policy, kv_budget: Some(12_000), prefill_chunk: 64, ..EngineConfig::default() };
    let third = [&prompt(1, 60)[..], &prompt(2, 20)].concat();
    let asked = vec![request(&prompt(0, 40), 200), pinned(&prompt(1, 60), 1, 0.25), request(&third, 150)];
    let (core, mut all, reports) = together(&chained(0), config, asked);
    let events: Vec<Event> = all.remove(2).map(|e| e.expect("an event")).collect();
    all.into_iter().for_each(|generation| assert!(generation.wait().is_ok()));
    core.shutdown(Duration::from_secs(20));
    assert_eq!(core.shared.stats().preemptions, 1);
    let fed: Vec<_> =
        reports.iter().flat_map(|r| r.stats.sequences).filter(|s| s.id == 2 && s.prompt_fed > 0).collect();
    assert_eq!((fed[0].prompt_fed, fed[0].converted, fed[1].converted), (40, 0, 1), "{:?}", &fed[..2]);
    let got: Vec<u32> = events.iter().filter_map(|e| e.token).collect();
    assert_eq!(got, reference_of(&third, &[(40, 0), (80, 1)], &[1; 150]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Under a budget too small for all and a policy that folds at some steps: everyone ends, with the text that its own
    /// pieces and conversions give, as the reports show them, and no step holds more than the budget.
    #[test]
    fn preempted_and_folded(
        requests in prop::collection::vec((2usize..90, 1usize..160, any::<bool>()), 2..8),
        rises in prop::collection::vec(0usize..60, 0..4),
        spare in 0usize..3000,
        prefix_cache in prop::sample::select(vec![0usize, 2000, 1 << 20]),
        prefill_chunk in prop::sample::select(vec![8usize, 32, 64]),
        max_folds_per_step in 1usize..4,
    ) {
        let peak = |r: &(usize, usize, bool)| (r.0 + r.1) * 40;
        let budget = requests.iter().map(peak).max().unwrap_or(0) + spare;
        let mut looks = 0;
        let policy = Policy::custom(move |_, _| {
            looks += 1;
            rises.iter().filter(|at| **at < looks).count()
        });
        let config = EngineConfig {
            policy,
            kv_budget: Some(budget),
            prefix_cache,
            prefill_chunk,
            max_folds_per_step,
            ..EngineConfig::default()
        };
        let backend = chained(0);
        // Every other prompt begins as the one before.
        let prompts: Vec<_> = requests.iter().enumerate().map(|(n, r)| prompt(n / 2, r.0)).collect();
        let asked = requests.iter().zip(&prompts).map(|(r, prompt)| {
            let mut request = request(prompt, r.1);
            request.params.rate = r.2.then_some(0.0);
            request
        });
        let (core, all, reports) = together(&backend, config, asked.collect());
        let all: Vec<Vec<Event>> =
            all.into_iter().map(|generation| generation.map(|e| e.expect("an event")).collect()).collect();
        core.shutdown(Duration::from_secs(20));
        let reports: Vec<_> = reports.iter().collect();
        for (n, events) in all.into_iter().enumerate() {
            let got: Vec<u32> = events.iter().filter_map(|e| e.token).collect();
            let converted: Vec<usize> = events.iter().map(|e| e.usage.converted).collect();
            prop_assert_eq!(got.len(), requests[n].1);
            let mut pieces: Vec<(usize, usize)> = vec![];
            for s in reports.iter().flat_map(|r| &r.stats.sequences).filter(|s| s.id == n as u64) {
                let before = pieces.last().map_or(0, |p| p.0);
                // What is fed again after a preemption is as it was.
                if s.prompt_fed > before && s.prompt_fed < s.prompt_tokens {
                    pieces.push((s.prompt_fed, s.converted));
                }
            }
            pieces.push((prompts[n].len(), converted[0]));
            prop_assert_eq!(got, reference_of(&prompts[n], &pieces, &converted), "{} {:?}", n, pieces);
        }
        for r in reports {
            prop_assert!(r.stats.kv_bytes + r.stats.state_bytes + r.stats.prefix.bytes <= budget);
            prop_assert!(r.stats.reserved_bytes <= budget);
        }
        prop_assert_eq!(backend.live.load(Ordering::SeqCst), 0);
    }
}
