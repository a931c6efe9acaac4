//! What is refused, and how: status, field, numbers; always in OpenAI's shape.

use super::client::{get, post, send};
use super::{plain, serving, slow};
use dsla_serve::EngineConfig;
use dsla_serve::http::{Limits, Options};
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A good request with one field changed.
fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"prompt": "hello w", "max_tokens": 3});
    body[field] = value;
    body
}

fn chat_with(field: &str, value: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3});
    body[field] = value;
    body
}

#[test]
fn wrong_types_and_values_name_their_field() {
    let s = plain();
    for (field, value, want) in [
        (
            "prompt",
            json!(7),
            "want a string, an array of strings, an array of token ids or an array of those",
        ),
        ("prompt", json!([]), "got an array of 0"),
        ("prompt", json!([1, "a"]), "array of token ids"),
        ("prompt", json!([[1], 2]), "array of token ids"),
        ("prompt", json!([-1]), "array of token ids"),
        ("prompt", json!([[]]), "got no tokens, want 1 token or more"),
        ("prompt", json!([1, 61]), "got id 61 at 1, want ids below 61"),
        ("max_tokens", json!("3"), "got \"3\", want an integer, 0 or more"),
        ("max_tokens", json!(-1), "got -1, want an integer, 0 or more"),
        ("max_tokens", json!(0), "got 0, want 1 or more"),
        ("temperature", json!("hot"), "got \"hot\", want a number"),
        ("temperature", json!(-0.5), "got -0.5"),
        ("top_p", json!(0), "got 0, want a number in (0, 1]"),
        ("top_k", json!(1.5), "got 1.5, want an integer, 0 or more"),
        ("top_k", json!(-2), "got -2"),
        ("min_p", json!(2), "got 2, want a number in [0, 1]"),
        ("seed", json!("x"), "want a 64-bit integer"),
        ("stop", json!(5), "got 5, want a string or an array of strings"),
        ("stop", json!(["a", 5]), "got an array of 2"),
        ("stop", json!(""), "an empty text"),
        ("stop_token_ids", json!([99]), "got id 99, want ids below 61"),
        ("presence_penalty", json!(3), "got 3, want a number in [-2, 2]"),
        ("frequency_penalty", json!(-3), "got -3"),
        ("repetition_penalty", json!(0), "got 0, want a finite number above 0"),
        ("logit_bias", json!([1]), "got an array of 1, want an object"),
        ("logit_bias", json!({"x": 1}), "got \"x\", want token ids"),
        ("logit_bias", json!({"3": 101}), "got 101 for id 3"),
        ("logit_bias.3", Value::Null, ""),
        ("min_tokens", json!(4), "got 4, want at most max_tokens = 3"),
        ("n", json!(0), "got 0, want 1 or more"),
        ("n", json!(1000), "at most 128 choices"),
        ("best_of", json!(2), "got 2, want it equal to n"),
        ("stream", json!("yes"), "got \"yes\", want true or false"),
        ("stream_options", json!({"include_usage": true}), "only together with stream"),
        ("logprobs", json!(21), "got 21, want at most 20"),
        ("logprobs", json!(true), "got true, want an integer"),
        ("prompt_logprobs", json!(21), "got 21, want at most 20"),
        ("prompt_logprobs", json!(-1), "want an integer, 0 or more"),
        ("suffix", json!("end"), "does not support it"),
        ("guided_json", json!({}), "does not support it"),
        ("response_format.type", Value::Null, ""),
        ("dsla", json!(0.5), "got 0.5, want an object"),
        ("dsla.rate", Value::Null, ""),
        ("model", json!(5), "got 5, want a string"),
    ] {
        // Fields of objects: the object is what the request holds.
        let (name, value) = match field {
            "logit_bias.3" => ("logit_bias", json!({"3": "x"})),
            "response_format.type" => ("response_format", json!({"type": "json_object"})),
            "dsla.rate" => ("dsla", json!({"rate": 1.5})),
            _ => (field, value),
        };
        let message = post(s.at, COMPLETIONS, &with(name, value)).refused(400, Some(field));
        assert!(message.contains(want), "{field}: {message}: no {want}");
    }
    let chat = |field: &str, value: Value, param: &str, want: &str| {
        let message = post(s.at, CHAT, &chat_with(field, value)).refused(400, Some(param));
        assert!(message.contains(want), "{field}: {message}: no {want}");
    };
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    chat("messages", json!([]), "messages", "want at least one");
    chat("messages", json!("Hi"), "messages", "want an array");
    chat("messages", Value::Null, "messages", "got null, want an array");
    chat("messages", json!([5]), "messages[0]", "got 5, want an object");
    chat("messages", json!([{"content": "x"}]), "messages[0].role", "got null, want a string");
    chat("messages", user(json!(5)), "messages[0].content", "got 5, want a string or an array of parts");
    let picture = json!([{"type": "image_url", "image_url": {"url": "http://x"}}]);
    chat("messages", user(picture), "messages[0].content[0].type", "got \"image_url\", want \"text\"");
    chat("top_logprobs", json!(3), "top_logprobs", "only together with logprobs");
    chat("logprobs", json!(3), "logprobs", "want true or false");
    chat("tool_choice", json!("required"), "tool_choice", "does not constrain");
    let function = json!({"type": "function", "function": {"name": "add"}});
    chat("tool_choice", function.clone(), "tool_choice", "got an object, want \"auto\" or \"none\"");
    chat("tools", function, "tools", "want an array");
    chat("tools", json!([{"type": "function"}]), "tools[0].function.name", "got null, want a string");
    let called = |arguments: &str| {
        json!([{"role": "assistant", "content": null,
            "tool_calls": [{"type": "function", "id": "a", "function": {"name": "add", "arguments": arguments}}]}])
    };
    let at = "messages[0].tool_calls[0].function.arguments";
    chat("messages", called("[1]"), at, "got \"[1]\", want a JSON object as text");
    chat("messages", called("{"), at, "want a JSON object");
    chat("max_completion_tokens", json!("x"), "max_completion_tokens", "want an integer");
    let mut streamed = with("stream", json!(true));
    streamed["prompt_logprobs"] = 1.into();
    let message = post(s.at, COMPLETIONS, &streamed).refused(400, Some("prompt_logprobs"));
    assert!(message.contains("left out together with stream"), "{message}");
    assert_eq!(s.engine().stats().failed + s.engine().stats().finished, 0, "none reached the engine");
}

