//! `cargo xtask ptx`: the hand-written kernels without a GPU. Every expanded module through NVIDIA's own assembler on
//! six architectures, without spills, its registers and shared memory held against a committed table; the simulator;
//! the cost report.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use xshell::cmd;

use crate::steps::Steps;

/// Ampere to Blackwell: everything the kernels promise to run on.
const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];
const TABLE: &str = "dsla-kernels/resources.txt";
const HEADER: &str = "# Registers per thread on sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, then static shared memory in bytes.\n\
                      # Written by `cargo xtask ptx --bless`; `cargo xtask ptx` holds every kernel against it.\n";

pub fn run(steps: &Steps, flags: &crate::Ptx) -> Result<()> {
    let sh = &steps.sh;
    if let Some(dir) = &flags.emit {
        return steps.step("expand the kernels", || emit(steps, dir));
    }
    if flags.sim {
        let _op = flags.op.as_ref().map(|op| sh.push_env("DSLA_OP", op));
        return steps.step("conformance on the simulator", || {
            Ok(cmd!(sh, "cargo test -p dsla-kernels --test cuda -- --nocapture").run()?)
        });
    }
    if flags.report {
        let (json, table) = (flags.json.then_some("--json"), steps.root.join(TABLE));
        let _op = flags.op.as_ref().map(|op| sh.push_env("DSLA_OP", op));
        cmd!(sh, "cargo run -q -p dsla-kernels --example ptx -- report {table} {json...}").run()?;
        return Ok(());
    }
    gate(steps, flags.bless)
}

/// Gate 1: ptxas.
pub fn gate(steps: &Steps, bless: bool) -> Result<()> {
    let dir = steps.target().join("ptx");
    let ptxas = steps.step("ptxas (NVIDIA's assembler, 47 MB from PyPI, under NVIDIA's licence)", || {
        assembler(steps, &dir)
    })?;
    let modules = dir.join("modules");
    let found = steps.step("assemble every kernel on six architectures", || {
        emit(steps, &modules)?;
        assemble(&ptxas, &modules)
    })?;
    let (table, text) = (steps.root.join(TABLE), render(&found));
    if bless {
        steps.sh.write_file(&table, text)?;
        return Ok(());
    }
    compare(&std::fs::read_to_string(&table).unwrap_or_default(), &text)
        .with_context(|| format!("{TABLE} (if the change is meant: cargo xtask ptx --bless)"))?;
    eprintln!("{} kernels, {} architectures, no spills", found.len(), ARCHITECTURES.len());
    Ok(())
}

fn emit(steps: &Steps, dir: &Path) -> Result<()> {
    let sh = &steps.sh;
    // Modules that no source makes any more must not linger.
    if dir.exists() {
        for old in
            std::fs::read_dir(dir)?.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "ptx"))
        {
            std::fs::remove_file(old.path())?;
        }
    }
    Ok(cmd!(sh, "cargo run -q -p dsla-kernels --example ptx -- emit {dir}").run()?)
}

/// ptxas in a private Python environment; its path.
fn assembler(steps: &Steps, dir: &Path) -> Result<PathBuf> {
    let venv = dir.join("venv");
    steps.python(&venv, &steps.root.join("xtask/ptx/requirements.txt"))?;
    let lib = venv.join("lib");
    let python =
        std::fs::read_dir(&lib)?.flatten().next().with_context(|| format!("{} is empty", lib.display()))?;
    let ptxas = python.path().join("site-packages/nvidia/cu13/bin/ptxas");
    if !ptxas.exists() {
        bail!("{}: got nothing, want ptxas", ptxas.display());
    }
    Ok(ptxas)
}

/// Per "module entry": registers by architecture, static shared memory.
type Resources = BTreeMap<String, (Vec<u32>, u32)>;

fn assemble(ptxas: &Path, modules: &Path) -> Result<Resources> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(modules)?.flatten().map(|f| f.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "ptx"));
    files.sort();
    let jobs: Vec<(&PathBuf, usize)> =
        files.iter().flat_map(|f| (0..ARCHITECTURES.len()).map(move |a| (f, a))).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            s.spawn(|| {
                while let Some((file, a)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = one(ptxas, file, ARCHITECTURES[*a]);
                    done.lock().unwrap_or_else(|e| e.into_inner()).push((*file, *a, result));
                }
            });
        }
    });
    let mut all = Resources::new();
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(file, a, _)| ((*file).clone(), *a));
    for (file, a, result) in done {
        let module = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (entry, registers, shared) in result? {
            let slot =
                all.entry(format!("{module} {entry}")).or_insert((vec![0; ARCHITECTURES.len()], shared));
            slot.0[a] = registers;
        }
    }
    Ok(all)
}

/// One module on one architecture: (entry, registers, shared memory) of each kernel.
fn one(ptxas: &Path, file: &Path, architecture: &str) -> Result<Vec<(String, u32, u32)>> {
    let out = std::process::Command::new(ptxas)
        .args(["-arch", architecture, "-v", "--warn-on-spills", "--warning-as-error", "-o", "/dev/null"])
        .arg(file)
        .output()
        .with_context(|| format!("running {}", ptxas.display()))?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        bail!("{} on {architecture}: {}", file.display(), text.trim());
    }
    let mut found = Vec::new();
    let mut entry = String::new();
    for line in text.lines() {
        if let Some(name) = line.split("entry function '").nth(1) {
            entry = name.split('\'').next().unwrap_or("").into();
        }
        if line.contains("bytes stack frame") && !line.contains("0 bytes spill stores, 0 bytes spill loads") {
            bail!("{} on {architecture}: {entry} spills:{line}", file.display());
        }
        if let Some(used) = line.split("Used ").nth(1) {
            let number = |s: &str| s.trim().split(' ').next().and_then(|n| n.parse().ok());
            let registers = number(used).context("registers")?;
            let shared = used.split(", ").find(|p| p.ends_with("bytes smem")).and_then(number).unwrap_or(0);
            found.push((std::mem::take(&mut entry), registers, shared));
        }
    }
    Ok(found)
}

fn render(found: &Resources) -> String {
    let mut out = HEADER.to_string();
    for (name, (registers, shared)) in found {
        let list: Vec<String> = registers.iter().map(u32::to_string).collect();
        let _ = writeln!(out, "{name} {} {shared}", list.join(" "));
    }
    out
}

fn compare(want: &str, got: &str) -> Result<()> {
    let (want, got): (Vec<_>, Vec<_>) = (want.lines().collect(), got.lines().collect());
    let lost = want.iter().filter(|l| !got.contains(l)).map(|l| format!("- {l}"));
    let new = got.iter().filter(|l| !want.contains(l)).map(|l| format!("+ {l}"));
    let changes: Vec<String> = lost.chain(new).collect();
    if !changes.is_empty() {
        bail!("resources changed:\n{}", changes.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_register_count_is_found() {
        let table = "# h\nm e 10 10 10 10 10 10 0\n";
        assert!(compare(table, table).is_ok());
        let error = compare(table, "# h\nm e 11 10 10 10 10 10 0\n").unwrap_err().to_string();
        assert!(error.contains("- m e 10 ") && error.contains("+ m e 11 "), "{error}");
    }
}
