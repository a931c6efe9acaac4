//! A policy of one's own: half of the layers as soon as anybody waits, none when nobody does.
//! Run: cargo run --release -p dsla-serve --example policy -- dsla-model/adapters/smollm2-135m-instruct

use dsla_model::{DType, Device, Model, hub};
use dsla_serve::{Engine, EngineConfig, Policy, Request, SamplingParams};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let adapter = std::env::args().nth(1).unwrap_or("dsla-model/adapters/smollm2-135m-instruct".into());
    let path = hub::fetch("smollm2-135m-instruct", &mut |line| eprintln!("{line}"))?;
    let model = Model::load(path, &Device::auto(), DType::BF16)?.with_adapter(adapter)?;
    // Runs before every step on the engine thread: no clock, no I/O. The guard bounds its answer.
    let half = model.config().num_layers / 2;
    let policy = Policy::custom(move |load, _target| if load.queued_requests > 0 { half } else { 0 });
    let config =
        EngineConfig { policy, max_running: 2, max_quality_loss: Some(0.05), ..EngineConfig::default() };
    let engine = Engine::new(model, config)?;
    let params = SamplingParams { max_tokens: 32, ignore_eos: true, ..SamplingParams::default() };
    let prompt = engine.model().tokenizer()?.encode("Once upon a time", true)?;
    let all: Vec<_> = (0..6)
        .map(|_| engine.submit(Request { prompt: prompt.clone(), params: params.clone() }))
        .collect::<Result<_, _>>()?;
    for generation in all {
        let (id, done) = (generation.id(), generation.wait()?);
        println!(
            "request {id}: ended with {} of {} layers converted",
            done.usage.converted, done.usage.layers
        );
    }
    println!("{} layers were folded while their sequences ran", engine.stats().folds);
    Ok(())
}
