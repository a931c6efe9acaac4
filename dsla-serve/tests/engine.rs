//! The engine over tiny models from files: the same tokens as the readable loop, alone or in a batch, folded or not.

use dsla_model::generate::{Options, generate};
use dsla_model::{Adapter, DType, Device, Form, Model, PrefixQuality};
use dsla_serve::{
    Completion, Engine, EngineConfig, Error, FinishReason, Policy, Request, SamplingParams, Threshold,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures").join(name)
}

fn load(name: &str, dtype: DType) -> Model {
    Model::load(fixture(name), &Device::Cpu, dtype).expect("a model")
}

/// With an untrained adapter, last layer first.
fn adapted(name: &str) -> Model {
    let model = load(name, DType::F32);
    let mut adapter = Adapter::init(&model, &Form::native()).expect("an adapter");
    for converted in 1..=adapter.order.len() {
        let kl = 0.1 * converted as f64;
        adapter.quality.push(PrefixQuality { converted, kl, ppl_ratio: 1.0, top1_agreement: 1.0, tokens: 1 });
    }
    model.with_adapter_value(adapter).expect("it fits")
}

fn engine(model: &Model, config: EngineConfig) -> Engine {
    Engine::new(model.clone(), config).expect("an engine")
}

/// Prompt number `n`: `len` ids that differ from prompt to prompt.
fn prompt(n: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((7 * i * i + 13 * n + 5 * i * n + 3) % 58 + 3) as u32).collect()
}

fn sampled(max_tokens: usize, seed: u64) -> SamplingParams {
    SamplingParams {
        max_tokens,
        temperature: 0.9,
        top_k: 30,
        top_p: 0.95,
        min_p: 0.01,
        seed,
        ignore_eos: true,
        logprobs: Some(3),
        ..SamplingParams::default()
    }
}

fn run(engine: &Engine, prompt: Vec<u32>, params: SamplingParams) -> Completion {
    engine.submit(Request { prompt, params }).expect("accepted").wait().expect("a completion")
}

fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "not in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const FIXTURES: [&str; 3] = ["tiny_tied", "tiny_llama3", "tiny_linear"];

#[test]
fn the_same_tokens_as_the_readable_loop() {
    for (name, dtype) in FIXTURES.into_iter().flat_map(|n| [(n, DType::F32), (n, DType::BF16)]) {
        let model = load(name, dtype);
        let room = model.config().max_position;
        let engine = engine(&model, EngineConfig { policy: Policy::Fixed(0.0), ..EngineConfig::default() });
        for (n, len) in [(0, 1), (1, 17), (2, room - 20)] {
            for temperature in [0.0, 0.8] {
                let mut params = SamplingParams { temperature, ..sampled(20, 5) };
                params.ignore_eos = n != 1;
                let options = Options {
                    max_tokens: 20,
                    params: dsla_model::sample::Params {
                        temperature,
                        top_k: params.top_k,
                        top_p: params.top_p,
                        min_p: params.min_p,
                        seed: params.seed,
                    },
                    ignore_eos: params.ignore_eos,
                    logprobs: params.logprobs,
                };
                let prompt =
                    prompt(n, len).iter().map(|id| id % model.config().vocab_size as u32).collect::<Vec<_>>();
                let want = generate(&model, &model.plan(0), &prompt, &options, |_| true).expect("the loop");
                let got = run(&engine, prompt, params);
                assert_eq!(got.ids, want.ids, "{name} {dtype} {n} {temperature}");
                let logprobs: Vec<_> = got.logprobs.into_iter().map(|l| (l.logprob, l.top)).collect();
                assert_eq!(logprobs, want.logprobs, "{name} {dtype} {n} {temperature}");
            }
        }
    }
}

/// From a policy it holds the engine thread.
fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn alone_or_in_a_batch_to_the_last_bit() {
    let lengths = [1, 90, 5, 40, 17];
    for rate in [0.0, 0.5, 1.0] {
        let model = adapted("tiny_tied");
        let config =
            || EngineConfig { policy: Policy::Fixed(rate), prefill_chunk: 32, ..EngineConfig::default() };
        let one = engine(&model, config());
        let alone: Vec<_> =
            (0..5).map(|n| run(&one, prompt(n, lengths[n]), sampled(30 + n, n as u64))).collect();
        let mut again = run(&one, prompt(3, 40), sampled(33, 3));
        again.usage.cached_tokens = 0;
        assert_eq!(again, alone[3], "the same seed, the same text");
        assert_ne!(run(&one, prompt(3, 40), sampled(33, 4)).ids, alone[3].ids, "another seed");
        assert!(alone.iter().all(|c| c.usage.rate() == rate));
        for max_running in [5, 2] {
            let (there, layers) = (Arc::new(AtomicBool::new(false)), (rate * 2.0) as usize);
            let waits = Arc::clone(&there);
            let policy = Policy::custom(move |_, _| {
                wait_for(&waits);
                layers
            });
            let batch = engine(&model, EngineConfig { max_running, policy, ..config() });
            let reports = batch.subscribe();
            let request =
                |n: usize| Request { prompt: prompt(n, lengths[n]), params: sampled(30 + n, n as u64) };
            let running: Vec<_> = (0..5).map(|n| batch.submit(request(n)).expect("accepted")).collect();
            there.store(true, Ordering::Release);
            for (n, generation) in running.into_iter().enumerate() {
                assert_eq!(generation.wait().expect("a completion"), alone[n], "request {n}, rate {rate}");
            }
            assert_eq!(
                reports.try_iter().map(|r| r.stats.running).max(),
                Some(max_running),
                "they did run together"
            );
        }
    }
}

