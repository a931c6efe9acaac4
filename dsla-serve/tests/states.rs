//! `dsla states` and `dsla mqar` from the outside: what they write, and what they refuse.

use std::path::Path;
use std::process::{Command, Output};

fn dsla(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dsla")).args(args).output().unwrap()
}

fn refused(args: &[&str], code: i32, words: &str) {
    let out = dsla(args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(words), "{args:?}: {text}");
}

#[test]
fn mqar_trains_converts_asks_and_writes_its_page() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let small = [
        "mqar",
        "--out",
        out,
        "--seeds",
        "1",
        "--steps",
        "2",
        "--length",
        "64",
        "--pairs",
        "6",
        "--hidden",
        "16",
        "--batch-tokens",
        "64",
        "--align-steps",
        "1",
        "--chain-steps",
        "2",
        "--count",
        "2",
        "--json",
    ];
    let run = dsla(&small);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(json["tasks"].as_array().unwrap().len(), 2);
    // Four forms at two windows.
    assert!(json["tasks"].as_array().unwrap().iter().all(|t| t["rows"].as_array().unwrap().len() == 8));
    let page = std::fs::read_to_string(dir.path().join("mqar.html")).unwrap();
    assert!(page.matches("<svg").count() == 8 && !page.contains("NaN"));
    let kept: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("mqar.json")).unwrap()).unwrap();
    assert_eq!(kept, json);
    // The models it left are used again, and so give the same numbers.
    let again = dsla(&[&small[..], &["--reuse"]].concat());
    let note = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success() && !note.contains("training"), "{note}");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&again.stdout).unwrap(), json);
}

#[test]
fn what_cannot_be_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    refused(&["mqar", "--out", out, "--length", "100"], 1, "power of two");
    refused(&["mqar", "--out", out, "--seeds", "0"], 1, "one at least");
    refused(&["mqar", "--out", out, "--tasks", "zoology"], 2, "mqar or forgetting");
    refused(&["mqar", "--out", out, "--pairs", "0"], 1, "a pair, a key and two values");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures/tiny_tied");
    let text = dir.path().join("text");
    std::fs::write(&text, "a text").unwrap();
    let (tiny, text) = (tiny.to_str().unwrap(), text.to_str().unwrap());
    refused(&["states", tiny, "--text", text, "--out", out], 1, "--adapter: got none");
    assert!(!dir.path().join("states.json").exists());
}
