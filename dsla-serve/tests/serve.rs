//! `dsla serve`, `dsla replay` and `dsla trace` as scripts use them.
#![cfg(unix)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const DSLA: &str = env!("CARGO_BIN_EXE_dsla");

fn fixture() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures/tiny_tied").display().to_string()
}

fn dsla(args: &[&str]) -> Output {
    Command::new(DSLA).args(args).output().expect("it runs")
}

/// A running server; killed when dropped.
struct Serving {
    child: Child,
    address: String,
}

fn serve(options: &[&str]) -> Serving {
    let model = fixture();
    let mut child = Command::new(DSLA)
        .args(["serve", &model, "--dtype", "f32", "--device", "cpu", "--port", "0"])
        .args(options)
        .env_remove("DSLA_API_KEY")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}"));
    Serving { address: address.to_owned(), child }
}

impl Serving {
    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
    }

    /// Exit code, and what it said on stderr.
    fn end(&mut self) -> (Option<i32>, String) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait().expect("a status").is_none() {
            assert!(Instant::now() < end, "still running");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        self.child.stderr.take().expect("stderr").read_to_string(&mut text).expect("text");
        (self.child.wait().expect("a status").code(), text)
    }

    fn ask(&self, head: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).expect("a connection");
        let length = body.len();
        let text = format!(
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        socket.write_all(text.as_bytes()).expect("sent");
        socket
    }

    fn get(&self, path: &str) -> String {
        let mut text = String::new();
        self.ask(&format!("GET {path}"), "").read_to_string(&mut text).expect("an answer");
        text
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serves_and_ends_at_either_signal() {
    for signal in ["-TERM", "-INT"] {
        let mut s = serve(&["--policy", "fixed:0", "--model-name", "tiny"]);
        assert!(s.get("/health").starts_with("HTTP/1.1 200"));
        assert!(s.get("/v1/models").contains("\"id\":\"tiny\""));
        let body = r#"{"prompt": [1, 2], "max_tokens": 200, "ignore_eos": true, "return_token_ids": true}"#;
        let mut running = s.ask("POST /v1/completions", body);
        let ask = |s: &Serving| s.get("/metrics");
        let end = Instant::now() + Duration::from_secs(20);
        // It may be through before anyone looks.
        while !(ask(&s).contains("num_requests_running{model_name=\"tiny\"} 1")
            || ask(&s).contains("\"length\"} 1"))
        {
            assert!(Instant::now() < end, "it runs");
        }
        s.signal(signal);
        let mut answer = String::new();
        running.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\":200"),
            "{answer}"
        );
        let (code, said) = s.end();
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("no adapter: all 2 layers stay as they are") && said.contains("shutting down"),
            "{said}"
        );
    }
}

#[test]
fn any_number_of_threads_says_the_same() {
    let body = r#"{"prompt": [[1, 2, 3], [7, 5, 9, 4, 4, 31, 8], [40]], "max_tokens": 60, "ignore_eos": true, "seed": 3,
        "temperature": 0.9, "return_token_ids": true}"#;
    let says = |threads: &str| {
        let s = serve(&["--policy", "fixed:0", "--threads", threads]);
        let mut text = String::new();
        s.ask("POST /v1/completions", body).read_to_string(&mut text).expect("an answer");
        let (_, json) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
        let answer: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {text}"));
        let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{text}"));
        choices.iter().map(|c| c["token_ids"].clone()).collect::<Vec<_>>()
    };
    let one = says("1");
    assert!(
        one.len() == 3 && one.iter().all(|ids| ids.as_array().is_some_and(|ids| ids.len() == 60)),
        "{one:?}"
    );
    assert_eq!(one, says("2"));
    assert_eq!(one, says("5"));
}

