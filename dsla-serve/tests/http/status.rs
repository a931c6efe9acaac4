//! What the server says about itself.

use super::client::{get, post};
use super::{eventually, plain, serving};
use dsla_serve::http::Options;
use dsla_serve::{EngineConfig, Policy};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[test]
fn models() {
    let s = serving(Options::new("org/tiny"), EngineConfig::default());
    let list = get(s.at, "/v1/models").json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("org/tiny")));
    assert_eq!(list["data"][0]["max_model_len"], 256);
    assert_eq!(get(s.at, "/v1/models/org/tiny").json(), list["data"][0]);
    get(s.at, "/v1/models/gpt-5").refused(404, Some("model"));
}

#[test]
fn tokens_there_and_back() {
    let s = plain();
    let got = post(s.at, "/tokenize", &json!({"prompt": "hé w", "return_token_strs": true})).json();
    assert_eq!((&got["count"], &got["max_model_len"]), (&json!(5), &json!(256)));
    assert_eq!(got["token_strs"], json!(["h", "Ã", "©", "Ġ", "w"]));
    let back = post(s.at, "/detokenize", &json!({"tokens": got["tokens"]})).json();
    assert_eq!(back, json!({"prompt": "hé w"}));
    let chat = post(s.at, "/tokenize", &json!({"messages": [{"role": "user", "content": "Hi"}]})).json();
    let text = post(s.at, "/detokenize", &json!({"tokens": chat["tokens"]})).json();
    assert_eq!(text["prompt"], "<begin>user Hi.a");
    post(s.at, "/tokenize", &json!({})).refused(400, Some("prompt"));
    post(s.at, "/detokenize", &json!({"tokens": "x"})).refused(400, Some("tokens"));
}

/// Samples by name and labels, and the types of the names.
fn samples(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut values, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} once");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert_eq!(values.insert(name.to_owned(), value.parse().expect(line)), None, "{name} once");
        }
    }
    (values, types)
}

#[test]
fn metrics_count_what_was_served() {
    let config =
        EngineConfig { policy: Policy::Fixed(0.5), kv_budget: Some(1 << 20), ..EngineConfig::default() };
    let s = serving(Options::new("ti\"ny"), config);
    let body = json!({"prompt": "hello w", "max_tokens": 10, "ignore_eos": true, "n": 2});
    assert_eq!(post(s.at, "/v1/completions", &body).status, 200);
    post(s.at, "/v1/completions", &json!({"prompt": 5})).refused(400, Some("prompt"));
    // A step is counted after its events are out.
    eventually("counted", || s.engine().stats().finished == 2);
    let page = get(s.at, "/metrics");
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let (values, types) = samples(&page.body);
    let value = |name: &str, labels: &str| {
        let key = format!("dsla:{name}{{model_name=\"ti\\\"ny\"{labels}}}");
        *values.get(&key).unwrap_or_else(|| panic!("no {key} in\n{}", page.body))
    };
    for (name, want) in [
        ("prompt_tokens_total", 14.0),
        ("generation_tokens_total", 20.0),
        ("converted_layers", 1.0),
        ("target_rate", 0.5),
        ("num_requests_running", 0.0),
        ("num_requests_waiting", 0.0),
        ("kv_bytes", 0.0),
        ("kv_cache_usage_perc", 0.0),
        ("kv_budget_bytes", 1048576.0),
        ("folds_total", 0.0),
        ("request_failure_total", 0.0),
        ("time_to_first_token_seconds_count", 2.0),
        ("inter_token_latency_seconds_count", 18.0),
        ("e2e_request_latency_seconds_count", 2.0),
        ("request_prompt_tokens_sum", 14.0),
        ("request_generation_tokens_sum", 20.0),
        ("iteration_tokens_total_sum", 34.0),
    ] {
        assert_eq!(value(name, ""), want, "{name}");
    }
    assert_eq!(value("request_success_total", ",finished_reason=\"length\""), 2.0);
    assert_eq!(value("request_success_total", ",finished_reason=\"stop\""), 0.0);
    assert_eq!(value("http_responses_total", ",status=\"200\""), 1.0);
    assert_eq!(value("http_responses_total", ",status=\"400\""), 1.0);
    assert_eq!(value("request_generation_tokens_bucket", ",le=\"5\""), 0.0);
    assert_eq!(value("request_generation_tokens_bucket", ",le=\"10\""), 2.0);
    assert_eq!(value("request_generation_tokens_bucket", ",le=\"+Inf\""), 2.0);
    // Every sample belongs to a name with a type.
    for sample in values.keys() {
        let name = sample.split('{').next().expect("a name");
        let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
        let typed = of_histogram.filter(|n| types.get(*n).is_some_and(|t| t == "histogram")).count();
        assert!(types.contains_key(name) || typed == 1, "{name}");
    }
}

