//! Texts, whole and streamed: the engine's own, in OpenAI's shapes.

use super::client::{post, stream};
use super::{plain, slow};
use dsla_model::Message;
use dsla_serve::http::Options;
use dsla_serve::{Completion, Request, SamplingParams};
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn params(seed: u64, max_tokens: usize) -> SamplingParams {
    // Hot, so that broken characters come up.
    SamplingParams { max_tokens, temperature: 3.0, seed, ignore_eos: true, ..SamplingParams::default() }
}

fn body(seed: u64, max_tokens: usize) -> Value {
    json!({"prompt": "hello w", "max_tokens": max_tokens, "temperature": 3, "seed": seed, "ignore_eos": true})
}

fn join(chunks: &[Value], index: usize, text: impl Fn(&Value) -> &Value) -> String {
    let of = |c: &&Value| c["choices"][0]["index"] == index;
    chunks.iter().filter(of).filter_map(|c| text(&c["choices"][0]).as_str()).collect()
}

#[test]
fn a_completion_is_the_engines_whole_or_streamed() {
    let s = plain();
    for seed in 0..5 {
        let generation = s.engine().complete("hello w", params(seed, 40)).expect("accepted");
        let want: Completion = generation.wait().expect("a completion");
        let got = post(s.at, COMPLETIONS, &body(seed, 40));
        assert_eq!(got.status, 200, "{}", got.body);
        let got = got.json();
        assert_eq!(got["object"], "text_completion");
        assert_eq!(got["model"], "tiny");
        assert!(got["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")));
        let choice = &got["choices"][0];
        assert_eq!(choice["text"], want.text);
        assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("length"), &Value::Null));
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 40, "total_tokens": 47, "prompt_tokens_details": {"cached_tokens": 0},
            "dsla": {"rate": 0.0, "converted_layers": 0, "layers": 2}});
        assert_eq!(got["usage"], usage);
        let mut streamed = body(seed, 40);
        streamed["stream"] = true.into();
        let chunks = stream(s.at, COMPLETIONS, &streamed).chunks();
        assert_eq!(join(&chunks, 0, |c| &c["text"]), want.text, "seed {seed}");
        assert!(chunks.iter().all(|c| c["usage"].is_null() && c["id"] == chunks[0]["id"]));
        let last = &chunks.last().expect("chunks")["choices"][0];
        assert_eq!(last["finish_reason"], "length");
    }
}

#[test]
fn a_chat_has_its_own_shapes() {
    let s = plain();
    let messages = [Message::new("user", "Hi"), Message::new("bot", "Ho")];
    let want = s.engine().chat(&messages, params(3, 30)).expect("accepted").wait().expect("a completion");
    let mut body =
        json!({"messages": messages, "max_tokens": 30, "temperature": 3, "seed": 3, "ignore_eos": true});
    let got = post(s.at, CHAT, &body).json();
    assert_eq!(got["object"], "chat.completion");
    assert_eq!(
        got["choices"][0]["message"],
        json!({"role": "assistant", "content": want.text, "refusal": null})
    );
    assert_eq!(got["usage"]["prompt_tokens"], want.usage.prompt_tokens);
    // The newer name of the limit wins, and content may come in parts.
    body["max_completion_tokens"] = 30.into();
    body["max_tokens"] = 1.into();
    body["messages"][0]["content"] = json!([{"type": "text", "text": "Hi"}]);
    assert_eq!(post(s.at, CHAT, &body).json()["choices"], got["choices"]);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let chunks = stream(s.at, CHAT, &body).chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(join(&chunks, 0, |c| &c["delta"]["content"]), want.text);
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk"));
    let last = chunks.last().expect("chunks");
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &got["usage"]));
    assert!(chunks[..chunks.len() - 1].iter().all(|c| c["usage"].is_null()));
}