#[test]
fn what_cannot_be_is_one_line() {
    let s = serve(&[]);
    let port = s.address.rsplit(':').next().expect("a port");
    let model = fixture();
    let refused = |args: &[&str], code: i32, want: &str| {
        let out = dsla(args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
        assert!(
            out.stdout.is_empty() && text.contains(want) && !text.contains("panicked"),
            "{args:?}: {text}"
        );
        assert!(code == 2 || text.lines().filter(|l| l.starts_with("error: ")).count() == 1, "{text}");
    };
    let at = format!("127.0.0.1:{port}");
    refused(&["serve", &model, "--port", port], 1, &format!("{at}: cannot listen"));
    refused(&["serve", "no-such-model", "--port", "0"], 1, "no-such-model");
    refused(&["serve", &model, "--port", "0", "--policy", "fixed:0.5"], 1, "without an adapter");
    refused(&["serve", &model, "--port", "0", "--max-running", "0"], 1, "max_running: got 0");
    refused(&["serve", &model, "--port", "0", "--api-key", ""], 1, "--api-key: got an empty key");
    refused(
        &["serve", &model, "--policy", "slow"],
        2,
        "want fixed:RATE, threshold, memory:BYTES or slo:TTFT_MS,TPOT_MS",
    );
    refused(&["serve", &model, "--kv-budget", "0"], 2, "want a number of bytes above 0");
    refused(&["replay", "https://x", "--trace", "poisson:1"], 1, "want http://HOST:PORT");
    let url = format!("http://{at}");
    refused(&["replay", &url, "--trace", "poisson:-1"], 1, "want a number above 0");
    refused(&["replay", &url, "--trace", "/nonexistent/trace"], 1, "/nonexistent/trace: cannot read");
    refused(
        &["replay", &url, "--trace", "poisson:5", "--lengths", "x"],
        2,
        "want conversation, code or PROMPT,GENERATED",
    );
    refused(&["replay", "http://127.0.0.1:1", "--trace", "poisson:5"], 1, "127.0.0.1:1");
    let missing =
        ["replay", &url, "--model", "gpt-5", "--trace", "poisson:50", "--seconds", "0.5", "--lengths", "2,2"];
    refused(&missing, 1, "x status 404");
}

#[test]
fn a_replay_counts_what_the_server_did() {
    let s = serve(&["--model-name", "tiny"]);
    let url = format!("http://{}/v1", s.address);
    let run = |trace: &str, more: &[&str]| -> Value {
        let out = dsla(&[&["replay", &url, "--trace", trace, "--json"], more].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let got = run("poisson:40", &["--seconds", "1", "--lengths", "20,10", "--seed", "3"]);
    let n = got["requests"]["sent"].as_u64().expect("a number");
    assert!((20..60).contains(&n) && got["requests"]["completed"] == n, "{got}");
    assert_eq!((&got["prompt_tokens"], &got["generated_tokens"]), (&(20 * n).into(), &(10 * n).into()));
    assert_eq!((&got["model"], &got["errors"]), (&"tiny".into(), &serde_json::json!({})));
    let ms = |of: &str, q: &str| got[of][q].as_f64().unwrap_or_else(|| panic!("{of} {q} in {got}"));
    assert!(ms("ttft_ms", "p50") > 0.0 && ms("ttft_ms", "p99") >= ms("ttft_ms", "p50"));
    assert!(ms("tpot_ms", "p50") > 0.0 && ms("e2e_ms", "p50") >= ms("ttft_ms", "p50"));
    assert!(got["throughput"]["generated_tok_s"].as_f64().is_some_and(|x| x > 50.0), "{got}");
    assert_eq!(got["converted_rate"]["max"], 0.0);
    let counted = format!("generation_tokens_total{{model_name=\"tiny\"}} {}\n", 10 * n);
    let end = Instant::now() + Duration::from_secs(20);
    // A step is counted after its events are out.
    while !s.get("/metrics").contains(&counted) {
        assert!(Instant::now() < end, "no {counted} in {}", s.get("/metrics"));
    }
    // A file; lengths beyond the context are shortened to it.
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trace.csv");
    std::fs::write(
        &path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,5,3\n2023-11-16 18:00:10.5,900,4\n",
    )
    .expect("a file");
    let got = run(&path.display().to_string(), &["--speed", "100"]);
    assert_eq!(got["requests"], serde_json::json!({"sent": 2, "completed": 2, "shortened": 1}));
    assert_eq!((&got["prompt_tokens"], &got["generated_tokens"]), (&(5 + 252).into(), &7.into()));
    // One that was drawn.
    let drawn = dir.path().join("drawn.csv");
    let name = drawn.display().to_string();
    let out = dsla(&["trace", &name, "--rate", "10", "--seconds", "60", "--lengths", "4,2"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let got = run(&name, &["--seconds", "0.3", "--speed", "10"]);
    assert!((10..60).contains(&got["requests"]["sent"].as_u64().expect("a number")), "{got}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 2, "nothing half-written");
}
