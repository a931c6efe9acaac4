//! Calls of the binary that tests share.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};

pub fn dsla(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dsla")).args(args).output().unwrap()
}

pub fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../dsla-model/tests/fixtures")
        .join(name)
        .display()
        .to_string()
}

pub fn json(args: &[&str]) -> serde_json::Value {
    let out = dsla(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Fails with exit code 1 and one line that holds all of `words`.
pub fn refused(args: &[&str], words: &[&str]) {
    let out = dsla(args);
    let line = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {line}");
    assert!(out.stdout.is_empty(), "{args:?} printed a result");
    let errors: Vec<_> = line.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {line}");
    assert!(!line.contains("panicked"), "{line}");
    for w in words {
        assert!(errors[0].contains(w), "{args:?}: {line}: no {w}");
    }
}

pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}
