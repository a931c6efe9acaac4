//! Log-probabilities of prompts: vLLM's field, and echoes as lm-eval asks for them.

use super::client::{post, stream};
use super::{Serving, model, serving};
use dsla_model::{Model, Step, Want};
use dsla_serve::EngineConfig;
use dsla_serve::http::Options;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const PROMPT: [u32; 13] = [1, 9, 4, 17, 5, 5, 28, 40, 6, 33, 12, 3, 51];

/// Prompts are cut into pieces of five tokens.
fn pieces() -> Serving {
    serving(Options::new("tiny"), EngineConfig { prefill_chunk: 5, ..EngineConfig::default() })
}

/// For each token but the first: its log-probability, and how many are likelier.
fn scores(model: &Model, prompt: &[u32]) -> Vec<(f32, usize)> {
    let mut seq = model.new_sequence(&model.plan(0)).expect("a sequence");
    let logits =
        model.forward(&mut [Step { seq: &mut seq, tokens: prompt, logits: Want::All }]).expect("logits");
    let score = |(i, &id): (usize, &u32)| {
        let row = &logits.f32()[i * 61..(i + 1) * 61];
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        let of = row[id as usize];
        ((f64::from(of) - sum.ln()) as f32, row.iter().filter(|x| **x > of).count())
    };
    prompt[1..].iter().enumerate().map(score).collect()
}

fn close(got: &Value, want: f32) -> bool {
    got.as_f64().is_some_and(|got| (got as f32 - want).abs() < 1e-4)
}

