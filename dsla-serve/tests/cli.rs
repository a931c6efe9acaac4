//! The command line as scripts use it: JSON on stdout, one line on stderr, exit codes, nothing half-written.

mod calls;

use calls::{dsla, fixture, json, refused, write};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn generate_by_ids_without_a_tokenizer() {
    let m = fixture("tiny_tied");
    let v = json(&[
        "generate",
        &m,
        "--prompt-ids",
        "1,2,3",
        "--max-tokens",
        "5",
        "--ignore-eos",
        "--logprobs",
        "3",
        "--dtype",
        "f32",
        "--json",
    ]);
    assert_eq!(v["prompt_ids"], serde_json::json!([1, 2, 3]));
    assert_eq!(v["ids"].as_array().unwrap().len(), 5);
    assert_eq!(v["finish_reason"], "length");
    let first = &v["logprobs"][0];
    assert_eq!(first["top"].as_array().unwrap().len(), 3);
    assert_eq!(first["id"], v["ids"][0]);
    assert_eq!(first["top"][0][0], first["id"], "greedy takes the best");
    assert!(v["memory"]["weights"].as_u64().unwrap() > 0 && v["memory"]["kv"].as_u64().unwrap() > 0);
    assert!(v["timings"]["prefill_tok_s"].as_f64().unwrap() > 0.0);
    let again = json(&[
        "generate",
        &m,
        "--prompt-ids",
        "1,2,3",
        "--max-tokens",
        "5",
        "--ignore-eos",
        "--dtype",
        "f32",
        "--json",
        "--threads",
        "1",
    ]);
    assert_eq!(again["ids"], v["ids"]);
}

#[test]
fn bad_calls_get_one_line() {
    let m = fixture("tiny_tied");
    refused(&["generate", &m, "--prompt-ids", "1,999999"], &["999999"]);
    refused(&["generate", &m, "--prompt-ids", &vec!["1"; 5000].join(",")], &["5000"]);
    refused(&["generate", &m, "--prompt", "hello"], &["tokenizer"]);
    refused(&["generate", &m, "--prompt-ids", "1", "--rate", "0.5"], &["adapter"]);
    refused(&["generate", &m, "--prompt-ids", "1", "--rate", "1.5"], &["1.5"]);
    refused(&["generate", &m, "--prompt-ids", "1", "--layers", "77"], &["77"]);
    refused(&["generate", &m, "--prompt-ids", "1", "--device", "cuda:0"], &["cuda:0", "driver"]);
    refused(&["generate", &m, "--prompt-ids", "1", "--device", "tpu"], &["tpu"]);
    refused(&["generate", &m, "--prompt-ids", "1", "--temperature=-1"], &["temperature"]);
    refused(&["generate", "no-such-model", "--prompt-ids", "1"], &["no-such-model", "smollm2-135m-instruct"]);
    refused(&["info", &m, "--adapter", "/nonexistent/adapter"], &["dsla_adapter.json"]);
    refused(&["eval", "ppl", &m, "--context", "64", "--text", "/nonexistent/text"], &["/nonexistent/text"]);
    refused(&["fetch", "gpt-5"], &["gpt-5"]);
    let usage = dsla(&["generate", &m]);
    assert_eq!(usage.status.code(), Some(2), "usage");
}