#[test]
fn without_a_limit_a_chat_takes_what_there_is_room_for() {
    let s = plain();
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": true});
    let got = post(s.at, CHAT, &body).json();
    assert_eq!(got["usage"]["total_tokens"], 256, "the whole context");
    let body = json!({"prompt": "hello w", "ignore_eos": true});
    assert_eq!(post(s.at, COMPLETIONS, &body).json()["usage"]["completion_tokens"], 16);
}

#[test]
fn several_prompts_and_choices() {
    let s = plain();
    let one = |prompt: &str, seed: u64| {
        let g = s.engine().complete(prompt, params(seed, 20)).expect("accepted");
        g.wait().expect("a completion").text
    };
    let want: Vec<String> =
        ["abc", "xyz"].iter().flat_map(|p| (5..8).map(|seed| one(p, seed)).collect::<Vec<_>>()).collect();
    let mut request = body(5, 20);
    request["prompt"] = json!(["abc", "xyz"]);
    request["n"] = 3.into();
    let got = post(s.at, COMPLETIONS, &request).json();
    let texts: Vec<&Value> = got["choices"].as_array().expect("choices").iter().map(|c| &c["text"]).collect();
    assert_eq!(texts, want.iter().collect::<Vec<_>>(), "choice i draws with seed + i");
    let indices: Vec<&Value> =
        got["choices"].as_array().expect("choices").iter().map(|c| &c["index"]).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5]);
    assert_eq!(got["usage"]["prompt_tokens"], 6, "a prompt counts once");
    assert_eq!(got["usage"]["completion_tokens"], 120);
    // The same prompts as ids.
    let ids = |text: &str| post(s.at, "/tokenize", &json!({"prompt": text})).json()["tokens"].clone();
    request["prompt"] = json!([ids("abc"), ids("xyz")]);
    assert_eq!(post(s.at, COMPLETIONS, &request).json()["choices"], got["choices"]);
    request["stream"] = true.into();
    request["stream_options"] = json!({"include_usage": true});
    let chunks = stream(s.at, COMPLETIONS, &request).chunks();
    for (index, want) in want.iter().enumerate() {
        assert_eq!(&join(&chunks, index, |c| &c["text"]), want);
    }
    assert_eq!(chunks.last().expect("chunks")["usage"], got["usage"]);
    let order: Vec<_> = chunks.iter().filter_map(|c| c["choices"][0]["index"].as_u64()).collect();
    assert!(order.windows(2).filter(|w| w[0] != w[1]).count() > 12, "they come together: {order:?}");
    request = body(5, 20);
    request["prompt"] = ids("abc");
    assert_eq!(post(s.at, COMPLETIONS, &request).json()["choices"][0]["text"], want[0]);
}

#[test]
fn stop_strings_echo_and_token_ids() {
    let s = plain();
    let whole =
        post(s.at, COMPLETIONS, &body(1, 60)).json()["choices"][0]["text"].as_str().expect("text").to_owned();
    let stop: String = whole.chars().skip(20).take(4).collect();
    let cut = whole.find(&stop).expect("it is in there");
    for stop in [json!(stop), json!(["never in there", stop])] {
        let mut request = body(1, 60);
        request["stop"] = stop;
        request["echo"] = true.into();
        request["return_token_ids"] = true.into();
        let got = post(s.at, COMPLETIONS, &request).json();
        let choice = &got["choices"][0];
        assert_eq!(choice["text"], format!("hello w{}", &whole[..cut]));
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(
            choice["token_ids"].as_array().map(Vec::len),
            got["usage"]["completion_tokens"].as_u64().map(|n| n as usize)
        );
        request["stream"] = true.into();
        let chunks = stream(s.at, COMPLETIONS, &request).chunks();
        assert_eq!(join(&chunks, 0, |c| &c["text"]), format!("hello w{}", &whole[..cut]));
        let ids: Vec<&Value> =
            chunks.iter().filter_map(|c| c["choices"][0]["token_ids"].as_array()).flatten().collect();
        assert_eq!(ids, choice["token_ids"].as_array().expect("ids").iter().collect::<Vec<_>>());
    }
}

