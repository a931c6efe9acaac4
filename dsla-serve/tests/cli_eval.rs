//! `dsla eval` and `dsla sensitivity` as scripts use them, small: JSON, pages, one line for bad input.

mod calls;

use calls::{dsla, json, refused, write};
use std::path::Path;

const MODEL: &str = "smollm2-135m-instruct";

fn text(dir: &Path) -> String {
    write(dir, "t.txt", "The river runs past the old mill, and nobody has asked why. ".repeat(30).as_bytes())
}

/// A page that shows something, with nothing in it that a browser would have to fetch.
fn page(file: &Path, words: &[&str]) {
    let html = std::fs::read_to_string(file).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert!(!html.contains("NaN") && !html.contains("src=") && !html.contains("href="));
    for w in words {
        assert!(html.contains(w), "no {w} in the page");
    }
}

#[test]
fn divergence_at_several_rates_and_by_position() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("kl.html");
    let out = report.display().to_string();
    let t = text(dir.path());
    let common = ["--text", &t, "--context", "80", "--windows", "1", "--json"];
    let v = json(&[&["eval", "kl", MODEL, "--rates", "0,1", "--report", &out][..], &common].concat());
    let rates = v["rates"].as_array().unwrap();
    assert_eq!((rates.len(), v["kl"] == rates[0]["kl"], v["tokens"] == 80), (2, true, true));
    assert!(rates[0]["kl"].as_f64().unwrap() < 1e-9 && rates[1]["kl"].as_f64().unwrap() > 1e-4);
    let last = rates[1]["by_position"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["from"], &last["to"], &last["tokens"]), (&64.into(), &128.into(), &16.into()));
    page(&report, &["30 of 30 layers", "<svg", "polyline", "</table>", "eval kl"]);
    let v = json(&[&["eval", "fold", MODEL, "--rate", "1", "--after", "16"][..], &common].concat());
    for way in ["fold", "drop", "prefill"] {
        assert_eq!(v[way]["tokens"], 16, "{v}");
    }
    assert!(v["drop"]["kl"].as_f64().unwrap() > v["fold"]["kl"].as_f64().unwrap(), "{v}");
    refused(&[&["eval", "fold", MODEL][..], &common].concat(), &["--rate", "no layer"]);
    refused(
        &[&["eval", "fold", MODEL, "--rate", "1", "--after", "80"][..], &common].concat(),
        &["after", "80"],
    );
    refused(&[&["eval", "kl", MODEL, "--rates", "0,1.5"][..], &common].concat(), &["--rate", "1.5"]);
}

#[test]
fn everything_on_one_page() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("all.html");
    let t = text(dir.path());
    let v = json(&[
        "eval",
        "all",
        MODEL,
        "--text",
        &t,
        "--context",
        "64",
        "--windows",
        "1",
        "--after",
        "8",
        "--rates",
        "0,0.5",
        "--tasks",
        "passkey,vt",
        "--length",
        "160",
        "--count",
        "2",
        "--report",
        &report.display().to_string(),
        "--json",
    ]);
    assert_eq!((v["kl"].as_array().unwrap().len(), v["fold"].as_array().unwrap().len()), (2, 1));
    let tasks: Vec<_> = v["recall"].as_array().unwrap().iter().map(|r| r["task"].as_str().unwrap()).collect();
    assert_eq!(tasks, ["passkey", "vt"]);
    assert_eq!(v["recall"][0]["rates"].as_array().unwrap().len(), 2);
    page(&report, &["15 of 30 layers", "Recall: vt", "Conversion in mid-flight", "by position"]);
}

#[test]
fn recall_by_task() {
    let v =
        json(&["eval", "recall", MODEL, "--task", "multikey", "--length", "200", "--count", "2", "--json"]);
    assert_eq!(
        (&v["task"], &v["count"], &v["questions"], &v["length"]),
        (&"multikey".into(), &2.into(), &2.into(), &200.into())
    );
    assert!(v["by_depth"].as_array().unwrap().iter().all(|b| b["count"].as_u64().unwrap() > 0));
    let v = json(&["eval", "recall", MODEL, "--task", "mqar", "--length", "100", "--count", "1", "--json"]);
    assert_eq!((&v["count"], &v["questions"]), (&1.into(), &8.into()));
    assert_eq!(dsla(&["eval", "recall", MODEL, "--task", "telepathy"]).status.code(), Some(2), "usage");
    refused(&["eval", "recall", MODEL, "--length", "20"], &["passkey", "length", "20"]);
    refused(&["eval", "recall", MODEL, "--length", "9000"], &["passkey", "length", "9000"]);
}

