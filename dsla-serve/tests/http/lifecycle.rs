//! Loading, draining, and clients that go away.

use super::client::{get, post, stream};
use super::{eventually, listen, model, serving, slow};
use dsla_serve::http::Options;
use dsla_serve::{Engine, EngineConfig};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn while_the_model_loads_and_after() {
    let s = listen(Options::new("tiny"), Duration::ZERO);
    for path in ["/health", "/metrics", "/v1/models", "/v1/dsla"] {
        let reply = get(s.at, path);
        assert!(reply.refused(503, None).contains("is being loaded"), "{path}");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    post(s.at, COMPLETIONS, &json!({"prompt": "hi"})).refused(503, None);
    assert_eq!(get(s.at, "/").status, 200, "the page waits for it, too");
    s.server.ready(Engine::new(model(), EngineConfig::default()).expect("an engine"));
    assert_eq!(get(s.at, "/health").status, 200);
    assert_eq!(post(s.at, COMPLETIONS, &json!({"prompt": "hi"})).status, 200);
}

#[test]
fn draining_finishes_what_runs_and_takes_nothing_new() {
    let mut s = serving(Options::new("tiny"), slow(Duration::from_millis(10)));
    let body = json!({"prompt": "hi", "max_tokens": 60, "ignore_eos": true, "stream": true});
    let mut events = stream(s.at, COMPLETIONS, &body);
    let queued = stream(s.at, COMPLETIONS, &body);
    events.next().expect("it runs");
    s.stop();
    eventually("no new connections", || TcpStream::connect(s.at).is_err());
    let last = events.chunks().pop().expect("chunks");
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(queued.chunks().pop().expect("chunks")["choices"][0]["finish_reason"], "length");
    s.end();
    assert_eq!(s.engine().stats().finished, 2);
}

#[test]
fn an_engine_that_was_shut_down_is_not_healthy() {
    let s = serving(Options::new("tiny"), EngineConfig::default());
    s.engine().shutdown(Duration::ZERO);
    assert!(get(s.at, "/health").refused(503, None).contains("shutting down"));
    let reply = post(s.at, COMPLETIONS, &json!({"prompt": "hi"}));
    assert!(reply.refused(503, None).contains("after shutdown"));
    assert_eq!(reply.json()["error"]["code"], "shutting_down");
}

#[test]
fn a_closed_connection_cancels_its_request() {
    let s = serving(Options::new("tiny"), slow(Duration::from_millis(10)));
    let mut body = json!({"prompt": "hi", "max_tokens": 200, "ignore_eos": true, "n": 2, "stream": true});
    let mut events = stream(s.at, COMPLETIONS, &body);
    events.next().expect("it runs");
    drop(events);
    eventually("both choices cancelled", || s.engine().stats().cancelled == 2);
    // Also when the answer would have come in one piece.
    body["stream"] = false.into();
    let body = body.to_string();
    let mut socket = TcpStream::connect(s.at).expect("a connection");
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).expect("sent");
    eventually("they run", || s.engine().stats().running == 2);
    drop(socket);
    eventually("these, too", || s.engine().stats().cancelled == 4);
    let stats = s.engine().stats();
    assert_eq!((stats.running, stats.queued, stats.kv_bytes), (0, 0, 0));
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    let mut s = serving(Options::new("tiny"), EngineConfig::default());
    let body = json!({"prompt": "hi", "max_tokens": 250, "ignore_eos": true, "n": 16, "stream": true, "logprobs": 20});
    // Some megabytes of answer, more than sockets hold.
    let deaf: Vec<_> = (0..4).map(|_| stream(s.at, COMPLETIONS, &body)).collect();
    eventually("all generated", || s.engine().stats().finished == 64);
    let begin = Instant::now();
    s.stop();
    s.end();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(deaf);
}

#[test]
fn many_clients_at_once_get_their_own_texts() {
    let s = serving(Options::new("tiny"), EngineConfig { max_running: 8, ..EngineConfig::default() });
    let body = |seed: usize| {
        json!({"prompt": format!("hello {seed}").replace(char::is_numeric, "q"), "max_tokens": 30, "seed": seed,
            "temperature": 2, "ignore_eos": true})
    };
    let alone: Vec<_> =
        (0..40).map(|seed| post(s.at, COMPLETIONS, &body(seed)).json()["choices"].clone()).collect();
    let at = s.at;
    let clients: Vec<_> =
        (0..40).map(|seed| std::thread::spawn(move || post(at, COMPLETIONS, &body(seed)))).collect();
    for (seed, client) in clients.into_iter().enumerate() {
        assert_eq!(client.join().expect("no panic").json()["choices"], alone[seed], "seed {seed}");
    }
}
