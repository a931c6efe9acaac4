//! A whole run over fake engines: Python scripts that speak the protocol.

use super::engine::Engine;
use super::rows::{Facts, Limits, OURS, Settings, measure};
use super::{numbers, pretty, result, table, words};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// Ready, then `answer` (Python, sees `job`) for each line.
fn fake(dir: &std::path::Path, name: &str, answer: &str) -> Engine {
    let script = format!(
        "import json, sys\nprint(json.dumps(dict(ready=True, version='1', gemm_gflops=100, read_gb_s=10)), flush=True)\n\
         for line in sys.stdin:\n    job = json.loads(line)\n    {answer}\n    print(json.dumps(out), flush=True)\n"
    );
    start(dir, name, &script)
}

fn start(dir: &std::path::Path, name: &str, script: &str) -> Engine {
    let mut python = Command::new("python3");
    python.args(["-c", script]);
    Engine::start(name, "bf16", python, &dir.join(name))
}

#[test]
fn a_run_survives_engines_that_die_and_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let died = "\n    if job['job'] == 'decode': sys.exit('MemoryError: no room\\nat /usr/x/y.py')\n    out = dict(tok_s=3)";
    let mut engines = vec![
        fake(
            dir,
            OURS,
            "out = dict(tok_s=20 if job['rate'] else 10, flops_per_token=1e9, bytes_per_step=5e8)",
        ),
        fake(dir, "steady", "out = dict(tok_s=5)"),
        fake(dir, "dies", died),
        fake(
            dir,
            "picky",
            "out = dict(error='no room in /a/b/c') if job['context'] > 512 else dict(tok_s=40)",
        ),
        fake(dir, "odd", "out = dict(speed=1)"),
        start(dir, "refuses", "print('{\"error\": \"needs AVX-512\"}')"),
        start(dir, "broken", "raise ImportError('libfoo.so')"),
        start(dir, "chatty", "print('hello')"),
        Engine::start("missing", "bf16", Command::new(dir.join("nothing")), &dir.join("log")),
    ];
    let errors: Vec<Option<&str>> = engines.iter().map(|e| e.error.as_deref()).collect();
    assert_eq!(errors[..5], [None; 5]);
    assert_eq!(errors[5], Some("needs AVX-512"));
    assert!(
        errors[6].is_some_and(|e| e.contains("died") && e.contains("ImportError: libfoo.so")),
        "{errors:?}"
    );
    assert!(errors[7].is_some_and(|e| e.contains("hello")), "{errors:?}");
    assert!(errors[8].is_some_and(|e| e.contains("does not start")), "{errors:?}");

    let settings = Settings {
        contexts: vec![512, 2048],
        rates: vec![0.0, 0.75],
        batches: vec![1],
        tokens: 4,
        repeats: 2,
    };
    let limits = Limits::of(&engines);
    let rows = measure(&mut engines, &settings, &Facts(Value::Null), limits, Duration::ZERO);
    // Two jobs, two contexts: ours at two rates, four peers that started.
    assert_eq!(rows.len(), 2 * 2 * (2 + 4));
    let row = |job: &str, context: usize, label: &str| {
        rows.iter().find(|r| r.job == job && r.context == context && r.label() == label).unwrap()
    };
    let ours = row("prefill", 512, "dsla bf16 at 0.75");
    assert_eq!((ours.median(), ours.samples.len()), (Some(20.0), 2));
    assert_eq!(ours.same.as_ref().map(|r| (r.peer.as_str(), r.value)), Some(("picky bf16", 0.5)));
    assert!((ours.share.unwrap() - 20.0).abs() < 1e-9);
    assert!((row("decode", 512, "dsla bf16").share.unwrap() - 50.0).abs() < 1e-9);
    assert_eq!(row("prefill", 2048, "dsla bf16").same.as_ref().map(|r| r.value), Some(2.0));
    assert_eq!(row("prefill", 2048, "picky bf16").error.as_deref(), Some("no room in c"));
    // It answered once; the last line that speaks of an error is the reason from then on.
    let dead = row("prefill", 512, "dies bf16");
    assert_eq!(dead.samples, [Some(3.0), None]);
    assert!(dead.error.as_ref().is_some_and(|e| e.contains("MemoryError: no room")), "{:?}", dead.error);
    assert!(row("decode", 2048, "dies bf16").error.is_some());
    assert!(row("decode", 512, "odd bf16").error.as_ref().is_some_and(|e| e.contains("want \"tok_s\"")));

    let text = table::render(&engines, &rows, limits);
    for part in
        ["refuses bf16: needs AVX-512", "0.50x picky bf16", "MemoryError: no room", "ImportError: libfoo.so"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let value = result(&json!({"cpu": "c"}), &settings, &engines, &rows, limits);
    let back: Value = serde_json::from_str(&pretty(&value).unwrap()).unwrap();
    assert_eq!(back, value);
    assert_eq!(back["rows"][1]["vs_same_format"]["peer"], "picky bf16");
    assert!(!back.to_string().contains("/usr/x"), "{back}");
}

#[test]
fn lists() {
    assert_eq!(words("--vs", "torch, candle", &super::PEERS).unwrap(), ["torch", "candle"]);
    assert!(words("--vs", "torch,tensorrt", &super::PEERS).unwrap_err().to_string().contains("tensorrt"));
    assert_eq!(numbers::<f64>("--rate", "0, 0.75").unwrap(), [0.0, 0.75]);
    assert!(numbers::<usize>("--batch", "1,x").unwrap_err().to_string().contains("--batch: got `x`"));
}
