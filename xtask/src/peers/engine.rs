//! One engine under measurement: a process that loads a model once and answers jobs, as `xtask/peers/peer.py` describes.

use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Loading may compile kernels; a job may be a long prefill on a slow engine.
const LOAD: Duration = Duration::from_secs(900);
const JOB: Duration = Duration::from_secs(900);

/// Name and format, and what became of the process.
pub struct Engine {
    pub name: String,
    pub format: String,
    /// What its first line said.
    pub facts: Value,
    /// Why it answers nothing (any more).
    pub error: Option<String>,
    process: Option<Process>,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    log: PathBuf,
}

impl Engine {
    /// An engine that never started.
    pub fn refused(name: &str, format: &str, reason: &str) -> Engine {
        let error = Some(without_paths(reason));
        Engine { name: name.into(), format: format.into(), facts: Value::Null, error, process: None }
    }

    /// Start `command` and wait for its first line. stderr goes to the file `log`.
    pub fn start(name: &str, format: &str, command: Command, log: &Path) -> Engine {
        let mut engine = Engine::refused(name, format, "");
        match Process::spawn(command, log) {
            Ok(process) => {
                engine.process = Some(process);
                engine.error = None;
                match engine.answer(LOAD) {
                    Ok(facts) if facts["ready"] == true => engine.facts = facts,
                    Ok(other) => engine.give_up(&format!("first line: got {other}, want \"ready\"")),
                    Err(reason) => engine.give_up(&reason),
                }
            }
            Err(e) => engine.error = Some(without_paths(&format!("does not start: {e}"))),
        }
        engine
    }

    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.format).trim_end().into()
    }

    /// The answer to one job; `Err` is the reason why there is none.
    pub fn ask(&mut self, job: &Value) -> Result<Value, String> {
        if let Some(reason) = &self.error {
            return Err(reason.clone());
        }
        let mut job = job.clone();
        job["format"] = json!(self.format);
        let process = self.process.as_mut().ok_or("never started")?;
        // An engine that is gone is told apart by its missing answer.
        let _ = writeln!(process.stdin, "{job}").and_then(|()| process.stdin.flush());
        self.answer(JOB)
    }

    fn answer(&mut self, limit: Duration) -> Result<Value, String> {
        let Some(process) = self.process.as_mut() else { return Err("never started".into()) };
        let reason = match process.answers.recv_timeout(limit) {
            Ok(line) => match serde_json::from_str::<Value>(&line) {
                Ok(value) => match value["error"].as_str() {
                    Some(error) => return Err(without_paths(error)),
                    None => return Ok(value),
                },
                Err(_) => format!("answered `{}`, want one JSON object", line.trim()),
            },
            Err(RecvTimeoutError::Timeout) => format!("no answer within {} s", limit.as_secs()),
            Err(RecvTimeoutError::Disconnected) => process.last_words(),
        };
        self.give_up(&reason);
        Err(self.error.clone().unwrap_or_default())
    }

    fn give_up(&mut self, reason: &str) {
        self.error = Some(without_paths(reason));
        self.process = None;
    }
}

impl Process {
    fn spawn(mut command: Command, log: &Path) -> std::io::Result<Process> {
        let stderr = File::create(log)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("no pipes"));
        };
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Process { child, stdin, answers, log: log.into() })
    }

    /// How it ended, and its last line on stderr that speaks of an error.
    fn last_words(&mut self) -> String {
        let status = self.child.wait().map_or("ended".into(), |s| s.to_string());
        let log = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty());
        let words = lines().rfind(|l| l.to_lowercase().contains("error")).or(lines().next_back());
        match words {
            Some(words) => format!("died ({status}): {}", words.chars().take(200).collect::<String>()),
            None => format!("died ({status})"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its stdin is still open, so it may be waiting for us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `text` on one line, every absolute path cut to its last part: reasons go into records, which travel.
pub fn without_paths(text: &str) -> String {
    let short = |word: &str| {
        let start = word.find('/').unwrap_or(0);
        let (before, path) = word.split_at(start);
        let absolute = path.matches('/').count() > 1
            && !before.ends_with(|c: char| c.is_alphanumeric() || "._-:".contains(c));
        match path.trim_end_matches('/').rsplit_once('/') {
            Some((_, name)) if absolute => format!("{before}{name}"),
            _ => word.into(),
        }
    };
    text.split_whitespace().map(short).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_name_no_folders() {
        assert_eq!(
            without_paths("File \"/home/me/x/lib.so\":\n no AVX-512, see https://a/b/c and a/b/c 1/2"),
            "File \"lib.so\": no AVX-512, see https://a/b/c and a/b/c 1/2"
        );
    }
}