fn ask(s: &Serving, changes: &[(&str, Value)]) -> Value {
    let mut body = json!({"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "ignore_eos": true});
    for (field, value) in changes {
        body[field] = value.clone();
    }
    let got = post(s.at, COMPLETIONS, &body);
    assert_eq!(got.status, 200, "{}", got.body);
    got.json()
}

#[test]
fn a_prompts_tokens_in_vllms_shape() {
    let s = pieces();
    let want = scores(&model(), &PROMPT);
    for max_tokens in [0, 2] {
        let got = ask(&s, &[("prompt_logprobs", json!(3)), ("max_tokens", json!(max_tokens))]);
        assert_eq!(got["usage"]["completion_tokens"], max_tokens);
        let choice = &got["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("length"), &Value::Null));
        let list = choice["prompt_logprobs"].as_array().expect("a list");
        assert_eq!((list.len(), &list[0]), (PROMPT.len(), &Value::Null));
        for (i, (entry, &(logprob, likelier))) in list[1..].iter().zip(&want).enumerate() {
            let own = &entry[PROMPT[i + 1].to_string()];
            assert!(
                close(&own["logprob"], logprob) && own["rank"] == likelier + 1,
                "{i}: {own}, want {logprob}"
            );
            let text = s.engine().model().tokenizer().expect("a tokenizer").decode(&[PROMPT[i + 1]], false);
            assert_eq!(own["decoded_token"], text.expect("text"));
            let all = entry.as_object().expect("an object");
            assert_eq!(all.len(), if likelier < 3 { 3 } else { 4 });
            let mut ranks: Vec<u64> = all.values().filter_map(|e| e["rank"].as_u64()).collect();
            ranks.sort_unstable();
            assert_eq!(ranks[..3], [1, 2, 3]);
        }
    }
    let chat =
        json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "prompt_logprobs": 0});
    let got = post(s.at, CHAT, &chat).json();
    let tokens = got["usage"]["prompt_tokens"].as_u64().expect("a number") as usize;
    let list = got["prompt_logprobs"].as_array().expect("a list");
    assert!(list.len() == tokens && list[1..].iter().all(|e| e.as_object().is_some_and(|e| e.len() == 1)));
    assert!(ask(&s, &[])["choices"][0]["prompt_logprobs"].is_null());
}

#[test]
fn an_echo_has_the_prompts_tokens_too() {
    let s = pieces();
    let want = scores(&model(), &PROMPT);
    let plain = ask(&s, &[("logprobs", json!(1))]);
    for max_tokens in [0, 2] {
        let changes = [("echo", json!(true)), ("logprobs", json!(1)), ("max_tokens", json!(max_tokens))];
        let got = ask(&s, &changes);
        let choice = &got["choices"][0];
        let logprobs = &choice["logprobs"];
        let list = |field: &str| logprobs[field].as_array().expect("a list").clone();
        for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(list(field).len(), PROMPT.len() + max_tokens, "{field}");
        }
        assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
        let values = list("token_logprobs");
        assert!(values[1..].iter().zip(&want).all(|(got, want)| close(got, want.0)), "{values:?}");
        // What lm-eval calls greedy: the token is the likeliest.
        for (i, (_, likelier)) in want.iter().enumerate() {
            let best = list("top_logprobs")[i + 1]
                .as_object()
                .expect("an object")
                .values()
                .filter_map(Value::as_f64)
                .fold(f64::MIN, f64::max);
            assert_eq!(values[i + 1].as_f64() == Some(best), *likelier == 0, "{i}");
        }
        let rest = plain["choices"][0]["logprobs"]["token_logprobs"].as_array().expect("a list")
            [..max_tokens]
            .to_vec();
        assert!(
            values[PROMPT.len()..]
                .iter()
                .zip(&rest)
                .all(|(a, b)| close(a, b.as_f64().expect("a number") as f32))
        );
        let offsets: Vec<u64> = list("text_offset").iter().filter_map(Value::as_u64).collect();
        assert!(offsets[0] == 0 && offsets.windows(2).all(|w| w[0] < w[1]));
        let text = choice["text"].as_str().expect("text");
        let said = if max_tokens == 0 { "" } else { plain["choices"][0]["text"].as_str().expect("text") };
        assert!(text.ends_with(said) && text.len() > said.len());
        // Streamed: the same, the prompt in the first piece.
        let mut streamed = json!({"prompt": PROMPT, "temperature": 0, "ignore_eos": true, "stream": true});
        changes.iter().for_each(|(field, value)| streamed[field] = value.clone());
        let chunks = stream(s.at, COMPLETIONS, &streamed).chunks();
        let choices: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]).collect();
        assert_eq!(choices.iter().filter_map(|c| c["text"].as_str()).collect::<String>(), text);
        for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let parts: Vec<Value> =
                choices.iter().filter_map(|c| c["logprobs"][field].as_array()).flatten().cloned().collect();
            assert_eq!(parts, list(field), "{field}");
        }
    }
    // Both fields in one request, each with its own number.
    let got = ask(
        &s,
        &[
            ("echo", json!(true)),
            ("logprobs", json!(2)),
            ("prompt_logprobs", json!(0)),
            ("max_tokens", json!(1)),
        ],
    );
    let choice = &got["choices"][0];
    assert!(choice["prompt_logprobs"][4].as_object().is_some_and(|e| e.len() == 1), "{choice}");
    assert!(choice["logprobs"]["top_logprobs"][4].as_object().is_some_and(|e| e.len() >= 2), "{choice}");
    // Only the text.
    let got = ask(&s, &[("echo", json!(true)), ("max_tokens", json!(0))]);
    assert_eq!(
        (&got["choices"][0]["logprobs"], &got["choices"][0]["finish_reason"]),
        (&Value::Null, &json!("length"))
    );
    // Several prompts, as lm-eval sends them, and one of a single token.
    let got = ask(
        &s,
        &[
            ("prompt", json!([[7], PROMPT])),
            ("echo", json!(true)),
            ("logprobs", json!(1)),
            ("max_tokens", json!(1)),
        ],
    );
    assert_eq!(got["choices"][0]["logprobs"]["token_logprobs"].as_array().map(Vec::len), Some(2));
    assert!(close(&got["choices"][1]["logprobs"]["token_logprobs"][12], want[11].0));
}

#[test]
fn scoring_a_prompt_changes_no_neighbour() {
    let s = pieces();
    let body = |seed: u64| json!({"prompt": PROMPT, "max_tokens": 40, "temperature": 2, "seed": seed, "ignore_eos": true});
    let alone: Vec<Value> =
        (0..6).map(|seed| post(s.at, COMPLETIONS, &body(seed)).json()["choices"].clone()).collect();
    let at = s.at;
    let others: Vec<_> =
        (0..6).map(|seed| std::thread::spawn(move || post(at, COMPLETIONS, &body(seed)).json())).collect();
    for _ in 0..10 {
        ask(&s, &[("prompt_logprobs", json!(1)), ("max_tokens", json!(0))]);
    }
    for (other, alone) in others.into_iter().zip(alone) {
        assert_eq!(other.join().expect("no panic")["choices"], alone);
    }
}
