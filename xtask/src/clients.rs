//! `cargo xtask clients`: clients of the server that are not in `cargo xtask test`, because they take minutes to build or
//! a browser: the async-openai crate, and the page in headless Chromium.

use crate::served::Served;
use crate::steps::{MODEL, Steps};
use anyhow::{Context, Result};
use std::path::PathBuf;
use xshell::cmd;

const KEY: &str = "sesame";

pub fn run(steps: &Steps, flags: &crate::Clients) -> Result<()> {
    let sh = &steps.sh;
    let dsla = match &flags.dsla {
        Some(path) => path.clone(),
        None => steps.step("build the release binary", || steps.release())?,
    };
    let serve = || Served::start(&dsla, MODEL, &["--policy", "fixed:0", "--api-key", KEY]);
    let chromium = steps.step("Chromium is there", || chromium(steps))?;
    let python = steps.step("python packages of the page's check", || {
        steps.python(&steps.target().join("page"), &steps.root.join("xtask/clients/page-requirements.txt"))
    })?;
    steps.step("the page in headless Chromium", || {
        let served = serve()?;
        let (url, script) = (format!("http://{}", served.at), steps.root.join("xtask/clients/page.py"));
        Ok(cmd!(sh, "{python} {script} --url {url} --model {MODEL} --key {KEY} --chromium {chromium}")
            .run()?)
    })?;
    let client = steps.step("build the async-openai client", || {
        let (manifest, target) =
            (steps.root.join("xtask/clients/async-openai/Cargo.toml"), steps.target().join("clients-rust"));
        cmd!(sh, "cargo build --locked --manifest-path {manifest} --target-dir {target}").run()?;
        Ok(target.join("debug").join(format!("async-openai-client{}", std::env::consts::EXE_SUFFIX)))
    })?;
    steps.step("the async-openai client against `dsla serve`", || {
        let served = serve()?;
        let url = format!("http://{}", served.at);
        Ok(cmd!(sh, "{client} {url} {MODEL} {KEY}").run()?)
    })
}

/// The one on the path; Debian's where that can be installed.
fn chromium(steps: &Steps) -> Result<PathBuf> {
    let sh = &steps.sh;
    let there = || {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        names.into_iter().find(|name| cmd!(sh, "{name} --version").quiet().ignore_stderr().read().is_ok())
    };
    if there().is_none() {
        let what =
            "no Chromium on the path, and Debian's cannot be installed (as root: apt-get install chromium)";
        cmd!(sh, "apt-get install -y --no-install-recommends chromium").run().context(what)?;
    }
    let name = there().context("chromium does not run")?;
    Ok(cmd!(sh, "which {name}").read()?.into())
}
