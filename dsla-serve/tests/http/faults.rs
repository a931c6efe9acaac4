//! Steps that fail while others run: they end their own request, and nobody else notices.

use super::client::{get, post, send, stream};
use super::{Serving, eventually, listen, model};
use dsla_serve::http::Options;
use dsla_serve::testing::Fault;
use dsla_serve::{Engine, EngineConfig, Policy};
use serde_json::{Value, json};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
/// The letter x: nobody writes it but who is told to, and a step that feeds it alone fails.
const BAD: u32 = 26;

fn serving(fault: Fault) -> Serving {
    let serving = listen(Options::new("tiny"), Duration::from_secs(20));
    // Slow enough that all run together.
    let policy = Policy::custom(|_, target| {
        std::thread::sleep(Duration::from_millis(2));
        target
    });
    let config = EngineConfig { policy, ..EngineConfig::default() };
    let engine = Engine::with_faults(model(), config, move |tokens| (tokens == [BAD]).then_some(fault));
    serving.server.ready(engine.expect("an engine"));
    serving
}

fn body(seed: u64, bias: f64) -> Value {
    json!({"prompt": "hello w", "max_tokens": 60, "temperature": 3, "seed": seed, "ignore_eos": true,
        "logit_bias": {BAD.to_string(): bias}, "dsla": {"rate": (seed % 3) as f64 / 2.0}})
}

#[test]
fn a_failing_step_ends_its_request_and_changes_no_other() {
    for fault in [Fault::Error, Fault::Panic] {
        let s = serving(fault);
        let word = s.engine().model().tokenizer().expect("a tokenizer").decode(&[BAD], false);
        assert_eq!(word.expect("text"), "x");
        let alone: Vec<Value> = (0..8)
            .map(|seed| post(s.at, COMPLETIONS, &body(seed, -100.0)).json()["choices"].clone())
            .collect();
        let at = s.at;
        let others: Vec<_> = (0..8)
            .map(|seed| std::thread::spawn(move || post(at, COMPLETIONS, &body(seed, -100.0))))
            .collect();
        eventually("they run", || s.engine().stats().running == 8);
        // Whole: a status. Streamed: what came before, then an event.
        let reply = post(s.at, COMPLETIONS, &body(0, 100.0));
        let message = reply.refused(500, None);
        assert!(message.contains("planted"), "{message}");
        let mut streamed = body(1, 100.0);
        streamed["stream"] = true.into();
        let chunks = stream(s.at, COMPLETIONS, &streamed).chunks();
        assert_eq!(chunks[0]["choices"][0]["text"], "x");
        let error = &chunks.last().expect("chunks")["error"];
        assert!(error["message"].as_str().is_some_and(|m| m.contains("planted")), "{error}");
        assert_eq!(error["type"], "server_error");
        assert!(s.engine().stats().running > 0, "the others still run");
        for (seed, other) in others.into_iter().enumerate() {
            let reply = other.join().expect("no panic");
            assert_eq!(reply.status, 200, "{}", reply.body);
            assert_eq!(reply.json()["choices"], alone[seed], "seed {seed}, {fault:?}");
        }
        eventually("all freed", || {
            let stats = s.engine().stats();
            stats.running == 0 && (stats.kv_bytes, stats.state_bytes, stats.reserved_bytes) == (0, 0, 0)
        });
        let stats = s.engine().stats();
        assert_eq!((stats.failed, stats.finished, stats.cancelled), (2, 16, 0));
        assert_eq!(get(s.at, "/health").status, 200);
        assert!(
            send(s.at, "GET", "/metrics", &[], b"")
                .body
                .contains("dsla:request_failure_total{model_name=\"tiny\"} 2")
        );
        assert_eq!(post(s.at, COMPLETIONS, &body(3, -100.0)).json()["choices"], alone[3], "it serves on");
    }
}
