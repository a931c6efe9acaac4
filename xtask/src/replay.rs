//! `cargo xtask replay`: the same requests against the same model under different policies, one server after the other, and
//! against other servers that run already. One table, one JSON file, one picture.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use xshell::cmd;

use crate::peers::{self, machine};
use crate::served::Served;
use crate::steps::{MODEL, Steps};

mod plot;

/// The teacher, three quarters converted, and conversion while first tokens take longer than two seconds.
const POLICIES: &str = "fixed:0 fixed:0.75 slo:2000,200";
const TRACE: &str = "benches/traces/burst.csv";

/// What replayed: its name and `dsla replay --json`.
type Run = (String, Value);

pub fn run(steps: &Steps, flags: &crate::Replay) -> Result<()> {
    let sh = &steps.sh;
    let dsla = match &flags.dsla {
        Some(path) => path.clone(),
        None => steps.step("build the release binary", || steps.release())?,
    };
    cmd!(sh, "{dsla} fetch {MODEL}").quiet().ignore_stdout().run()?;
    let trace = flags.trace.as_deref().unwrap_or(TRACE);
    let mut arguments: Vec<String> = vec!["--trace".into(), trace.into(), "--json".into()];
    let given = [
        ("--seconds", &flags.seconds),
        ("--speed", &flags.speed),
        ("--lengths", &flags.lengths),
        ("--seed", &flags.seed),
    ];
    for (name, value) in given {
        arguments.extend(value.iter().flat_map(|v| [name.to_owned(), v.clone()]));
    }
    let peers = flags.vs.as_deref().map_or(Ok(vec![]), peers::serve::names)?;
    let dtype = flags.dtype.as_deref().unwrap_or("bf16");
    let guard = flags.max_quality_loss.as_deref().unwrap_or("0.05");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    // Now: loading is work too.
    let machine = machine::fingerprint(sh, threads);
    let mut runs: Vec<Run> = Vec::new();
    for policy in flags.policies.as_deref().unwrap_or(POLICIES).split(' ') {
        let found = steps.step(&format!("replay against {policy}"), || {
            let options = ["--policy", policy, "--max-quality-loss", guard, "--dtype", dtype];
            let server = Served::start(&dsla, MODEL, &options)?;
            replay(&dsla, &format!("http://{}", server.at), &arguments)
        })?;
        runs.push((policy.into(), found));
    }
    for name in peers {
        let found = peers::serve::start(steps, &dsla, name, threads).and_then(|mut server| {
            let found = steps.step(&format!("replay against {name}"), || {
                replay(&dsla, &format!("http://{}", server.at), &arguments)
            });
            // vLLM has processes of its own to end.
            server.signal("TERM")?;
            server.end(Duration::from_secs(40))?;
            found
        });
        match found {
            Ok(found) => runs.push((name.into(), found)),
            Err(reason) => eprintln!("xtask: {name}: {reason:#}"),
        }
    }
    for other in &flags.url {
        let Some((name, url)) = other.split_once('=') else { bail!("--url: got {other}, want NAME=URL") };
        let found = steps.step(&format!("replay against {name}"), || replay(&dsla, url, &arguments))?;
        runs.push((name.into(), found));
    }
    print!("{}", table(&runs));
    let found: Vec<Value> = runs.iter().map(|(name, run)| json!({"name": name, "replay": run})).collect();
    let result = json!({
        "machine": machine, "model": MODEL, "dtype": dtype, "trace": trace, "max_quality_loss": guard, "runs": found,
    });
    let out = flags.out.clone().map_or_else(|| steps.target().join("replay"), |dir| steps.root.join(dir));
    let stem = Path::new(trace).file_stem().map_or_else(|| "trace".into(), |s| s.to_string_lossy());
    let title = format!("{MODEL}: {stem}, {threads} threads of {}", machine["cpu"].as_str().unwrap_or("?"));
    let files = [("json", peers::pretty(&result)?), ("svg", plot::svg(&title, &runs))];
    peers::write(&out, "replay", &files)?;
    if flags.record {
        let name = machine::record_name(&format!("replay-{stem}"), &machine);
        peers::write(&steps.root.join("benches/records"), &name, &files)?;
    }
    Ok(())
}

fn replay(dsla: &Path, url: &str, arguments: &[String]) -> Result<Value> {
    let out = Command::new(dsla).arg("replay").arg(url).args(arguments).stderr(Stdio::inherit()).output()?;
    if !out.status.success() {
        bail!("dsla replay {url}: {}", out.status);
    }
    serde_json::from_slice(&out.stdout).context("dsla replay --json")
}

/// A line per run, and what the others are against the first.
fn table(runs: &[Run]) -> String {
    let mut out = String::new();
    let columns = [
        ("TTFT p50 s", "/ttft_ms/p50", 1e-3),
        ("p99 s", "/ttft_ms/p99", 1e-3),
        ("TPOT p50 ms", "/tpot_ms/p50", 1.0),
        ("p99 ms", "/tpot_ms/p99", 1.0),
        ("whole p50 s", "/e2e_ms/p50", 1e-3),
        ("p99 s", "/e2e_ms/p99", 1e-3),
        ("tok/s", "/throughput/total_tok_s", 1.0),
        ("peak MB", "/server/peak_bytes", 1e-6),
        ("mean rate", "/converted_rate/mean", 1.0),
        ("KL", "/kl", 1.0),
    ];
    let _ = write!(out, "{:16}", "");
    for (name, ..) in columns {
        let _ = write!(out, " {name:>11}");
    }
    let number = |run: &Value, at: &str, unit: f64| run.pointer(at).and_then(Value::as_f64).map(|x| x * unit);
    for (name, run) in runs {
        let _ = write!(out, "\n{name:16}");
        for (_, at, unit) in columns {
            let cell = number(run, at, unit).map_or("-".into(), |x| format!("{x:.3}"));
            let _ = write!(out, " {cell:>11}");
        }
    }
    out.push('\n');
    let Some((first, base)) = runs.first() else { return out };
    for (name, run) in &runs[1..] {
        let ratio = |at: &str, inverse: bool| {
            let (a, b) = (number(base, at, 1.0)?, number(run, at, 1.0)?);
            (a > 0.0 && b > 0.0).then_some(if inverse { b / a } else { a / b })
        };
        let text = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.2}x"));
        let (p50, p99) = (text(ratio("/e2e_ms/p50", false)), text(ratio("/e2e_ms/p99", false)));
        let speed = text(ratio("/throughput/total_tok_s", true));
        let _ = writeln!(
            out,
            "{name} over {first}: whole request p50 {p50} faster, p99 {p99}, throughput {speed}"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_was_gained() {
        let run = |p99: f64, speed: f64| json!({"e2e_ms": {"p50": p99 / 2.0, "p99": p99}, "throughput": {"total_tok_s": speed}, "kl": 0.01});
        let text = table(&[("a".into(), run(4000.0, 100.0)), ("b".into(), run(1000.0, 250.0))]);
        assert!(
            text.contains("b over a: whole request p50 4.00x faster, p99 4.00x, throughput 2.50x"),
            "{text}"
        );
        assert!(text.lines().nth(1).is_some_and(|l| l.contains("4.000") && l.contains("-")), "{text}");
    }
}
