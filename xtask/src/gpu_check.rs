//! `cargo xtask gpu-check`: on a machine with a GPU, everything that was only ever simulated: conformance of every kernel
//! and the whole stack on the real driver, compute-sanitizer where it is installed, times of the representative cases.
//! Writes a record.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use xshell::cmd;

use crate::steps::Steps;

pub fn run(steps: &Steps, out: Option<PathBuf>) -> Result<()> {
    let sh = &steps.sh;
    let _real = sh.push_env("DSLA_REAL_GPU", "1");
    let name = steps.step("a GPU answers", || {
        let line = cmd!(sh, "cargo run -q --release -p dsla-kernels --example ptx -- device").read()?;
        if line.contains("ptxsim") {
            bail!("got the fake driver, want a real one");
        }
        Ok(line)
    })?;
    let mut record = vec![format!("\"device\": {}", quote(&name))];
    record.push(format!("\"commit\": {}", quote(&cmd!(sh, "git rev-parse HEAD").read().unwrap_or_default())));
    let smi = cmd!(
        sh,
        "nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader"
    );
    record.push(format!("\"nvidia_smi\": {}", quote(&smi.ignore_status().read().unwrap_or_default())));
    let tests = [
        ("kernels", "cargo test --release -p dsla-kernels --test cuda"),
        ("stack", "cargo test --release -p dsla-serve --test cuda"),
    ];
    let mut failed = vec![];
    for (what, command) in tests {
        let words: Vec<&str> = command.split(' ').collect();
        let passed = steps.step(&format!("conformance: {what}"), || {
            let (program, args) = (words[0], &words[1..]);
            Ok(cmd!(sh, "{program} {args...} -- --nocapture").run()?)
        });
        record.push(format!("\"{what}_pass\": {}", passed.is_ok()));
        if passed.is_err() {
            failed.push(what);
        }
    }
    match cmd!(sh, "compute-sanitizer --version").quiet().ignore_stderr().read() {
        Ok(version) => {
            let clean = steps
                .step("compute-sanitizer: memcheck, racecheck, initcheck, synccheck", || sanitize(steps));
            record.push(format!("\"compute_sanitizer\": {}", quote(version.lines().next().unwrap_or(""))));
            record.push(format!("\"sanitizer_clean\": {}", clean.is_ok()));
            if clean.is_err() {
                failed.push("compute-sanitizer");
            }
        }
        Err(_) => record.push("\"compute_sanitizer\": null".into()),
    }
    let times = steps.step("times of the representative cases", || {
        Ok(cmd!(sh, "cargo run -q --release -p dsla-kernels --example ptx -- time").read()?)
    })?;
    record.push(format!("\"times\": {times}"));
    let file = out.unwrap_or_else(|| {
        let slug: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        steps.root.join(format!("benches/records/gpu-{slug}.json"))
    });
    sh.create_dir(file.parent().context("a folder for the record")?)?;
    let partial = file.with_extension("partial");
    sh.write_file(&partial, format!("{{\n{}\n}}\n", record.join(",\n")))?;
    std::fs::rename(&partial, &file)?;
    eprintln!("record: {}", file.display());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The conformance test under each tool.
fn sanitize(steps: &Steps) -> Result<()> {
    let sh = &steps.sh;
    let listed = cmd!(sh, "cargo test --release -p dsla-kernels --test cuda --no-run").read_stderr()?;
    let binary = listed.lines().find_map(|l| l.split("tests/cuda.rs (").nth(1)?.strip_suffix(')'));
    let binary = binary.context("cargo names no test binary")?;
    for tool in ["memcheck", "racecheck", "initcheck", "synccheck"] {
        cmd!(sh, "compute-sanitizer --tool {tool} --error-exitcode 1 {binary} conformance_exact").run()?;
    }
    Ok(())
}

/// A JSON string.
fn quote(text: &str) -> String {
    let clean: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    #[test]
    fn strings_are_json() {
        assert_eq!(super::quote("a \"b\"\n\\c"), "\"a \\\"b\\\" \\\\c\"");
    }
}
