//! `cargo xtask bench --vs`: other engines and ours on the same model, in one run on one machine.
//!
//! Each engine with each format is a process that loads once and answers jobs (`xtask/peers/peer.py` has the protocol);
//! all of them take turns, so that a slow minute of the machine hits everyone. What cannot be installed, refuses or
//! dies is a line with its reason, and the run goes on.

mod engine;
mod install;
pub mod machine;
pub mod plot;
mod rows;
pub mod serve;
mod table;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use xshell::cmd;

use crate::steps::{MODEL, Steps};
use engine::Engine;
use install::Installer;
use rows::{Facts, Limits, OURS, Settings};

const PEERS: [&str; 4] = ["torch", "llama.cpp", "vllm", "candle"];
const FORMATS: [&str; 5] = ["bf16", "f32", "q8_0", "q4_0", "q4_1"];
/// Those that `convert.py` makes a GGUF file of, beside bf16.
const QUANTISED: [&str; 3] = ["q8_0", "q4_0", "q4_1"];
/// Long enough for the threads of OpenMP to stop spinning.
const PAUSE: Duration = Duration::from_millis(300);

/// The formats that an engine is asked to run; ours says itself which ones it has.
fn has(engine: &str, format: &str) -> bool {
    match engine {
        OURS => true,
        "llama.cpp" => format != "f32",
        _ => matches!(format, "bf16" | "f32"),
    }
}

pub fn run(steps: &Steps, flags: &crate::Bench) -> Result<()> {
    let peers = words("--vs", flags.vs.as_deref().unwrap_or(""), &PEERS)?;
    let formats =
        words("--formats", flags.formats.as_deref().unwrap_or("bf16,f32,q8_0,q4_0,q4_1"), &FORMATS)?;
    let settings = Settings {
        contexts: numbers("--context", flags.context.as_deref().unwrap_or("512,2048,8192"))?,
        rates: numbers("--rate", flags.rate.as_deref().unwrap_or("0,0.75"))?,
        batches: numbers("--batch", flags.batch.as_deref().unwrap_or("1"))?,
        tokens: flags.tokens.unwrap_or(32),
        repeats: flags.repeats.unwrap_or(3),
    };
    if settings.tokens == 0
        || settings.repeats == 0
        || settings.contexts.iter().chain(&settings.batches).any(|&n| n == 0)
    {
        bail!("bench: got a zero among --context, --batch, --tokens, --repeats, want 1 or more");
    }
    if let Some(r) = settings.rates.iter().find(|r| !(0.0..=1.0).contains(*r)) {
        bail!("--rate: got {r}, want a share between 0 and 1");
    }
    let threads = match flags.threads.unwrap_or(0) {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    if !flags.args.is_empty() {
        bail!("bench: got `{}` with --vs, want no arguments: they are criterion's", flags.args.join(" "));
    }
    let out = flags.out.clone().map_or_else(|| steps.target().join("bench"), |dir| steps.root.join(dir));
    let setup = Setup::new(steps, flags.dsla.clone(), threads, &settings)?;
    // Now: loading the engines is work too.
    let machine = machine::fingerprint(&steps.sh, threads);
    let mut engines = steps.step("load every engine", || setup.engines(&peers, &formats))?;
    let facts = setup.models.as_ref().ok().map(|dir| dir.join("facts.json"));
    let facts = facts.and_then(|f| serde_json::from_str(&std::fs::read_to_string(f).ok()?).ok());
    let limits = Limits::of(&engines);
    let rows = steps.step("measure, every engine in turn", || {
        Ok(rows::measure(&mut engines, &settings, &Facts(facts.unwrap_or(Value::Null)), limits, PAUSE))
    })?;
    print!("{}", table::render(&engines, &rows, limits));
    let result = result(&machine, &settings, &engines, &rows, limits);
    let title = format!(
        "{MODEL}, {threads} threads on {}, {}",
        machine["cpu"].as_str().unwrap_or("?"),
        machine["date"].as_str().unwrap_or("?")
    );
    let files = [("json", pretty(&result)?), ("svg", plot::svg(&title, &rows))];
    write(&out, "peers", &files)?;
    if flags.record {
        write(&steps.root.join("benches/records"), &machine::record_name("peers", &machine), &files)?;
    }
    Ok(())
}

/// Criterion knows none of our flags: without `--vs` they are a mistake.
pub fn only_with_vs(flags: &crate::Bench) -> Result<()> {
    let crate::Bench {
        vs: _,
        context,
        rate,
        batch,
        formats,
        tokens,
        repeats,
        threads,
        out,
        dsla,
        record,
        args: _,
    } = flags;
    let lists = [("context", context), ("rate", rate), ("batch", batch), ("formats", formats)];
    let counts = [("tokens", tokens), ("repeats", repeats), ("threads", threads)];
    let paths = [("out", out), ("dsla", dsla)];
    let given = (lists.iter().filter(|(_, v)| v.is_some()).map(|(name, _)| *name))
        .chain(counts.iter().filter(|(_, v)| v.is_some()).map(|(name, _)| *name))
        .chain(paths.iter().filter(|(_, v)| v.is_some()).map(|(name, _)| *name))
        .chain(record.then_some("record"));
    match given.into_iter().next() {
        Some(name) => bail!("--{name}: got no --vs, want --vs {} or some of them", PEERS.join(",")),
        None => Ok(()),
    }
}

/// The items of a comma-separated list; each must be one of `known`.
fn words<'a>(flag: &str, list: &'a str, known: &[&str]) -> Result<Vec<&'a str>> {
    let items: Vec<&str> = list.split(',').map(str::trim).collect();
    match items.iter().find(|item| !known.contains(item)) {
        Some(item) => bail!("{flag}: got `{item}`, want some of {}", known.join(",")),
        None => Ok(items),
    }
}

