//! `dsla distill` and `dsla ablate` on the real model, small.

mod calls;

use calls::{json, refused};
use std::path::Path;

const MODEL: &str = "smollm2-135m-instruct";

/// All stages on a file and on the teacher's own text, two layers with changes of their projections; what comes out
/// generates, and a finished run that is resumed ends as it ended.
#[test]
fn every_stage_on_a_text_and_on_the_teachers_own() {
    let dir = tempfile::tempdir().unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md").display().to_string();
    let out = dir.path().join("adapter").display().to_string();
    let options = "--tokens 1024 --batch-tokens 256 --lengths 128 --chain-tokens 512 --chain-batch-tokens 256 \
         --chain-lengths 128,256 --layers 27,13 --lora 2 --rank-windows 1 --rank-context 128 --rank-recall 1 \
         --stages calibrate,align,rank,chain --json";
    let mut args = vec!["distill", MODEL, "--text", &text, "self:300", "--out", &out];
    args.extend(options.split_whitespace());
    let first = json(&args);
    assert_eq!(first["training"]["tokens"], 1024 + 512);
    let mut order: Vec<u64> =
        first["order"].as_array().unwrap().iter().map(|l| l.as_u64().unwrap()).collect();
    order.sort();
    assert_eq!(order, [13, 27]);
    assert_eq!(first["quality"].as_array().unwrap().len(), 3);
    let metrics = std::fs::read_to_string(Path::new(&out).join("metrics.jsonl")).unwrap();
    let stages: Vec<_> = metrics
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["stage"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(stages, ["align", "align", "align", "align", "chain", "chain"]);
    let files: Vec<_> = std::fs::read_dir(Path::new(&out).join("tokens"))
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().any(|f| f.starts_with("self-300")) && files.iter().all(|f| f.ends_with(".tokens")));
    args.push("--resume");
    assert_eq!(json(&args)["quality"], first["quality"]);
    let said = json(&[
        "generate",
        MODEL,
        "--adapter",
        &out,
        "--layers",
        "13,27",
        "--prompt",
        "The sky is",
        "--max-tokens",
        "4",
        "--json",
    ]);
    assert_eq!(said["ids"].as_array().unwrap().len(), 4);
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a").display().to_string();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md").display().to_string();
    for (more, word) in [
        (vec!["--text", "self:none"], "self:none"),
        (vec!["--text", &text, "--lora", "some"], "--lora"),
        (vec!["--text", &text, "--lora", "0"], "rank 0"),
        (vec!["--text", &text, "--stages", "align,polish"], "polish"),
        (vec!["--text", &text, "--stages", "chain", "--chain-lr", "nan"], "lr"),
        (vec!["--text", "nowhere.txt"], "nowhere.txt"),
    ] {
        let mut args = vec!["distill", MODEL, "--out", &out];
        args.extend(&more);
        refused(&args, &[word]);
    }
    refused(&["ablate", MODEL, "--text", &text, "--out", &out, "--only", "colour"], &["--only: got colour"]);
}
