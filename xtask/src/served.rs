//! A `dsla serve` process, or a peer's server, that a check starts, asks and ends.

use crate::http;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A server; killed when dropped.
pub struct Served {
    child: Child,
    /// Host and port.
    pub at: String,
}

impl Served {
    /// On any free port unless `options` name one.
    pub fn start(dsla: &Path, model: &str, options: &[&str]) -> Result<Served> {
        let mut command = Command::new(dsla);
        command.args(["serve", model]).args(options).env_remove("DSLA_API_KEY");
        if !options.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        Served::spawn(command)
    }

    /// Anything that says where it listens, as `dsla serve` does.
    pub fn spawn(mut command: Command) -> Result<Served> {
        let what = command.get_program().display().to_string();
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| what.clone())?;
        let mut line = String::new();
        let out = child.stdout.take().context("a pipe")?;
        let mut served = Served { child, at: String::new() };
        BufReader::new(out).read_line(&mut line)?;
        let Some(at) = line.trim().strip_prefix("listening on http://") else {
            bail!("{what}: got {line:?}, want `listening on http://...`");
        };
        served.at = at.to_owned();
        Ok(served)
    }

    /// Sends a signal: TERM, KILL.
    pub fn signal(&self, name: &str) -> Result<()> {
        let ended = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        if ended.success() { Ok(()) } else { bail!("kill -{name}: {ended}") }
    }

    /// Its end, within `limit`.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() > until => bail!("a server: still there after {limit:?}"),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Resident memory in bytes, from /proc.
    pub fn resident(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path} (it needs Linux)"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.split_whitespace().next().context("VmRSS")?.parse()?;
        Ok(kib << 10)
    }

    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics(http::get(&self.at, "/metrics")?))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A page of metrics.
pub struct Metrics(String);

impl Metrics {
    /// All samples of `dsla:NAME` together that have `label` among theirs; 0 when there is none.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let start = format!("dsla:{name}{{");
        let samples = self.0.lines().filter(|l| l.starts_with(&start) && l.contains(label));
        samples.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn one(&self, name: &str) -> f64 {
        self.sum(name, "")
    }
}