fn numbers<T: std::str::FromStr>(flag: &str, list: &str) -> Result<Vec<T>> {
    let number =
        |item: &str| item.trim().parse().ok().with_context(|| format!("{flag}: got `{item}`, want numbers"));
    list.split(',').map(number).collect()
}

/// What all engines have in common.
struct Setup {
    installer: Installer,
    dsla: PathBuf,
    model: PathBuf,
    /// The folder of converted models, or why there is none.
    models: Result<PathBuf, String>,
    threads: usize,
    positions: usize,
    /// For `dsla bench --context`.
    longest: usize,
    tokens: usize,
    batch: usize,
    logs: PathBuf,
}

impl Setup {
    fn new(steps: &Steps, dsla: Option<PathBuf>, threads: usize, settings: &Settings) -> Result<Setup> {
        let sh = &steps.sh;
        let dsla = match dsla {
            Some(path) => path,
            None => steps.step("build the release binary", || steps.release())?,
        };
        let model = steps.step("fetch the model, unless it is cached", || fetched(steps, &dsla))?;
        let installer = Installer::new(steps);
        let logs = installer.home.join("logs");
        sh.create_dir(&logs)?;
        let models = steps.step("the model in the formats of the peers", || installer.models(&model));
        let longest = settings.contexts.iter().max().copied().unwrap_or(0);
        Ok(Setup {
            dsla,
            model,
            models: models.map_err(|e| format!("{e:#}")),
            threads,
            // Some room: vLLM runs a few tokens ahead where several sequences start.
            positions: (longest + settings.tokens + 64).next_multiple_of(256),
            longest,
            tokens: settings.tokens,
            batch: settings.batches.iter().max().copied().unwrap_or(1),
            logs,
            installer,
        })
    }

    /// Ours and the peers, loaded one after the other.
    fn engines(&self, peers: &[&str], formats: &[&str]) -> Result<Vec<Engine>> {
        let mut engines = Vec::new();
        for name in [OURS].iter().chain(peers) {
            let mut wanted = formats.iter().filter(|f| has(name, f)).peekable();
            if wanted.peek().is_none() {
                engines.push(Engine::refused(name, "", &format!("has none of {}", formats.join(","))));
                continue;
            }
            let program = match self.program(name) {
                Ok(program) => program,
                Err(e) => {
                    engines.push(Engine::refused(name, "", &format!("not installed: {e:#}")));
                    continue;
                }
            };
            for format in wanted {
                let mut command = self.command(name, &program, format);
                command.envs(self.variables());
                let engine =
                    Engine::start(name, format, command, &self.logs.join(format!("{name}-{format}.log")));
                let state = engine.error.as_deref().unwrap_or("ready");
                eprintln!("xtask: {}: {state}", engine.label());
                engines.push(engine);
            }
        }
        if engines.iter().all(|e| e.error.is_some()) {
            bail!("no engine runs: {}", engines[0].error.as_deref().unwrap_or("?"));
        }
        Ok(engines)
    }