#[test]
fn logprobs_in_both_shapes() {
    let s = plain();
    let prompt = s.engine().model().tokenizer().expect("a tokenizer").encode("hello w", true).expect("ids");
    let with = SamplingParams { logprobs: Some(2), ..params(4, 12) };
    let want =
        s.engine().submit(Request { prompt, params: with }).expect("accepted").wait().expect("a completion");
    let mut request = body(4, 12);
    request["logprobs"] = 2.into();
    let got = post(s.at, COMPLETIONS, &request).json()["choices"][0]["logprobs"].clone();
    let values: Vec<f32> = want.logprobs.iter().map(|l| l.logprob).collect();
    assert_eq!(got["token_logprobs"], json!(values));
    let tokens: Vec<&str> =
        got["tokens"].as_array().expect("tokens").iter().filter_map(Value::as_str).collect();
    assert_eq!(tokens.len(), 12);
    let offsets: Vec<u64> =
        got["text_offset"].as_array().expect("offsets").iter().filter_map(Value::as_u64).collect();
    assert_eq!(
        offsets[..3],
        [0, tokens[0].chars().count() as u64, tokens[..2].concat().chars().count() as u64]
    );
    for (i, top) in got["top_logprobs"].as_array().expect("tops").iter().enumerate() {
        assert_eq!(top[tokens[i]], values[i], "the token is among them");
        assert!(top.as_object().is_some_and(|t| (2..=3).contains(&t.len())), "{top}");
    }
    request["stream"] = true.into();
    let chunks = stream(s.at, COMPLETIONS, &request).chunks();
    let parts = |field: &str| -> Vec<Value> {
        let each = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"][field].as_array());
        each.flatten().cloned().collect()
    };
    assert_eq!(Value::from(parts("token_logprobs")), got["token_logprobs"]);
    assert_eq!(Value::from(parts("text_offset")), got["text_offset"]);
    // A chat's.
    let mut chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, "temperature": 3, "seed": 0,
        "ignore_eos": true, "logprobs": true, "top_logprobs": 2});
    let whole = post(s.at, CHAT, &chat).json();
    let content = whole["choices"][0]["logprobs"]["content"].as_array().expect("content").clone();
    assert_eq!(content.len(), 40);
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|t| t["bytes"].as_array().expect("bytes").iter().filter_map(|b| b.as_u64()))
        .map(|b| b as u8)
        .collect();
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
    // Special tokens have bytes and no text.
    let spelled =
        String::from_utf8_lossy(&bytes).replace("<none>", "").replace("<begin>", "").replace("<end>", "");
    assert_eq!(spelled, text);
    assert!(text.contains(char::REPLACEMENT_CHARACTER), "the case came up");
    assert!(content.iter().all(|t| t["top_logprobs"].as_array().is_some_and(|top| top.len() == 2)));
    chat["stream"] = true.into();
    let chunks = stream(s.at, CHAT, &chat).chunks();
    let streamed: Vec<&Value> =
        chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(streamed, content.iter().collect::<Vec<_>>());
}

#[test]
fn the_usage_says_what_came_from_the_prefix_cache() {
    let s = plain();
    let ask = |content: &str, more: Value| {
        let message = json!({"role": "user", "content": content});
        let mut body = json!({"messages": [message], "max_tokens": 3, "ignore_eos": true, "temperature": 0});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let got = post(s.at, CHAT, &body).json();
        (
            got["choices"][0]["message"]["content"].clone(),
            got["usage"]["prompt_tokens_details"]["cached_tokens"].clone(),
        )
    };
    let long = "a".repeat(130);
    let (first, cached) = ask(&long, json!({}));
    assert_eq!(cached, 0);
    assert_eq!(ask(&long, json!({})), (first.clone(), json!(64)));
    assert_eq!(ask(&long, json!({"cache_prompt": false})), (first, json!(0)));
    assert_eq!(ask(&long, json!({"dsla": {"rate": 1.0}})).1, 0, "another rate");
    // All choices of one request begin the same.
    assert_eq!(ask(&"b".repeat(130), json!({"n": 3})).1, 0, "a prompt counts once");
    assert_eq!(s.engine().stats().prefix.hits, 3 * 64);
}

