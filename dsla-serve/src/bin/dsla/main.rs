//! The `dsla` command line.

mod ablate;
mod args;
mod bench;
mod demo;
mod distill;
mod eval;
mod generate;
mod info;
mod layer;
mod mqar;
mod out;
#[cfg(feature = "http")]
mod replay;
mod sensitivity;
#[cfg(feature = "http")]
mod serve;
mod states;

use clap::{Parser, Subcommand};

/// Converts a pretrained Llama's attention layers into dual-state linear attention, and serves the hybrid.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Download a known model into the cache and print its path.
    Fetch(info::Fetch),
    /// Show a model's configuration, bytes by part, and an adapter's order and quality.
    Info(info::Info),
    /// One completion.
    Generate(generate::Generate),
    /// Measure quality.
    #[command(subcommand)]
    Eval(eval::Eval),
    /// Score layers: which one to convert first.
    Sensitivity(sensitivity::Sensitivity),
    /// Train an adapter.
    Distill(Box<distill::Distill>),
    /// Align many forms of the layer side by side and print what each is worth.
    Ablate(ablate::Ablate),
    /// What the two states do on a text: shares of attention by distance, half-lives, norms.
    States(states::States),
    /// Train a small model on recall tasks, convert it, and ask every form at every distance.
    Mqar(mqar::Mqar),
    /// Prefill and decode speed beside the machine's measured limits.
    Bench(bench::Bench),
    /// The main job in front of you.
    Demo(demo::Demo),
    /// Serve the model over HTTP, as OpenAI's API.
    #[cfg(feature = "http")]
    Serve(serve::Serve),
    /// Send a trace of requests to a running server and report latencies and throughput.
    #[cfg(feature = "http")]
    Replay(replay::Replay),
    /// Draw a trace of requests for `replay`.
    #[cfg(feature = "http")]
    Trace(replay::Trace),
    /// Run one paper-form layer on tensors from a file.
    Layer(layer::Layer),
}

/// `dsla info | head -1` closes our stdout early, and `println!` answers that with a panic: end quietly instead, with
/// the exit code a shell gives a process ended by SIGPIPE.
fn end_quietly_when_the_reader_is_gone() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.to_string().contains("Broken pipe") {
            std::process::exit(141);
        }
        usual(info);
    }));
}

fn main() {
    end_quietly_when_the_reader_is_gone();
    let result = match Cli::parse().command {
        Command::Fetch(c) => c.run(),
        Command::Info(c) => c.run(),
        Command::Generate(c) => c.run(),
        Command::Eval(c) => c.run(),
        Command::Sensitivity(c) => c.run(),
        Command::Distill(c) => c.run(),
        Command::Ablate(c) => c.run(),
        Command::States(c) => c.run(),
        Command::Mqar(c) => c.run(),
        Command::Bench(c) => c.run(),
        Command::Demo(c) => c.run(),
        #[cfg(feature = "http")]
        Command::Serve(c) => c.run(),
        #[cfg(feature = "http")]
        Command::Replay(c) => c.run(),
        #[cfg(feature = "http")]
        Command::Trace(c) => c.run(),
        Command::Layer(c) => c.run(),
    };
    if let Err(e) = result {
        // One line: causes follow the context, joined.
        let line = format!("{e:#}").replace(['\n', '\r'], " ");
        eprintln!("error: {line}");
        std::process::exit(1);
    }
}