#[test]
fn a_running_sequence_is_folded_and_goes_on() {
    let model = adapted("tiny_tied");
    // The engine would be done before this thread looks: its policy holds it until the second prompt is there.
    let (held, there, mut looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), 0);
    let (holds, waits) = (Arc::clone(&held), Arc::clone(&there));
    let policy = Policy::custom(move |_, _| {
        looks += 1;
        if looks <= 20 {
            return 0;
        }
        holds.store(true, Ordering::Release);
        wait_for(&waits);
        2
    });
    let config = EngineConfig { policy, max_folds_per_step: 1, max_queue: 4, ..EngineConfig::default() };
    let engine = engine(&model, config);
    let reports = engine.subscribe();
    let mut old =
        engine.submit(Request { prompt: prompt(0, 60), params: sampled(150, 1) }).expect("accepted");
    let pinned = SamplingParams { rate: Some(0.0), ..sampled(150, 1) };
    let pinned = engine.submit(Request { prompt: prompt(0, 60), params: pinned }).expect("accepted");
    let mut ids = vec![];
    for _ in 0..5 {
        let event = old.next().expect("an event").expect("a token");
        assert_eq!(event.usage.converted, 0);
        ids.extend(event.token);
    }
    wait_for(&held);
    let new = engine.submit(Request { prompt: prompt(1, 100), params: sampled(3, 0) }).expect("accepted");
    there.store(true, Ordering::Release);
    let new = new.wait().expect("a completion");
    assert_eq!(new.usage.converted, 2, "a new sequence starts at the target");
    let mut last = None;
    for event in old {
        let event = event.expect("a token");
        ids.extend(event.token);
        last = Some(event);
    }
    let last = last.expect("more events");
    assert_eq!((ids.len(), last.finish, last.usage.converted), (150, Some(FinishReason::Length), 2));
    let pinned = pinned.wait().expect("a completion");
    assert_eq!(pinned.usage.converted, 0);
    assert_eq!(ids[..5], pinned.ids[..5], "the teacher's text until the fold");
    engine.shutdown(Duration::from_secs(20));
    assert_eq!(engine.stats().folds, 2);
    let reports: Vec<_> = reports.iter().collect();
    let kv = |converted: usize| {
        let mut sequences = reports.iter().flat_map(|r| r.stats.sequences.iter().filter(|s| s.id == 0));
        let found = sequences.find(|s| s.converted == converted).expect("seen at each number of layers");
        (found.kv_bytes, found.state_bytes)
    };
    let per_layer = kv(1).0;
    assert!(per_layer > 0 && per_layer < reports.iter().map(|r| r.stats.kv_bytes).max().unwrap_or(0));
    assert_eq!(kv(2).0, 0, "keys and values are gone");
    assert!(kv(0).1 == 0 && kv(1).1 > 0 && kv(2).1 > kv(1).1);
    assert!(reports.iter().all(|r| r.folds <= 1));
}

#[test]
fn converted_under_load_and_the_teacher_again_when_idle() {
    let model = adapted("tiny_tied");
    let teacher = engine(&model, EngineConfig { policy: Policy::Fixed(0.0), ..EngineConfig::default() });
    let ask = |n: usize| Request { prompt: prompt(n, 60), params: sampled(40, n as u64) };
    let want: Vec<_> = (0..6).map(|n| run(&teacher, ask(n).prompt, ask(n).params)).collect();
    // Two that wait are a load; one alone is none.
    let threshold =
        Threshold { queued_requests: 2, prompt_tokens: 1000, step: 2, max_rate: 1.0, ..Threshold::default() };
    let quick = Threshold { period: Duration::ZERO, cooldown: Duration::ZERO, ..threshold };
    let config = EngineConfig { policy: Policy::Threshold(quick), max_running: 1, ..EngineConfig::default() };
    let adaptive = engine(&model, config);
    for _ in 0..2 {
        let burst: Vec<_> = (0..6).map(|n| adaptive.submit(ask(n)).expect("accepted")).collect();
        let usage = burst.into_iter().map(|g| g.wait().expect("a completion").usage.converted);
        let converted: Vec<_> = usage.collect();
        assert!(converted.contains(&2), "{converted:?}");
        eventually("no layers converted", || adaptive.stats().converted_target == 0);
        let mut alone = run(&adaptive, ask(3).prompt, ask(3).params);
        alone.usage.cached_tokens = want[3].usage.cached_tokens;
        assert_eq!(alone, want[3], "the teacher's tokens, to the last bit");
    }
    eventually("freed", || adaptive.stats().kv_bytes == 0);
}