#[test]
fn hostile_files_get_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| -> PathBuf {
        let to = dir.path().join(name);
        std::fs::create_dir_all(&to).unwrap();
        for f in std::fs::read_dir(fixture("tiny_tied")).unwrap() {
            let f = f.unwrap();
            std::fs::copy(f.path(), to.join(f.file_name())).unwrap();
        }
        to
    };
    let model = copy("truncated");
    let whole = std::fs::read(model.join("model.safetensors")).unwrap();
    let show = |p: &Path| p.display().to_string();
    for n in [0, 4, 8, 60, whole.len() - 1] {
        std::fs::write(model.join("model.safetensors"), &whole[..n]).unwrap();
        refused(&["info", &show(&model)], &["model.safetensors"]);
    }
    let mut nan = whole.clone();
    let end = nan.len();
    nan[end - 4..].fill(0xff);
    std::fs::write(model.join("model.safetensors"), &nan).unwrap();
    refused(&["info", &show(&model)], &["NaN"]);
    std::fs::write(model.join("model.safetensors"), &whole).unwrap();
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let mut bad: serde_json::Value = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("num_hidden_layers", 3u64),
        ("vocab_size", 1 << 60),
        ("num_attention_heads", 0),
        ("hidden_size", 33),
    ] {
        let old = bad[key].clone();
        bad[key] = value.into();
        std::fs::write(model.join("config.json"), bad.to_string()).unwrap();
        refused(&["info", &show(&model)], &[]);
        bad[key] = old;
    }
    refused(
        &["info", &write(dir.path(), "x.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff")],
        &["x.gguf"],
    );
    refused(&["info", &write(dir.path(), "y.bin", b"hello")], &["y.bin"]);
    let out = dir.path().join("out.safetensors");
    refused(
        &["layer", &write(dir.path(), "in.safetensors", b"\x10\0\0\0\0\0\0\0{}"), &show(&out)],
        &["in.safetensors"],
    );
    assert!(!out.exists());
}

#[test]
fn bad_texts_get_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let m = "smollm2-135m-instruct";
    refused(&["eval", "ppl", m, "--text", &write(dir.path(), "empty.txt", b"  \n")], &["empty.txt", "empty"]);
    refused(
        &["eval", "ppl", m, "--text", &write(dir.path(), "latin.txt", b"caf\xe9")],
        &["latin.txt", "byte 3"],
    );
    let short = write(dir.path(), "short.txt", b"A short text.");
    refused(
        &[
            "distill",
            m,
            "--text",
            &short,
            "--out",
            &dir.path().join("a").display().to_string(),
            "--tokens",
            "100",
        ],
        &["text"],
    );
    let form = write(dir.path(), "form.json", br#"{"feature_map":"softmax_pm","gate":"scalar","gate_input":"kv","gate_scale":1,"normalizer":"none","rope":true,"window":64,"gamma":"head"}"#);
    refused(&["distill", m, "--text", &short, "--out", "x", "--form", &form], &["form.json", "normalizer"]);
    let v = json(&[
        "eval",
        "ppl",
        m,
        "--text",
        &write(dir.path(), "t.txt", "One two three four five. ".repeat(20).as_bytes()),
        "--context",
        "32",
        "--windows",
        "2",
        "--json",
    ]);
    assert_eq!(v["tokens"], 62);
    assert!((v["ppl"].as_f64().unwrap().ln() - v["nll"].as_f64().unwrap()).abs() < 1e-9);
}

