//! The servers of other engines, with the same model: for the same requests, sent by the same client.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::Path;
use std::process::Command;

use super::install::Installer;
use super::{fetched, variables, words};
use crate::served::Served;
use crate::steps::Steps;

/// Each with the environment and the script that start it.
const SERVERS: [(&str, &str, &str); 2] =
    [("llama.cpp", "llama.cpp-server", "serve_llama_cpp.py"), ("vllm", "vllm", "serve_vllm.py")];

/// What servers have in common, ours included by default.
const RUNNING: usize = 16;
const POSITIONS: usize = 8192;

/// The names in a list like `vllm,llama.cpp`.
pub fn names(list: &str) -> Result<Vec<&str>> {
    words("--vs", list, &SERVERS.map(|s| s.0))
}

/// Installs the peer if it has to and starts its server. bf16 weights, or the f32 of the same values where vLLM runs those
/// faster; as many sequences at once as `dsla serve` runs, each with room for the model's context.
pub fn start(steps: &Steps, dsla: &Path, name: &str, threads: usize) -> Result<Served> {
    let Some((_, environment, script)) = SERVERS.into_iter().find(|s| s.0 == name) else {
        bail!("--vs: got {name}, which has no server");
    };
    let installer = Installer::new(steps);
    let model =
        steps.step("the model in the formats of the peers", || installer.models(&fetched(steps, dsla)?))?;
    let python = steps.step(&format!("install {name}"), || installer.python(environment))?;
    let logs = installer.home.join("logs");
    std::fs::create_dir_all(&logs)?;
    let log = logs.join(format!("{name}-server.log"));
    let mut command = Command::new(python);
    let file = if name == "llama.cpp" { "bf16.gguf" } else { "hf" };
    command.arg(installer.scripts.join(script)).arg("--model").arg(model.join(file));
    for (flag, n) in [("--threads", threads), ("--positions", POSITIONS), ("--running", RUNNING)] {
        command.arg(flag).arg(n.to_string());
    }
    command.envs(variables(&installer, threads));
    command.stderr(File::create(&log).with_context(|| log.display().to_string())?);
    let server = steps.step(&format!("start the server of {name}"), || Served::spawn(command));
    server.with_context(|| log.display().to_string())
}
