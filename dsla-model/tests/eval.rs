//! Evaluation: by position and in mid-flight on small checkpoints, choices and recall on the real model.

use dsla_core::kernels::Slice;
use dsla_model::eval::*;
use dsla_model::{Adapter, DType, Device, Form, Model, Plan, Step, Want, hub};
use std::path::{Path, PathBuf};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// A small hybrid and some tokens for it.
fn tiny() -> (Model, Vec<u32>) {
    let model = Model::load(here("fixtures/tiny_llama3"), &Device::Cpu, DType::F32).unwrap();
    let form = Form { window: 5, sinks: 2, ..Form::native() };
    let adapter = Adapter::init(&model, &form).unwrap();
    (model.with_adapter_value(adapter).unwrap(), (0..60).map(|i| (i * 7 + i / 3) % 50).collect())
}

/// The real model, fetched when it is not in the cache: these tests never skip.
fn real() -> Model {
    Model::load(hub::fetch("smollm2-135m-instruct", &mut |_| {}).unwrap(), &Device::Cpu, DType::BF16).unwrap()
}

fn quiet(_: usize, _: usize) {}

#[test]
fn divergence_by_position_adds_up() {
    let (model, tokens) = tiny();
    let w = windows(&tokens, 25, None).unwrap();
    let d = divergence(&model, &[model.plan(0), model.plan(2)], &w, quiet).unwrap();
    assert!(d[0].kl.abs() < 1e-9 && d[1].kl > 1e-6, "{d:?}");
    let b = &d[1].by_position;
    let ends: Vec<_> = b.iter().map(|b| (b.from, b.to, b.tokens)).collect();
    // Windows of 25, 25 and 10 tokens.
    assert_eq!(ends, [(0, 1, 3), (1, 2, 3), (2, 4, 6), (4, 8, 12), (8, 16, 18), (16, 32, 18)]);
    let mean = b.iter().map(|b| b.kl * b.tokens as f64).sum::<f64>() / 60.0;
    assert!((mean - d[1].kl).abs() < 1e-12);
    // Two sinks and a window of five are exact: nothing diverges before a token has left both.
    assert!(b[..3].iter().all(|b| b.kl < 1e-9), "{b:?}");
}

/// The last layer's inputs do not depend on its own kind, so there a fold is what prefill gives, to rounding; dropping
/// is what costs.
#[test]
fn a_fold_keeps_what_a_drop_loses() {
    let (model, tokens) = tiny();
    let w = windows(&tokens, 30, None).unwrap();
    let last = Plan::of_layers(2, &[1]);
    let q = fold(&model, &last, &w, 10, quiet).unwrap();
    assert_eq!((q.fold.tokens, q.fold.by_position.len()), (20, 5));
    assert!((q.fold.kl - q.prefill.kl).abs() < 1e-3 * q.prefill.kl, "{q:?}");
    assert!(q.drop.kl > 1.1 * q.fold.kl, "{q:?}");
    let refused = |plan: &Plan, after| fold(&model, plan, &w, after, quiet).unwrap_err().to_string();
    assert!(refused(&Plan::teacher(2), 10).contains("rate"));
    assert!(refused(&last, 30).contains("after") && refused(&last, 1).contains("after"));
}

/// A shared prefix and ragged batches change nothing: each choice alone, whole, gives the same likelihood.
#[test]
fn choices_on_common_sense() {
    let model = real();
    let questions = read_questions(&here("data/common_sense.jsonl")).unwrap();
    let s = choices(&model, &model.plan(0), &questions, quiet).unwrap();
    assert_eq!((s.count, s.chance), (24, 0.25));
    assert!(s.acc >= 0.75 && s.acc_norm >= 0.75 && s.acc_bytes == s.acc_norm, "{s:?}");
    let t = model.tokenizer().unwrap();
    let mut hits = 0;
    for q in &questions[..6] {
        let mut best = (0, f64::NEG_INFINITY);
        for (i, c) in q.choices.iter().enumerate() {
            let tokens = t.encode(&format!("{}{}", c.context, c.continuation), false).unwrap();
            let context = t.encode(&c.context, false).unwrap().len();
            let score = likelihood(&model, &tokens, context);
            if score > best.1 {
                best = (i, score);
            }
        }
        hits += (best.0 == q.gold) as usize;
    }
    let six = choices(&model, &model.plan(0), &questions[..6], quiet).unwrap();
    assert_eq!((six.acc * 6.0).round() as usize, hits);
}

