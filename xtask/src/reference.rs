//! `cargo xtask reference`: the comparison scripts of `xtask/reference` against the release binary.

use anyhow::{Result, bail};
use std::ffi::OsString;
use xshell::cmd;

use crate::steps::{MODEL, Steps};

/// Text that every clone has, long enough for a window of [`CONTEXT`] tokens.
const TEXTS: [&str; 2] = ["LICENSE-APACHE", "ARCHITECTURE.md"];
const CONTEXT: usize = 1024;

pub fn run(steps: &Steps, flags: &crate::Reference) -> Result<()> {
    let sh = &steps.sh;
    let scripts = steps.root.join("xtask/reference");
    let out = flags.out.clone().unwrap_or_else(|| steps.target().join("reference"));
    let python = match &flags.python {
        Some(path) => path.clone(),
        None => steps.step("python packages (PyTorch is large: the first time takes minutes)", || {
            steps.python(&out.join("venv"), &scripts.join("requirements.txt"))
        })?,
    };
    let dsla = steps.step("build the release binary", || steps.release())?;
    let mut failed = Vec::new();
    for script in ["tiny", "layer", "greedy", "ppl"] {
        let file = scripts.join(script).with_extension("py");
        let mut args: Vec<OsString> = Vec::new();
        if matches!(script, "greedy" | "ppl") {
            args.extend(["--model".into(), MODEL.into()]);
        }
        if script == "ppl" {
            args.push("--text".into());
            if flags.text.is_empty() {
                args.extend(TEXTS.map(OsString::from));
                args.extend(["--context".into(), CONTEXT.to_string().into()]);
            } else {
                args.extend(flags.text.iter().map(OsString::from));
            }
        }
        let done = steps.step(&format!("compare: {script}"), || {
            Ok(cmd!(sh, "{python} {file} --dsla {dsla} {args...}").run()?)
        });
        if done.is_err() {
            failed.push(script);
        }
    }
    if !failed.is_empty() {
        bail!("comparisons failed: {}", failed.join(", "));
    }
    Ok(())
}