#[test]
fn what_clients_send_beyond_that_is_accepted() {
    let s = plain();
    let mut body = with("user", json!("me"));
    for (field, value) in [
        ("metadata", json!({"a": 1})),
        ("store", json!(false)),
        ("temperature", Value::Null),
        ("suffix", json!("")),
        ("bad_words", json!([])),
        ("response_format", json!({"type": "text"})),
        ("top_k", json!(-1)),
        ("seed", json!(-5)),
        ("best_of", json!(1)),
        ("model", json!("tiny")),
    ] {
        body[field] = value;
    }
    assert_eq!(post(s.at, COMPLETIONS, &body).status, 200);
}

#[test]
fn bodies_paths_and_methods() {
    let s = serving(
        Options { limits: Limits { body_bytes: 200, ..Limits::default() }, ..Options::new("tiny") },
        EngineConfig::default(),
    );
    let json = ("content-type", "application/json; charset=utf-8");
    let raw = |headers: &[(&str, &str)], body: &[u8]| send(s.at, "POST", COMPLETIONS, headers, body);
    assert!(raw(&[json], b"{").refused(400, None).contains("want JSON"));
    assert!(raw(&[json], b"\xff").refused(400, None).contains("want JSON"));
    assert!(raw(&[json], b"[1]").refused(400, None).contains("got an array of 1, want a JSON object"));
    assert!(raw(&[], b"{}").refused(415, None).contains("got \"nothing\", want application/json"));
    assert!(raw(&[("content-type", "text/plain")], b"{}").refused(415, None).contains("got \"text/plain\""));
    raw(&[json], &[b' '; 201]).refused(413, None);
    assert_eq!(raw(&[json], br#"{"prompt": "hi", "max_tokens": 1}"#).status, 200);
    assert!(get(s.at, "/v1/nothing").refused(404, None).contains("/v1/nothing"));
    assert!(get(s.at, CHAT).refused(405, None).contains("got GET"));
    send(s.at, "DELETE", "/metrics", &[], b"").refused(405, None);
    let other = post(s.at, COMPLETIONS, &with("model", json!("gpt-5")));
    assert!(other.refused(404, Some("model")).contains("got \"gpt-5\", want \"tiny\""));
    assert_eq!(other.json()["error"]["code"], "model_not_found");
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let limits = Limits { prompt_tokens: 50, max_tokens: 200, choices: 3, ..Limits::default() };
    let config =
        EngineConfig { kv_budget: Some(40_000), max_quality_loss: Some(0.15), ..EngineConfig::default() };
    let s = serving(Options { limits, ..Options::new("tiny") }, config);
    let long = post(s.at, COMPLETIONS, &with("prompt", json!(vec![5; 51])));
    assert!(long.refused(400, Some("prompt")).contains("got 51 tokens, want at most 50"));
    assert_eq!(long.json()["error"]["code"], "context_length_exceeded");
    let message = post(s.at, COMPLETIONS, &with("max_tokens", json!(201))).refused(400, Some("max_tokens"));
    assert!(message.contains("got 201, want at most 200"), "{message}");
    let message = post(s.at, COMPLETIONS, &with("n", json!(4))).refused(400, Some("n"));
    assert!(message.contains("got 4 for each of 1 prompts, want at most 3 choices"), "{message}");
    let pin = |rate: f64, max_tokens: usize| {
        let body = json!({"prompt": vec![5; 50], "max_tokens": max_tokens, "dsla": {"rate": rate}});
        post(s.at, COMPLETIONS, &body)
    };
    let message = pin(1.0, 5).refused(400, Some("dsla.rate"));
    assert!(message.contains("at most 1 layers (of 2 by max_quality_loss)"), "{message}");
    let never = pin(0.0, 200);
    let message = never.refused(400, None);
    assert!(message.contains("bytes of caches at 0 converted layers, want at most 40000"), "{message}");
    assert_eq!(never.json()["error"]["code"], "memory_budget_exceeded");
    let context = plain();
    let over = post(context.at, COMPLETIONS, &with("max_tokens", json!(256)));
    assert!(over.refused(400, Some("max_tokens")).contains("got 7 + 256 tokens, want at most 256 in all"));
    assert_eq!(over.json()["error"]["code"], "context_length_exceeded");
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let config = EngineConfig { max_running: 1, max_queue: 2, ..slow(Duration::from_millis(20)) };
    let s = serving(Options::new("tiny"), config);
    let long = json!({"prompt": "hi", "max_tokens": 200, "ignore_eos": true, "stream": true});
    let mut running = super::client::stream(s.at, COMPLETIONS, &long);
    running.next().expect("it runs");
    let _waiting = [0, 1].map(|_| super::client::stream(s.at, COMPLETIONS, &long));
    let full = post(s.at, COMPLETIONS, &with("prompt", json!("hi")));
    assert!(full.refused(429, None).contains("got 2 requests waiting, want fewer than 2"));
    assert_eq!(full.json()["error"]["code"], "queue_full");
    let after: u64 = full.header("retry-after").and_then(|v| v.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&after));
    // All or none: of two choices one would still have had a place.
    assert_eq!(s.engine().stats().queued, 2);
    post(s.at, COMPLETIONS, &with("n", json!(3))).refused(400, Some("n"));
}

#[test]
fn a_key_is_asked_for() {
    let options = Options { api_key: Some("sesame".into()), ..Options::new("tiny") };
    let s = serving(options, EngineConfig::default());
    let body = with("max_tokens", json!(1)).to_string();
    let post = |value: Option<&str>| {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(value.map(|v| ("authorization", v)));
        send(s.at, "POST", COMPLETIONS, &headers, body.as_bytes())
    };
    assert_eq!(post(Some("Bearer sesame")).status, 200);
    for wrong in [None, Some("sesame"), Some("Bearer sesam"), Some("Bearer sesame2"), Some("Bearer ")] {
        let reply = post(wrong);
        assert!(reply.refused(401, None).contains("got no valid key"), "{wrong:?}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    for path in ["/v1/models", "/v1/dsla"] {
        get(s.at, path).refused(401, None);
    }
    for path in ["/health", "/metrics", "/"] {
        assert_eq!(get(s.at, path).status, 200, "{path}");
    }
}