/// Log likelihood of tokens[from..], from the logits of one pass.
fn likelihood(model: &Model, tokens: &[u32], from: usize) -> f64 {
    let mut seq = model.new_sequence(&model.plan(0)).unwrap();
    let logits = model.forward(&mut [Step { seq: &mut seq, tokens, logits: Want::All }]).unwrap();
    let v = model.config().vocab_size;
    let Slice::F32(logits) = logits.view().slice() else { panic!("f32") };
    (from..tokens.len())
        .map(|i| {
            let row = &logits[(i - 1) * v..i * v];
            let sum: f64 = row.iter().map(|&x| (x as f64).exp()).sum();
            row[tokens[i] as usize] as f64 - sum.ln()
        })
        .sum()
}

#[test]
fn datasets_as_the_hub_exports_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    let rows = [
        r#"{"goal": "Open a jar.", "sol1": "Twist the lid.", "sol2": "Eat the lid.", "label": 0}"#,
        r#"{"id": "x", "question": "Which is wet?", "choices": {"text": ["sand", "rain"], "label": ["1", "2"]}, "answerKey": "2"}"#,
        r#"{"ind": 4, "activity_label": "Roofing", "ctx_a": "A man is on a roof.", "ctx_b": "he", "ctx": "", "endings": ["sits. [step]", "flies."], "label": "1"}"#,
        r#"{"sentence": "The cup broke the plate because _ was hard.", "option1": "the cup", "option2": "the plate", "answer": "1"}"#,
        r#"{"context": "Two and two is", "choices": ["four", " five"], "gold": "0"}"#,
    ];
    std::fs::write(&file, rows.join("\n\n")).unwrap();
    let q = read_questions(&file).unwrap();
    let parts =
        |i: usize, c: usize| (q[i].choices[c].context.as_str(), q[i].choices[c].continuation.as_str());
    assert_eq!(q.iter().map(|q| q.gold).collect::<Vec<_>>(), [0, 1, 1, 0, 0]);
    assert_eq!(parts(0, 1), ("Question: Open a jar.\nAnswer:", " Eat the lid."));
    assert_eq!(parts(1, 0), ("Question: Which is wet?\nAnswer:", " sand"));
    assert_eq!(parts(2, 0), ("Roofing: A man is on a roof. He", " sits. "));
    assert_eq!(parts(3, 1), ("The cup broke the plate because the plate", " was hard."));
    assert_eq!((parts(4, 0).1, parts(4, 1).1), (" four", " five"));
    // The line counts blank lines too, and the field is named.
    for (row, words) in [
        (r#"{"context": "a", "choices": ["b", "c"], "gold": 2}"#, ["line 3", "gold", "2"]),
        (r#"{"context": "a", "choices": ["b"], "gold": 0}"#, ["line 3", "choices", "at least 2"]),
        (r#"{"context": "a", "choices": ["b", 1], "gold": 0}"#, ["line 3", "choices", "strings"]),
        (r#"{"goal": "a", "sol1": "b", "sol2": "c", "label": -1}"#, ["line 3", "label", "-1"]),
        (
            r#"{"sentence": "a _ b", "option1": "a", "option2": "b", "answer": ""}"#,
            ["line 3", "answer", "\"1\""],
        ),
        (
            r#"{"sentence": "ab", "option1": "a", "option2": "b", "answer": "1"}"#,
            ["line 3", "sentence", "blank"],
        ),
        (
            r#"{"question": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "C"}"#,
            ["line 3", "answerKey", "A, B"],
        ),
        (r#"{"text": "a"}"#, ["line 3", "other fields", "WinoGrande"]),
        ("[1]", ["line 3", "[1]", "object"]),
        ("{\"context\": ", ["line 3", "malformed JSON", "object"]),
    ] {
        std::fs::write(&file, format!("{}\n\n{row}\n", rows[0])).unwrap();
        let e = read_questions(&file).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(words.iter().all(|w| e.contains(w)) && !e.contains('\n'), "{row}: {e}");
    }
    std::fs::write(&file, b"{}\n\xff\xfe\n").unwrap();
    let e = read_asked(&file).err().unwrap().to_string();
    assert!(e.contains("line 2") && e.contains("UTF-8"), "{e}");
    for empty in ["", "\n \n"] {
        std::fs::write(&file, empty).unwrap();
        let e = read_documents(&file).err().unwrap().to_string();
        assert!(e.contains("no rows") && e.contains("rows.jsonl"), "{e}");
    }
}

/// Every task at a small size: the same seed asks the same, every question has its depth, and a model that can answer
/// does: the teacher finds what stands a few lines above.
#[test]
fn recall_tasks_repeat_and_are_answerable() {
    let model = real();
    let plan = [model.plan(0)];
    let run = |task, length, count| {
        let setup = Setup { length, count, seed: 3 };
        let found = recall(&model, task, &plan, &setup, quiet).unwrap().remove(0);
        println!("{}: {found:?}", task.name());
        assert_eq!(found.by_depth.iter().map(|b| b.count).sum::<usize>(), found.questions);
        found
    };
    assert!(run(Task::Passkey, 128, 3).accuracy > 0.6);
    assert!(run(Task::Multikey, 220, 3).accuracy > 0.3);
    assert!(run(Task::Phonebook, 90, 3).accuracy > 0.3);
    let mqar = run(Task::Mqar, 90, 1);
    assert!(mqar.questions == 8 && mqar.accuracy > 0.2, "{mqar:?}");
    assert_eq!(run(Task::Tracking, 160, 1), run(Task::Tracking, 160, 1));
    assert!("nothing".parse::<Task>().is_err());
    for task in Task::ALL {
        assert_eq!(task.name().parse::<Task>().unwrap(), task);
        for (length, count) in [(20, 1), (usize::MAX, 1), (200, 0)] {
            let setup = Setup { length, count, seed: 0 };
            let e = recall(&model, task, &plan, &setup, quiet).unwrap_err().to_string();
            assert!(e.contains(task.name()), "{e}");
        }
    }
}

#[test]
fn answers_and_summaries_are_scored() {
    let model = real();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    let context = "The bridge over the Elbe was built in 1912 by the engineer Karl Weber.";
    let row = |q: &str, answers: &str| {
        format!("{{\"context\": \"{context}\", \"question\": \"{q}\", \"answers\": {answers}}}")
    };
    let rows = [
        row("When was the bridge built?", "[\"1912\", \"in 1912\"]"),
        row("Who built the bridge?", "{\"text\": [\"Karl Weber\"], \"answer_start\": [57]}"),
    ];
    std::fs::write(&file, rows.join("\n")).unwrap();
    let prompting = Prompting { chat: false, max_tokens: 24 };
    let s = qa(&model, &model.plan(0), &read_asked(&file).unwrap(), &prompting, quiet).unwrap();
    println!("{s:?}");
    assert!(s.count == 2 && s.f1 > 0.2 && s.f1 <= 1.0 && s.exact_match <= s.f1, "{s:?}");
    let asked = read_asked(&file).unwrap();
    let long = Prompting { max_tokens: 8190, ..prompting };
    let e = qa(&model, &model.plan(0), &asked, &long, quiet).unwrap_err().to_string();
    assert!(e.contains("line 1") && e.contains("tokens"), "{e}");
    std::fs::write(&file, format!("{{\"document\": \"{context}\", \"summary\": \"{context}\"}}")).unwrap();
    let chat = Prompting { chat: true, max_tokens: 32 };
    let r = summary(&model, &model.plan(0), &read_documents(&file).unwrap(), &chat, quiet).unwrap();
    println!("{r:?}");
    assert!(r.rouge1 > 0.3 && r.rouge1 >= r.rouge2 && r.rouge1 >= r.rouge_l, "{r:?}");
}
