//! All automation of the workspace: `cargo xtask --help`.

mod clients;
mod gpu_check;
mod http;
mod peers;
mod ptx;
mod reference;
mod replay;
mod replicas;
mod served;
mod steps;
mod stress;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

xflags::xflags! {
    /// Automation of the dsla workspace.
    cmd xtask {
        /// Fetch the model the tests need, then run every test and doc test.
        cmd test {
            /// Also compare with PyTorch and transformers (what `reference` does).
            optional --peers
        }
        /// What CI runs: formatting, clippy, tidy, docs, tests.
        cmd ci {
            /// Leave the tests out.
            optional --skip-tests
        }
        /// Check what a reviewer would nag about: file sizes, dependency rules, unsafe, links, changelog.
        cmd tidy {}
        /// The PTX kernels without a GPU: every module through ptxas, resources against the committed table.
        cmd ptx {
            /// Only write every expanded module into this directory.
            optional --emit dir: PathBuf
            /// Run conformance on the simulator instead.
            optional --sim
            /// One op of `--sim` or `--report`.
            optional --op name: String
            /// What each kernel costs: registers, occupancy, instruction mix, conflicts, bytes, roofline estimates.
            optional --report
            /// The report as one JSON object.
            optional --json
            /// Write the table of resources instead of comparing with it.
            optional --bless
        }
        /// On a machine with a GPU: conformance, compute-sanitizer where it is, times; writes a record.
        cmd gpu-check {
            /// The record's file; benches/records/gpu-NAME.json when not given.
            optional --out file: PathBuf
        }
        /// Build in release mode and run the demonstration.
        cmd demo {
            /// Distil an adapter first instead of showing what is there.
            optional --distill
        }
        /// Run the benches; arguments go to criterion. With --vs: other engines and ours, in one run on one machine.
        cmd bench {
            /// Peers to measure ours against: torch,llama.cpp,vllm,candle or some of them. Installs them under target/peers.
            optional --vs list: String
            /// Prompt lengths; 512,2048,8192 when not given.
            optional --context list: String
            /// Shares of layers that ours converts; 0,0.75 when not given.
            optional --rate list: String
            /// Sequences at once; 1 when not given.
            optional --batch list: String
            /// Weights: bf16,f32,q8_0,q4_0,q4_1 or some of them; all when not given.
            optional --formats list: String
            /// Decoded tokens per measurement; 32 when not given.
            optional --tokens n: usize
            /// Rounds; every engine has its turn in each; 3 when not given.
            optional --repeats n: usize
            /// Threads of every engine; one per core when not given.
            optional --threads n: usize
            /// Where peers.json and peers.svg go; target/bench when not given.
            optional --out dir: PathBuf
            /// A dsla binary, instead of building one.
            optional --dsla path: PathBuf
            /// Also keep both in benches/records, under the machine's name and the date.
            optional --record
            /// Arguments of criterion: a filter, for example.
            repeated args: String
        }
        /// The same requests against servers of different policies, one after the other, and against others that run.
        cmd replay {
            /// A file of requests or poisson:RATE; benches/traces/burst.csv when not given.
            optional --trace trace: String
            /// Send for this long; the whole file when not given.
            optional --seconds n: String
            /// The file's times run this much faster.
            optional --speed n: String
            /// Lengths of poisson: PROMPT,GENERATED, conversation or code.
            optional --lengths lengths: String
            /// Names the prompts.
            optional --seed n: String
            /// Policies of `dsla serve`, with spaces between; "fixed:0 fixed:0.75 slo:2000,200" when not given.
            optional --policies list: String
            /// Our weights: bf16, q4_1 and so on; bf16 when not given.
            optional --dtype format: String
            /// Peers whose servers get the same requests: llama.cpp,vllm or one of them. Installs them under target/peers.
            optional --vs list: String
            /// Nats per token that conversion may cost; 0.05 when not given.
            optional --max-quality-loss kl: String
            /// NAME=URL of an OpenAI-compatible server that is running.
            repeated --url named: String
            /// Where replay.json and replay.svg go; target/replay when not given.
            optional --out dir: PathBuf
            /// A dsla binary, instead of building one.
            optional --dsla path: PathBuf
            /// Also keep both in benches/records, under the machine's name and the date.
            optional --record
        }
        /// Many streaming clients against one `dsla serve`: every text checked, memory flat, a drain at the end.
        cmd stress {
            /// Clients at once; 64 when not given.
            optional --clients n: usize
            /// Seconds; 600 when not given.
            optional --seconds n: u64
            /// A model that `dsla serve` takes; a tiny one when not given.
            optional --model name: String
            /// A dsla binary, instead of building one.
            optional --dsla path: PathBuf
            /// Where the result goes as JSON.
            optional --out file: PathBuf
        }
        /// Two `dsla serve` behind nginx: load spreads, streams flow, one is replaced and one killed without a failed request.
        cmd replicas {
            /// A dsla binary, instead of building one.
            optional --dsla path: PathBuf
        }
        /// The async-openai crate against `dsla serve`, and the server's page in headless Chromium.
        cmd clients {
            /// A dsla binary, instead of building one.
            optional --dsla path: PathBuf
        }
        /// Compare the release binary with PyTorch and transformers in a private Python environment.
        cmd reference {
            /// Where the environment goes; target/reference when not given.
            optional --out dir: PathBuf
            /// An interpreter that has the packages already: nothing is installed then.
            optional --python path: PathBuf
            /// Text files to measure perplexity on, instead of the ones in this repository.
            repeated --text file: PathBuf
        }
    }
}

fn main() -> ExitCode {
    match run(Xtask::from_env_or_exit()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Xtask) -> anyhow::Result<()> {
    // Cargo sets the variable when it runs us. The path seen by the compiler may be another clone's, where several
    // share one target directory.
    let here =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let run = steps::Steps::new(here.parent().expect("xtask lives in the workspace"))?;
    match flags.subcommand {
        XtaskCmd::Test(f) => run.test(f.peers),
        XtaskCmd::Ci(f) => run.ci(f.skip_tests),
        XtaskCmd::Tidy(_) => run.tidy(),
        XtaskCmd::Ptx(f) => ptx::run(&run, &f),
        XtaskCmd::GpuCheck(f) => gpu_check::run(&run, f.out),
        XtaskCmd::Demo(f) => run.demo(f.distill),
        XtaskCmd::Bench(f) if f.vs.is_some() => peers::run(&run, &f),
        XtaskCmd::Bench(f) => peers::only_with_vs(&f).and_then(|()| run.bench(&f.args)),
        XtaskCmd::Replay(f) => replay::run(&run, &f),
        XtaskCmd::Stress(f) => stress::run(&run, &f),
        XtaskCmd::Replicas(f) => replicas::run(&run, &f),
        XtaskCmd::Clients(f) => clients::run(&run, &f),
        XtaskCmd::Reference(f) => reference::run(&run, &f),
    }
}