#[test]
fn admission_counts_what_sequences_really_hold() {
    for rate in [0.0, 0.5, 1.0] {
        let model = adapted("tiny_tied");
        let config =
            EngineConfig { policy: Policy::Fixed(rate), kv_budget: Some(1 << 20), ..EngineConfig::default() };
        let engine = engine(&model, config);
        let reports = engine.subscribe();
        run(&engine, prompt(0, 90), sampled(30, 0));
        engine.shutdown(Duration::from_secs(20));
        let last = reports.iter().filter(|r| r.stats.running == 1).last().expect("a step").stats;
        // The last step in which it runs has fed all but the last two of its tokens: the last page is there.
        let held = last.kv_bytes + last.state_bytes;
        assert_eq!(last.reserved_bytes, held, "rate {rate}");
        assert_eq!(last.kv_bytes == 0, rate == 1.0);
    }
}

#[test]
fn cancel_on_drop_frees_bytes_and_handles_end_the_engine() {
    let engine = engine(&load("tiny_tied", DType::F32), EngineConfig::default());
    let mut dropped =
        engine.submit(Request { prompt: prompt(0, 50), params: sampled(200, 0) }).expect("accepted");
    dropped.next().expect("an event").expect("a token");
    drop(dropped);
    eventually("freed", || engine.stats().kv_bytes == 0 && engine.stats().running == 0);
    let other = engine.clone();
    let running = other.submit(Request { prompt: prompt(0, 50), params: sampled(200, 0) }).expect("accepted");
    drop(engine);
    let reports = other.subscribe();
    drop(other);
    // The last handle has ended the thread, so all that can come has come.
    let end = running.wait().expect("an end");
    assert!(matches!(end.finish, FinishReason::Cancelled | FinishReason::Length));
    assert_eq!(reports.iter().filter(|r| r.stats.running > 1).count(), 0);
}

#[test]
fn bad_requests_leave_the_engine_serving() {
    let model = adapted("tiny_tied");
    let config =
        EngineConfig { kv_budget: Some(40_000), max_quality_loss: Some(0.15), ..EngineConfig::default() };
    let engine = engine(&model, config);
    let good = sampled(4, 0);
    let room = model.config().max_position;
    let refused = |prompt: Vec<u32>, params: SamplingParams, want: &str| {
        let error = engine.submit(Request { prompt, params }).expect_err(want).to_string();
        assert!(error.contains(want), "{error}: should say {want}");
        assert!(!error.contains('\n'));
    };
    refused(vec![], good.clone(), "prompt: got no tokens");
    refused(vec![1, 61], good.clone(), "id 61 at 1, want ids below 61");
    refused(prompt(0, room), good.clone(), "want at most 256 in all");
    refused(vec![1], SamplingParams { top_p: 1.5, ..good.clone() }, "top_p: got 1.5");
    refused(vec![1], SamplingParams { temperature: f32::INFINITY, ..good.clone() }, "temperature: got inf");
    refused(vec![1], SamplingParams { stop: vec!["a".into()], ..good.clone() }, "no tokenizer");
    refused(
        vec![1],
        SamplingParams { rate: Some(1.0), ..good.clone() },
        "at most 1 layers (of 2 by max_quality_loss)",
    );
    refused(prompt(0, 200), SamplingParams { max_tokens: 50, ..good.clone() }, "want at most 40000");
    assert!(matches!(engine.complete("text", good.clone()), Err(Error::Model(_))));
    assert!(matches!(engine.chat(&[], good.clone()), Err(Error::Model(_))));
    assert_eq!(run(&engine, vec![1], good).ids.len(), 4);
    assert_eq!(engine.stats().failed, 0, "they never reached the engine thread");
}

#[test]
fn configurations_that_cannot_be() {
    let plain = load("tiny_tied", DType::F32);
    let adapted = adapted("tiny_tied");
    let refused = |model: &Model, config: EngineConfig, want: &str| {
        let error = Engine::new(model.clone(), config).expect_err(want).to_string();
        assert!(error.contains(want), "{error}: should say {want}");
    };
    let default = EngineConfig::default;
    refused(&plain, EngineConfig { max_running: 0, ..default() }, "max_running: got 0, want 1 or more");
    refused(
        &plain,
        EngineConfig { policy: Policy::Fixed(0.5), ..default() },
        "at most 0 layers (without an adapter)",
    );
    refused(&plain, EngineConfig { max_quality_loss: Some(-1.0), ..default() }, "max_quality_loss: got -1");
    let strict = EngineConfig { policy: Policy::Fixed(1.0), max_quality_loss: Some(0.15), ..default() };
    refused(&adapted, strict, "got 1 = 2 layers, want at most 1 layers (of 2 by max_quality_loss)");
    let engine =
        engine(&plain, EngineConfig { policy: Policy::Threshold(Threshold::default()), ..default() });
    assert_eq!(engine.stats().converted_max, 0, "without an adapter there is nothing to convert");
}