/// Every format gives text, the text's likelihood is near that of f32, and what is reported is what is held.
#[test]
fn quantised_weights() {
    let dir = tempfile::tempdir().unwrap();
    let m = "smollm2-135m-instruct";
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../LICENSE-APACHE")).unwrap();
    let text = write(dir.path(), "t.txt", text.as_bytes());
    let ppl = |dtype: &str| {
        let v = json(&[
            "eval",
            "ppl",
            m,
            "--text",
            &text,
            "--context",
            "1024",
            "--windows",
            "2",
            "--dtype",
            dtype,
            "--json",
        ]);
        v["ppl"].as_f64().unwrap()
    };
    let want = ppl("f32");
    // Bytes of 32 weights; the output layer has 34.
    let output = 49_152 * 576u64;
    for (dtype, share, block) in [("q8_0", 0.02, 34), ("q4_1", 0.02, 20), ("q4_0", 0.4, 18)] {
        let off = ppl(dtype) / want - 1.0;
        assert!(off.abs() < share, "{dtype}: perplexity off by {:.2}%", 100.0 * off);
        let v = json(&[
            "generate",
            m,
            "--prompt",
            "The capital of France is",
            "--max-tokens",
            "8",
            "--temperature",
            "0",
            "--dtype",
            dtype,
            "--json",
        ]);
        assert!(v["text"].as_str().is_some_and(|t| t.contains(char::is_alphabetic)), "{dtype}: {v}");
        let held = v["memory"]["weights"].as_u64().unwrap();
        let linear = (134_479_872 - output) / 32 * block + output / 32 * 34;
        assert!((linear..linear + 200_000).contains(&held), "{dtype}: {held}, want {linear} and the norms");
        let v = json(&["info", m, "--dtype", dtype, "--json"]);
        assert_eq!((v["dtype"].as_str(), v["bytes"]["total"].as_u64()), (Some(dtype), Some(held)));
    }
    let tiny = fixture("tiny_tied");
    refused(
        &["generate", &tiny, "--prompt-ids", "1", "--dtype", "q8_0"],
        &["mlp.down_proj", "[32, 40]", "multiple of 32"],
    );
    let out = dsla(&["generate", &tiny, "--prompt-ids", "1", "--dtype", "q5_k"]);
    let line = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && line.contains("q5_k") && line.contains("q8_0"), "{line}");
    // Whichever way a file is cut off: the reader of its header says so.
    let whole = std::fs::read(dsla_model::hub::fetch(m, &mut |_| {}).unwrap()).unwrap();
    let cut = write(dir.path(), "cut.gguf", &whole[..whole.len() - 1]);
    refused(&["info", &cut, "--dtype", "q4_1"], &["cut.gguf", "bytes"]);
}

/// The main job, small: both answers, the perplexities, both engines, the table and the picture.
#[test]
fn the_demo_runs_to_its_plot() {
    let dir = tempfile::tempdir().unwrap();
    let out =
        dsla(&["demo", "--prompts", "4", "--length", "200", "--out", &dir.path().display().to_string()]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    for part in [
        "[teacher]",
        "[15 of 30 layers converted]",
        "8 layers converted:",
        "[adaptive]",
        "peak KV cache",
        "plot: ",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(std::fs::read_to_string(dir.path().join("demo.svg")).unwrap().contains("polyline"));
}

/// A reader that goes away early ends the program without a word.
#[test]
fn a_closed_pipe_is_no_panic() {
    assert!(dsla(&["fetch", "smollm2-135m-instruct"]).status.success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_dsla"))
        .args(["info", "smollm2-135m-instruct"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
}

#[test]
fn bench_answers_jobs() {
    use std::io::Write;
    let args = ["bench", &fixture("tiny_tied"), "--jobs", "--context", "8", "--tokens", "2"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_dsla"))
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let jobs = [
        r#"{"job":"prefill","context":8,"batch":2,"rate":0,"tokens":2,"format":"bf16"}"#,
        r#"{"job":"decode","context":8,"batch":2,"rate":0,"tokens":2,"format":"bf16"}"#,
        r#"{"job":"decode","context":4,"tokens":2}"#,
        r#"{"job":"decode","context":8,"format":"q8_0"}"#,
        r#"{"job":"prefill","context":100000}"#,
        r#"{"job":"prefill","context":8,"tokens":2,"rate":0.5}"#,
        r#"{"job":"nap"}"#,
        "no json",
    ];
    child.stdin.take().unwrap().write_all(jobs.join("\n").as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 1 + jobs.len(), "{text}");
    assert!(lines[0]["ready"] == true && lines[0]["gemm_gflops"].as_f64().unwrap() > 0.0, "{text}");
    for (i, line) in lines.iter().enumerate().skip(1) {
        assert_eq!(line["tok_s"].as_f64().is_some_and(|v| v > 0.0), i <= 3, "{line}");
        assert_eq!(line["error"].is_string(), i > 3, "{line}");
    }
    assert!(lines[2]["bytes_per_step"].as_f64().unwrap() > lines[2]["kv_bytes"].as_f64().unwrap());
}