    /// The binary, or the interpreter of the peer's environment.
    fn program(&self, name: &str) -> Result<PathBuf> {
        if name == OURS {
            return Ok(self.dsla.clone());
        }
        if let Err(reason) = &self.models {
            bail!("no model for it: {reason}");
        }
        if name == "candle" { self.installer.candle() } else { self.installer.python(name) }
    }

    fn command(&self, name: &str, program: &Path, format: &str) -> Command {
        let mut command = Command::new(program);
        if name == OURS {
            command.args(["bench", MODEL, "--jobs", "--device", "cpu", "--dtype", format, "--batch", "1"]);
            let numbers =
                [("--threads", self.threads), ("--context", self.longest), ("--tokens", self.tokens)];
            for (flag, n) in numbers {
                command.arg(flag).arg(n.to_string());
            }
            return command;
        }
        let models = self.models.as_ref().map_or(self.model.as_path(), PathBuf::as_path);
        let model =
            if name == "llama.cpp" { models.join(format!("{format}.gguf")) } else { models.join("hf") };
        if name != "candle" {
            command.arg(self.installer.scripts.join(format!("run_{}.py", name.replace('.', "_"))));
        }
        command.arg("--model").arg(model).args(["--format", format]);
        let numbers = [("--threads", self.threads), ("--positions", self.positions), ("--batch", self.batch)];
        for (flag, n) in numbers {
            command.arg(flag).arg(n.to_string());
        }
        command
    }

    /// The same number of threads for everyone, whichever variable it reads; what vLLM compiles stays with vLLM.
    fn variables(&self) -> Vec<(&'static str, String)> {
        variables(&self.installer, self.threads)
    }
}

fn variables(installer: &Installer, threads: usize) -> Vec<(&'static str, String)> {
    let threads = |name| (name, threads.to_string());
    let vllm = ("VLLM_CACHE_ROOT", installer.home.join("vllm/cache").display().to_string());
    vec![threads("OMP_NUM_THREADS"), threads("RAYON_NUM_THREADS"), threads("MKL_NUM_THREADS"), vllm]
}

/// The file of the model, which is fetched unless it is there.
fn fetched(steps: &Steps, dsla: &Path) -> Result<PathBuf> {
    let fetched = cmd!(steps.sh, "{dsla} fetch {MODEL} --json").read()?;
    let fetched: Value = serde_json::from_str(&fetched).context("dsla fetch --json")?;
    Ok(PathBuf::from(fetched["path"].as_str().context("dsla fetch --json names no path")?))
}

fn result(
    machine: &Value,
    settings: &Settings,
    engines: &[Engine],
    rows: &[rows::Row],
    limits: Limits,
) -> Value {
    let engines: Vec<Value> = engines
        .iter()
        .map(|e| {
            json!({
                "engine": e.name, "format": e.format, "version": e.facts["version"], "error": e.error,
                "gemm_gflops": e.facts["gemm_gflops"], "read_gb_s": e.facts["read_gb_s"],
            })
        })
        .collect();
    json!({
        "model": MODEL, "machine": machine, "limits": {"gemm_gflops": limits.gflops, "read_gb_s": limits.gb_s},
        "settings": {
            "context": settings.contexts, "rate": settings.rates, "batch": settings.batches, "tokens": settings.tokens,
            "repeats": settings.repeats,
        },
        "engines": engines,
        "rows": rows.iter().map(rows::Row::json).collect::<Vec<_>>(),
    })
}

/// One line for each row: a record's diff shows what moved.
pub fn pretty(result: &Value) -> Result<String> {
    let fields = result.as_object().context("an object")?;
    let mut out = Vec::new();
    for (key, value) in fields {
        let text = match value.as_array() {
            Some(list) => {
                let lines: Vec<String> = list.iter().map(|v| format!("    {v}")).collect();
                format!("[\n{}\n  ]", lines.join(",\n"))
            }
            None => value.to_string(),
        };
        out.push(format!("  {}: {text}", json!(key)));
    }
    Ok(format!("{{\n{}\n}}\n", out.join(",\n")))
}

/// `dir/name.EXTENSION` for each, whole or not at all.
pub fn write(dir: &Path, name: &str, files: &[(&str, String)]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    for (extension, text) in files {
        let path = dir.join(format!("{name}.{extension}"));
        let partial = dir.join(format!("{name}.{extension}.partial"));
        std::fs::write(&partial, text).with_context(|| partial.display().to_string())?;
        std::fs::rename(&partial, &path)?;
        eprintln!("xtask: wrote {}", path.display());
    }
    Ok(())
}
