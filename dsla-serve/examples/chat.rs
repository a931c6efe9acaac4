//! A conversation in the terminal, in process: no server.
//! Run: cargo run --release -p dsla-serve --example chat -- smollm2-135m-instruct

use dsla_model::{DType, Device, Message, Model, hub};
use dsla_serve::{Engine, EngineConfig, SamplingParams};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or("smollm2-135m-instruct".into());
    let path = hub::resolve(&name, &mut |line| eprintln!("{line}"))?;
    let engine = Engine::new(Model::load(path, &Device::auto(), DType::BF16)?, EngineConfig::default())?;
    let params =
        SamplingParams { max_tokens: 400, temperature: 0.7, top_p: 0.9, ..SamplingParams::default() };
    let mut conversation = Vec::new();
    let mut line = String::new();
    loop {
        print!("> ");
        std::io::stdout().flush()?;
        line.clear();
        if std::io::stdin().read_line(&mut line)? == 0 {
            return Ok(());
        }
        conversation.push(Message::new("user", line.trim()));
        let mut answer = String::new();
        for event in engine.chat(&conversation, params.clone())? {
            let text = event?.text;
            print!("{text}");
            std::io::stdout().flush()?;
            answer.push_str(&text);
        }
        println!();
        conversation.push(Message::new("assistant", answer));
    }
}