#[test]
fn a_pinned_rate_is_what_the_usage_says() {
    let s = plain();
    let mut request = body(0, 5);
    for (rate, converted) in [(0.0, 0), (0.5, 1), (1.0, 2)] {
        request["dsla"] = json!({"rate": rate});
        let usage = post(s.at, COMPLETIONS, &request).json()["usage"]["dsla"].clone();
        assert_eq!(usage, json!({"rate": rate, "converted_layers": converted, "layers": 2}));
    }
}

#[test]
fn the_engines_parameters_arrive() {
    let s = plain();
    let base = json!({"prompt": "hello w", "max_tokens": 20, "ignore_eos": true, "temperature": 0, "return_token_ids": true});
    let ids = |field: &str, value: Value| {
        let mut request = base.clone();
        request[field] = value;
        let got = post(s.at, COMPLETIONS, &request);
        assert_eq!(got.status, 200, "{}", got.body);
        got.json()["choices"][0]["token_ids"]
            .as_array()
            .expect("ids")
            .iter()
            .filter_map(Value::as_u64)
            .collect::<Vec<_>>()
    };
    let greedy = ids("user", Value::Null);
    let repeats = |ids: &[u64]| ids.len() - ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(ids("logit_bias", json!({"9": 100})), [9; 20]);
    assert!(repeats(&ids("frequency_penalty", json!(2))) < repeats(&greedy), "{greedy:?}");
    assert!(repeats(&ids("presence_penalty", json!(2))) < repeats(&greedy));
    assert!(repeats(&ids("repetition_penalty", json!(5))) < repeats(&greedy));
    let stop = greedy[3];
    let before = greedy.iter().position(|&id| id == stop).expect("it is in there");
    assert_eq!(ids("stop_token_ids", json!([stop])), greedy[..before]);
    for (field, value) in [("top_k", json!(1)), ("top_p", json!(1e-6)), ("min_p", json!(1))] {
        let mut request = base.clone();
        request["temperature"] = 2.into();
        request[field] = value;
        let got = post(s.at, COMPLETIONS, &request).json()["choices"][0]["token_ids"].clone();
        assert_eq!(got, json!(greedy), "{field} leaves the likeliest alone");
    }
    // Without a seed each request draws its own.
    let mut hot = body(0, 20);
    hot["seed"] = Value::Null;
    let text = || post(s.at, COMPLETIONS, &hot).json()["choices"][0]["text"].clone();
    assert_ne!(text(), text());
    let mut special = body(0, 60);
    special["skip_special_tokens"] = false.into();
    let kept = (0..20).any(|seed| {
        special["seed"] = seed.into();
        post(s.at, COMPLETIONS, &special).body.contains("<none>")
    });
    assert!(kept, "a special token came up and shows");
}

#[test]
fn a_failure_in_a_stream_is_an_event() {
    // What runs when the time to drain is over is cut short: half an answer does not pass for one.
    let mut s = super::listen(Options::new("tiny"), Duration::from_millis(100));
    let config = slow(Duration::from_millis(10));
    s.server.ready(dsla_serve::Engine::new(super::model(), config).expect("an engine"));
    let at = s.at;
    let mut long = body(0, 200);
    let whole = long.clone();
    let whole = std::thread::spawn(move || post(at, COMPLETIONS, &whole));
    long["stream"] = true.into();
    let events = stream(s.at, COMPLETIONS, &long);
    super::eventually("both run", || s.engine().stats().running == 2);
    s.stop();
    let chunks = events.chunks();
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "abort");
    let reply = whole.join().expect("no panic");
    assert!(reply.refused(503, None).contains("shut down before it ended"));
    s.end();
}
