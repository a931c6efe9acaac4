//! All automation of the workspace: `cargo xtask --help`.

mod gpu_check;
mod ptx;
mod reference;
mod steps;
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
        /// Run the benches; arguments go to criterion.
        cmd bench {
            /// Arguments of criterion: a filter, for example.
            repeated args: String
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
        XtaskCmd::Bench(f) => run.bench(&f.args),
        XtaskCmd::Reference(f) => reference::run(&run, &f),
    }
}
