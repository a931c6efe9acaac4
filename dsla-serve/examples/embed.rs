//! The embedder's first page: load, adapt, chat, shut down.
//! Run: cargo run --release -p dsla-serve --example embed -- smollm2-135m-instruct dsla-model/adapters/smollm2-135m-instruct

use dsla_model::{DType, Device, Message, Model, hub};
use dsla_serve::{Engine, EngineConfig, Policy, SamplingParams, Threshold};
use std::io::Write;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or("usage: embed MODEL [ADAPTER]")?;
    let path = hub::resolve(&name, &mut |line| eprintln!("{line}"))?;
    let mut model = Model::load(path, &Device::auto(), DType::BF16)?;
    if let Some(adapter) = args.next() {
        model = model.with_adapter(adapter)?;
    }
    let policy = Policy::Threshold(Threshold::default());
    let engine = Engine::new(model, EngineConfig { policy, ..EngineConfig::default() })?;
    let question = Message::new("user", "Why is the sky blue?");
    let mut out = std::io::stdout();
    for event in engine.chat(&[question], SamplingParams::default())? {
        write!(out, "{}", event?.text)?;
        out.flush()?;
    }
    writeln!(out)?;
    engine.shutdown(Duration::from_secs(10));
    Ok(())
}
