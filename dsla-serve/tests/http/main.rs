//! The server over real sockets, with a tiny model that reads and writes text.

mod calls;
mod client;
mod errors;
#[cfg(feature = "testing")]
mod faults;
mod generation;
mod lifecycle;
mod prompt;
mod status;
#[path = "../support/mod.rs"]
mod support;

use dsla_model::{Adapter, Form, Model, PrefixQuality};
use dsla_serve::http::{Options, Server};
use dsla_serve::{Engine, EngineConfig, Policy};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A server in this process.
struct Serving {
    at: SocketAddr,
    server: Server,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    runtime: Runtime,
}

/// With an untrained adapter, last layer first.
fn model() -> Model {
    adapted(support::text_model())
}

fn adapted(model: Model) -> Model {
    let mut adapter = Adapter::init(&model, &Form::native()).expect("an adapter");
    for converted in 1..=adapter.order.len() {
        let kl = 0.1 * converted as f64;
        adapter.quality.push(PrefixQuality { converted, kl, ppl_ratio: 1.0, top1_agreement: 1.0, tokens: 1 });
    }
    model.with_adapter_value(adapter).expect("it fits")
}

/// Listens, without an engine.
fn listen(options: Options, drain: Duration) -> Serving {
    let runtime = Runtime::new().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let at = listener.local_addr().expect("an address");
    let server = Server::new(options);
    let (stop, stopped) = oneshot::channel();
    let to = server.clone();
    let ended = runtime.spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        to.serve(listener, stop, drain).await
    });
    Serving { at, server, stop: Some(stop), ended: Some(ended), runtime }
}

fn serving(options: Options, config: EngineConfig) -> Serving {
    let serving = listen(options, Duration::from_secs(20));
    serving.server.ready(Engine::new(model(), config).expect("an engine"));
    serving
}

fn plain() -> Serving {
    serving(Options::new("tiny"), EngineConfig::default())
}

/// An engine whose steps take this long at least.
fn slow(step: Duration) -> EngineConfig {
    let policy = Policy::custom(move |_, target| {
        std::thread::sleep(step);
        target
    });
    EngineConfig { policy, ..EngineConfig::default() }
}

impl Serving {
    fn engine(&self) -> &Engine {
        self.server.engine().expect("an engine")
    }

    /// Begins to end, as a signal would.
    fn stop(&mut self) {
        let _ = self.stop.take().expect("running").send(());
    }

    /// Waits for the end.
    fn end(&mut self) {
        let ended = self.ended.take().expect("running");
        self.runtime.block_on(ended).expect("no panic").expect("no error");
    }
}

fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "not in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