#[test]
fn data_of_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| write(dir.path(), name, content.as_bytes());
    let rows = file(
        "c.jsonl",
        "{\"context\": \"Two plus two is\", \"choices\": [\"four\", \"a horse\"], \"gold\": 0}\n\n{\"goal\": \"Dry your hair.\", \"sol1\": \"Use a towel.\", \"sol2\": \"Use a brick.\", \"label\": 0}\n",
    );
    let v = json(&["eval", "choices", MODEL, "--data", &rows, "--rate", "0.5", "--json"]);
    assert_eq!((&v["count"], &v["chance"], &v["rate"]), (&2.into(), &0.5.into(), &0.5.into()));
    assert!(v["acc"].is_f64() && v["acc_norm"].is_f64());
    let qa = file(
        "q.jsonl",
        r#"{"context": "Anna has a red boat.", "question": "What colour is the boat?", "answers": ["red"]}"#,
    );
    let v = json(&["eval", "qa", MODEL, "--data", &qa, "--max-tokens", "8", "--json"]);
    assert!(v["f1"].as_f64().unwrap() >= v["exact_match"].as_f64().unwrap() && v["count"] == 1, "{v}");
    let s = file(
        "s.jsonl",
        r#"{"document": "Anna has a red boat. It is old.", "summary": "Anna has an old red boat."}"#,
    );
    let v = json(&["eval", "summary", MODEL, "--data", &s, "--max-tokens", "16", "--json"]);
    assert!(
        ["rouge1", "rouge2", "rougeL"].iter().all(|k| (0.0..=1.0).contains(&v[*k].as_f64().unwrap())),
        "{v}"
    );
    refused(&["eval", "choices", MODEL, "--data", "/nonexistent/c.jsonl"], &["/nonexistent/c.jsonl"]);
    refused(&["eval", "choices", MODEL, "--data", &file("e.jsonl", "")], &["e.jsonl", "no rows"]);
    refused(
        &["eval", "qa", MODEL, "--data", &file("b.jsonl", "{\"a\": 1}\n{")],
        &["b.jsonl", "line 2", "malformed"],
    );
    refused(&["eval", "summary", MODEL, "--data", &qa], &["q.jsonl", "line 1", "document", "nothing"]);
    let latin = write(dir.path(), "l.jsonl", b"{\"context\": \"caf\xe9\"}");
    refused(&["eval", "choices", MODEL, "--data", &latin], &["l.jsonl", "line 1", "UTF-8"]);
}

#[test]
fn orders_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let (t, plot) = (text(dir.path()), dir.path().join("orders.svg"));
    let common = ["--text", &t, "--context", "80", "--windows", "1", "--json"];
    let v = json(
        &[
            &["sensitivity", MODEL, "--compare", "adapter,entropy,entropy_desc,depth", "--at", "3,9"][..],
            &["--eval-windows", "1", "--plot", &plot.display().to_string()],
            &common,
        ]
        .concat(),
    );
    let orders = v["orders"].as_array().unwrap();
    let order = |i: usize| orders[i]["order"].as_array().unwrap().clone();
    assert_eq!((orders.len(), v["tokens"] == 80), (4, true));
    assert_eq!(order(1), order(2).into_iter().rev().collect::<Vec<_>>());
    assert_eq!((&orders[3]["quality"][1]["converted"], &order(3)[0]), (&9.into(), &29.into()));
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("entropy_desc") && svg.matches("<polyline").count() == 8);
    let few = ["sensitivity", MODEL, "--compare", "depth", "--eval-windows", "50"];
    refused(&[&few[..], &common].concat(), &["t.txt", "windows", "50"]);
    let far = ["sensitivity", MODEL, "--compare", "depth", "--at", "31", "--eval-windows", "1"];
    refused(&[&far[..], &common].concat(), &["at", "31", "30"]);
    assert_eq!(
        dsla(&["sensitivity", MODEL, "--text", &t, "--metric", "best"]).status.code(),
        Some(2),
        "usage"
    );
}
