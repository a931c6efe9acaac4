//! Calls of tools, from what a model is made to write.

use super::client::{post, stream};
use super::{Serving, adapted, listen, support};
use dsla_serve::http::Options;
use dsla_serve::{Engine, EngineConfig};
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const END: u32 = 2;

fn letter(c: char) -> u32 {
    29 + (u32::from(c) - u32::from('A'))
}

/// Words in the place of W to Z.
fn serving(words: [&str; 3]) -> Serving {
    let words: Vec<(char, &str)> = ['W', 'X', 'Y'].into_iter().zip(words).collect();
    let s = listen(Options::new("tiny"), Duration::from_secs(20));
    let model = adapted(support::text_model_with(&words));
    s.server.ready(Engine::new(model, EngineConfig::default()).expect("an engine"));
    s
}

/// Has the model write W, X, Y and end: each of them is far ahead until it was written.
fn body() -> Value {
    let bias = json!({letter('W').to_string(): 100, letter('X').to_string(): 80, letter('Y').to_string(): 60,
        END.to_string(): 40});
    json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 20, "logit_bias": bias,
        "repetition_penalty": 100, "parallel_tool_calls": true,
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]})
}

#[test]
fn calls_come_apart_from_the_text() {
    let cases = [
        (["Now.<tool_call>", "{\"name\":\"add\",\"arguments\":{\"a\":1}}", "</tool_call>"], Some("Now."), 1),
        (
            [
                "<tool_call>{\"name\":\"add\",\"argu",
                "ments\":{\"a\":1}}</tool_call><tool",
                "_call>{\"name\":\"now\"}",
            ],
            None,
            2,
        ),
        (["{\"name\":", "\"add\",\"parameters\":", "{\"a\":1}}"], None, 1),
    ];
    for (words, content, count) in cases {
        let s = serving(words);
        let whole = post(s.at, CHAT, &body());
        assert_eq!(whole.status, 200, "{}", whole.body);
        let choice = whole.json()["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        assert_eq!(choice["message"]["content"], json!(content));
        let calls = choice["message"]["tool_calls"].as_array().expect("calls").clone();
        assert_eq!(calls.len(), count);
        assert_eq!(calls[0]["function"], json!({"name": "add", "arguments": "{\"a\":1}"}));
        assert!(
            calls[0]["type"] == "function"
                && calls[0]["id"].as_str().is_some_and(|id| id.starts_with("call_"))
        );
        // Streamed: the same, each call in one piece.
        let mut streamed = body();
        streamed["stream"] = true.into();
        let chunks = stream(s.at, CHAT, &streamed).chunks();
        let deltas = || chunks.iter().map(|c| &c["choices"][0]["delta"]);
        let text: String = deltas().filter_map(|d| d["content"].as_str()).collect();
        assert_eq!(text, content.unwrap_or_default());
        let parts: Vec<&Value> = deltas().filter_map(|d| d["tool_calls"].as_array()).flatten().collect();
        assert_eq!(
            parts.iter().map(|p| &p["function"]).collect::<Vec<_>>(),
            calls.iter().map(|c| &c["function"]).collect::<Vec<_>>()
        );
        assert!(parts.iter().enumerate().all(|(i, p)| p["index"] == i && p["id"].is_string()), "{parts:?}");
        assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "tool_calls");
        // One at most.
        let mut one = body();
        one["parallel_tool_calls"] = false.into();
        let one = post(s.at, CHAT, &one).json()["choices"][0].clone();
        assert_eq!(one["message"]["tool_calls"].as_array().map(Vec::len), Some(1));
        // Without tools, or with none allowed, it is text.
        for (field, value) in [("tools", Value::Null), ("tools", json!([])), ("tool_choice", json!("none"))] {
            let mut plain = body();
            plain[field] = value;
            let choice = post(s.at, CHAT, &plain).json()["choices"][0].clone();
            let message = json!({"role": "assistant", "content": words.concat(), "refusal": null});
            assert_eq!((&choice["message"], &choice["finish_reason"]), (&message, &json!("stop")));
        }
        // Cut off, it ended for that reason.
        let mut short = body();
        short["max_tokens"] = 3.into();
        assert_eq!(post(s.at, CHAT, &short).json()["choices"][0]["finish_reason"], "length");
    }
}

#[test]
fn what_is_no_call_is_text() {
    let words = ["Well<tool_call>", "{\"name\":", "</tool_call>"];
    let s = serving(words);
    let choice = post(s.at, CHAT, &body()).json()["choices"][0].clone();
    assert_eq!(choice["message"], json!({"role": "assistant", "content": words.concat(), "refusal": null}));
    assert_eq!(choice["finish_reason"], "stop");
    let mut streamed = body();
    streamed["stream"] = true.into();
    let chunks = stream(s.at, CHAT, &streamed).chunks();
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, words.concat());
}

#[test]
fn a_conversation_with_calls_goes_on() {
    let s = serving(["one", "two", "six"]);
    let mut body = body();
    body["tool_choice"] = "auto".into();
    let call =
        json!({"type": "function", "id": "call_1", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
    body["messages"] = json!([
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": null, "tool_calls": [call, {"type": "function", "function": {"name": "now", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "two"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
    ]);
    let got = post(s.at, CHAT, &body);
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.json()["choices"][0]["message"]["content"], "onetwosix");
}