#[test]
fn the_state_of_conversion() {
    let s =
        serving(Options::new("tiny"), EngineConfig { policy: Policy::Fixed(0.5), ..EngineConfig::default() });
    let body = json!({"prompt": "hello w", "max_tokens": 3, "ignore_eos": true});
    assert_eq!(post(s.at, "/v1/completions", &body).status, 200);
    eventually("counted", || s.engine().stats().finished == 1);
    let got = get(s.at, "/v1/dsla").json();
    assert_eq!(got["policy"], "Fixed(0.5)");
    assert_eq!(
        got["target"],
        json!({"layers": 1, "rate": 0.5, "max_layers": 1, "of": 2, "quality": {"kl": 0.1, "ppl_ratio": 1.0}})
    );
    assert_eq!(got["layers"][0], json!({"layer": 0, "rank": 1, "target": false, "running_converted": 0}));
    assert_eq!(got["layers"][1], json!({"layer": 1, "rank": 0, "target": true, "running_converted": 0}));
    let mut load = got["load"].clone();
    assert!(load["prefill_tok_s"].take().as_f64().is_some_and(|rate| rate > 0.0));
    let want = json!({
        "waiting": 0, "max_waiting": 256, "running": 0, "max_running": 16, "prompt_tokens_ahead": 0, "prefill_tok_s": null,
    });
    assert_eq!(load, want);
    assert_eq!(got["counters"]["generated_tokens"], 3);
    assert_eq!(
        (&got["latency"]["ttft_ms"]["count"], &got["latency"]["tpot_ms"]["count"]),
        (&json!(1), &json!(2))
    );
    assert!(got["latency"]["tpot_ms"]["p99"].as_f64().is_some_and(|ms| ms > 0.0));
    assert_eq!(got["memory"]["budget_bytes"], Value::Null);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let s = plain();
    let page = get(s.at, "/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").is_some_and(|p| p.contains("default-src 'none'")));
    assert!(page.body.contains("v1/dsla") && page.body.trim_end().ends_with("</html>"));
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.body.contains(outside), "{outside}");
    }
}

#[test]
fn the_table_and_the_dashboard_name_what_there_is() {
    let config = EngineConfig { kv_budget: Some(1 << 20), ..EngineConfig::default() };
    let s = serving(Options::new("tiny"), config);
    get(s.at, "/health");
    let (_, types) = samples(&get(s.at, "/metrics").body);
    let table: BTreeMap<String, String> = include_str!("../../METRICS.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
        })
        .collect();
    assert_eq!(table, types);
    let dashboard: Value = serde_json::from_str(include_str!("../../grafana/dsla-serve.json")).expect("JSON");
    let targets = dashboard["panels"]
        .as_array()
        .expect("panels")
        .iter()
        .flat_map(|p| p["targets"].as_array().expect("targets"));
    let mut named = 0;
    for expression in targets.map(|t| t["expr"].as_str().expect("an expression")) {
        for (at, _) in expression.match_indices("dsla:") {
            let rest = &expression[at..];
            let name =
                &rest[..rest.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c)).unwrap_or(rest.len())];
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(types.contains_key(name), "{name} in {expression}");
            named += 1;
        }
    }
    assert!(named > 20);
}
