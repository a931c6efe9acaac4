//! The steps that the subcommands are made of. Each prints its name first and its time last, on stderr.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Instant;
use xshell::{Shell, cmd};

use crate::tidy;

/// The model that the model tests load; `dsla fetch` knows the name.
pub const MODEL: &str = "smollm2-135m-instruct";
const FEATURES: &str = "dsla-serve/cli,dsla-serve/http,dsla-serve/testing";

pub struct Steps {
    pub sh: Shell,
    pub root: PathBuf,
}

impl Steps {
    pub fn new(root: &Path) -> Result<Steps> {
        let sh = Shell::new()?;
        sh.change_dir(root);
        Ok(Steps { sh, root: root.into() })
    }

    /// Run `f` with its name before it and its time after it.
    pub fn step<T>(&self, name: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("xtask: {name}");
        let start = Instant::now();
        let result = f().with_context(|| format!("{name} failed"));
        let end = if result.is_ok() { "done" } else { "FAILED" };
        eprintln!("xtask: {name}: {end} in {:.1} s", start.elapsed().as_secs_f64());
        result
    }

    /// The target directory, where cargo was told to put it.
    pub fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), |d| self.root.join(d))
    }

    /// A private Python environment at `venv` with the packages of `requirements`; its interpreter.
    pub fn python(&self, venv: &Path, requirements: &Path) -> Result<PathBuf> {
        let sh = &self.sh;
        let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        let (packages, installed) = (sh.read_file(requirements)?, venv.join("requirements.txt"));
        if !sh.read_file(&installed).is_ok_and(|have| have == packages) {
            cmd!(sh, "python3 -m venv {venv}").run()?;
            cmd!(sh, "{python} -m pip install -q -r {requirements}").run()?;
            // Written last: an interrupted installation starts again.
            sh.write_file(&installed, packages)?;
        }
        Ok(python)
    }

    pub fn test(&self, peers: bool) -> Result<()> {
        let sh = &self.sh;
        self.step("python3 is there (the model arrives through its pip)", || {
            cmd!(sh, "python3 -c pass")
                .quiet()
                .run()
                .context("python3 does not run: install Python 3 with pip")
        })?;
        crate::ptx::gate(self, false)?;
        self.step("build tests and binaries", || {
            Ok(cmd!(sh, "cargo build --workspace --lib --bins --tests --examples --features {FEATURES}")
                .run()?)
        })?;
        self.step("fetch the model, unless it is cached", || {
            let dsla = self.debug_binary();
            Ok(cmd!(sh, "{dsla} fetch {MODEL}").run()?)
        })?;
        self.step("tests and doc tests", || {
            Ok(cmd!(sh, "cargo test --workspace --features {FEATURES}").run()?)
        })?;
        self.clients()?;
        let dsla = Some(self.debug_binary());
        crate::stress::run(
            self,
            &crate::Stress { clients: None, seconds: Some(20), model: None, dsla, out: None },
        )?;
        if peers {
            crate::reference::run(self, &crate::Reference { out: None, python: None, text: Vec::new() })?;
        }
        Ok(())
    }

    /// The official openai client against the server, in a private Python environment.
    fn clients(&self) -> Result<()> {
        let sh = &self.sh;
        let scripts = self.root.join("xtask/clients");
        let python = self.step("python packages of the client", || {
            self.python(&self.target().join("clients"), &scripts.join("requirements.txt"))
        })?;
        self.step("the openai client against `dsla serve`", || {
            let (script, dsla) = (scripts.join("openai_client.py"), self.debug_binary());
            Ok(cmd!(sh, "{python} {script} --dsla {dsla} --model {MODEL}").run()?)
        })
    }

    /// The binary that `test` builds.
    fn debug_binary(&self) -> PathBuf {
        self.target().join("debug").join(format!("dsla{}", std::env::consts::EXE_SUFFIX))
    }

    pub fn ci(&self, skip_tests: bool) -> Result<()> {
        let sh = &self.sh;
        self.step("formatting", || Ok(cmd!(sh, "cargo fmt --all --check").run()?))?;
        self.tidy()?;
        self.step("clippy", || {
            Ok(cmd!(sh, "cargo clippy --workspace --all-targets --features {FEATURES} -- -D warnings")
                .run()?)
        })?;
        self.step("docs", || {
            let _deny = sh.push_env("RUSTDOCFLAGS", "-D warnings");
            Ok(cmd!(sh, "cargo doc --workspace --no-deps --features {FEATURES}").run()?)
        })?;
        if skip_tests { Ok(()) } else { self.test(false) }
    }

    pub fn tidy(&self) -> Result<()> {
        self.step("tidy", || {
            let repo = tidy::Repo::open(&self.root)?;
            let found = tidy::check(&repo);
            for violation in &found {
                eprintln!("{violation}");
            }
            if !found.is_empty() {
                bail!("{} violations", found.len());
            }
            eprintln!("{} files are tidy", repo.files.len());
            Ok(())
        })
    }

    pub fn demo(&self, distill: bool) -> Result<()> {
        let sh = &self.sh;
        self.step("build the release binary", || self.release().map(drop))?;
        let flag = distill.then_some("--distill");
        self.step("demo", || {
            Ok(cmd!(
                sh,
                "cargo run --release -q -p dsla-serve --features cli,http --bin dsla -- demo {flag...}"
            )
            .run()?)
        })
    }

    pub fn bench(&self, args: &[String]) -> Result<()> {
        let sh = &self.sh;
        self.step("benches", || Ok(cmd!(sh, "cargo bench -p dsla-benches -- {args...}").run()?))
    }

    /// Build the release binary; its path.
    pub fn release(&self) -> Result<PathBuf> {
        let sh = &self.sh;
        cmd!(sh, "cargo build --release -p dsla-serve --features cli,http --bin dsla").run()?;
        Ok(self.target().join("release").join(format!("dsla{}", std::env::consts::EXE_SUFFIX)))
    }
}
