//! `dsla serve`

use crate::args::ModelArgs;
use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_serve::http::{Limits, Options, Server};
use dsla_serve::{Engine, EngineConfig, MemoryPressure, Policy, Threshold};
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;

/// Where the key may come from instead of the command line, which every process of the machine can read.
const KEY_VARIABLE: &str = "DSLA_API_KEY";

#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    model: ModelArgs,
    /// fixed:RATE, threshold, memory:BYTES or slo:TTFT_MS,TPOT_MS: how many layers run converted.
    #[arg(long, default_value = "threshold", value_parser = PolicyArg::parse)]
    policy: PolicyArg,
    /// Never convert a prefix of the adapter's order that costs more than this: KL from the teacher, nats per token.
    #[arg(long, default_value_t = 0.05)]
    max_quality_loss: f64,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on (0: any free one).
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Bytes that keys, values and states may take: 500000000, 500M, 2G. Requests beyond it wait, or go back to waiting.
    #[arg(long, value_parser = bytes)]
    kv_budget: Option<usize>,
    /// Bytes of them that snapshots of prompts may take, for requests that begin the same; 0 or off for none.
    #[arg(long, default_value = "512M", value_parser = bytes_or_off)]
    prefix_cache: usize,
    /// Sequences running at once.
    #[arg(long, default_value_t = 16)]
    max_running: usize,
    /// Requests that may wait; further ones get 429.
    #[arg(long, default_value_t = 256)]
    max_queue: usize,
    /// Prompt tokens per engine step.
    #[arg(long, default_value_t = 128)]
    prefill_chunk: usize,
    /// Tokens of a prompt at most.
    #[arg(long)]
    max_prompt_tokens: Option<usize>,
    /// Tokens that a choice may ask for at most.
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Bytes of a request body at most.
    #[arg(long, default_value = "8M", value_parser = bytes)]
    max_body: usize,
    /// Clients have to send it as `Authorization: Bearer KEY`. Better in the environment: DSLA_API_KEY.
    #[arg(long)]
    api_key: Option<String>,
    /// The name that requests call the model by; its file's when not given.
    #[arg(long)]
    model_name: Option<String>,
    /// Seconds that running requests have to end after SIGTERM or SIGINT; a second signal ends them at once.
    #[arg(long, default_value_t = 30)]
    drain: u64,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        // The engine's threads do the work; these wait for sockets, tokenise and write.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let ended = runtime.block_on(self.serve());
        // A model that is still being loaded must not hold up the end.
        runtime.shutdown_background();
        ended
    }

    async fn serve(self) -> Result<()> {
        let server = Server::new(self.options()?);
        let at = format!("{}:{}", self.host, self.port);
        let listener = TcpListener::bind(&at).await.with_context(|| format!("{at}: cannot listen"))?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() && self.key().is_none() {
            eprintln!("warning: {address} is reachable from other machines, without an API key");
        }
        let (drain, to) = (Duration::from_secs(self.drain), server.clone());
        // Before loading: a port that is taken should be known at once, and probes hear 503 instead of nothing.
        let mut http = tokio::spawn(async move { to.serve(listener, signals(to.clone())?, drain).await });
        let load = tokio::task::spawn_blocking(move || self.engine());
        tokio::select! {
            ended = &mut http => return Ok(ended??),
            engine = load => server.ready(engine??),
        }
        println!("listening on http://{address}");
        Ok(http.await??)
    }

    fn key(&self) -> Option<String> {
        self.api_key.clone().or_else(|| std::env::var(KEY_VARIABLE).ok()).filter(|key| !key.is_empty())
    }

    fn options(&self) -> Result<Options> {
        if self.api_key.as_deref() == Some("") {
            bail!("--api-key: got an empty key, want one character or more");
        }
        let name = self.model_name.clone().or_else(|| {
            // A known name, a directory or a file: each ends in what people call it.
            let path = Path::new(&self.model.model);
            let stem = if path.is_file() { path.file_stem() } else { path.file_name() };
            stem.map(|s| s.to_string_lossy().into_owned())
        });
        let mut options = Options::new(name.unwrap_or_else(|| "model".into()));
        options.api_key = self.key();
        options.limits = Limits {
            body_bytes: self.max_body,
            prompt_tokens: self.max_prompt_tokens.unwrap_or(usize::MAX),
            max_tokens: self.max_tokens.unwrap_or(usize::MAX),
            ..Limits::default()
        };
        Ok(options)
    }

    fn engine(self) -> Result<Engine> {
        let model = self.model.load()?;
        let converts = model.adapter().is_some();
        let config = EngineConfig {
            policy: self.policy.0.into(),
            max_running: self.max_running,
            prefill_chunk: self.prefill_chunk,
            kv_budget: self.kv_budget,
            prefix_cache: self.prefix_cache,
            max_queue: self.max_queue,
            max_quality_loss: Some(self.max_quality_loss),
            ..EngineConfig::default()
        };
        let engine = Engine::new(model, config)?;
        let stats = engine.stats();
        if converts {
            eprintln!("policy {}: up to {} of {} layers", engine.policy(), stats.converted_max, stats.layers);
        } else {
            eprintln!("no adapter: all {} layers stay as they are", stats.layers);
        }
        Ok(engine)
    }
}

/// Done at the first SIGTERM or SIGINT. The second ends what still runs.
fn signals(server: Server) -> std::io::Result<impl Future<Output = ()> + Send> {
    #[cfg(unix)]
    let mut signals = {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        async move || {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
    };
    #[cfg(not(unix))]
    let mut signals = async || {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(async move {
        signals().await;
        eprintln!("shutting down: waiting for running requests");
        tokio::spawn(async move {
            signals().await;
            if let Some(engine) = server.engine().cloned() {
                tokio::task::spawn_blocking(move || engine.shutdown(Duration::ZERO));
            }
        });
    })
}

/// A policy by name.
#[derive(Clone, Debug, PartialEq)]
enum Named {
    Fixed(f64),
    Threshold,
    Memory(usize),
    /// Milliseconds.
    Slo(f64, f64),
}

#[derive(Clone, Debug, PartialEq)]
struct PolicyArg(Named);

impl PolicyArg {
    fn parse(text: &str) -> Result<PolicyArg, String> {
        let want =
            || format!("got {text:?}, want fixed:RATE, threshold, memory:BYTES or slo:TTFT_MS,TPOT_MS");
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let number = |s: &str| s.trim().parse::<f64>().map_err(|_| want());
        let above_zero = |s: &str| match number(s)? {
            // A day: beyond what any clock here could overflow.
            ms if ms > 0.0 && ms <= 86_400_000.0 => Ok(ms),
            _ => Err(want()),
        };
        let named = match name {
            "fixed" => Named::Fixed(number(rest)?),
            "threshold" if rest.is_empty() => Named::Threshold,
            "memory" => Named::Memory(bytes(rest)?),
            "slo" => {
                let (ttft, tpot) = rest.split_once(',').ok_or_else(want)?;
                Named::Slo(above_zero(ttft)?, above_zero(tpot)?)
            }
            _ => return Err(want()),
        };
        Ok(PolicyArg(named))
    }
}

impl From<Named> for Policy {
    fn from(named: Named) -> Policy {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        match named {
            Named::Fixed(rate) => Policy::Fixed(rate),
            Named::Threshold => Policy::Threshold(Threshold::default()),
            Named::Memory(bytes) => Policy::Memory(MemoryPressure::new(bytes)),
            Named::Slo(ttft, tpot) => Policy::slo(ms(ttft), ms(tpot)),
        }
    }
}

/// A number of bytes, with or without k, M or G (powers of ten).
fn bytes(text: &str) -> Result<usize, String> {
    let want = || format!("got {text:?}, want a number of bytes above 0: 500000000, 500M or 2G");
    let (digits, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(digits) => (
            digits,
            match text.as_bytes()[text.len() - 1] {
                b'k' => 1_000,
                b'M' => 1_000_000,
                _ => 1_000_000_000,
            },
        ),
        None => (text, 1),
    };
    let number: usize = digits.parse().map_err(|_| want())?;
    number.checked_mul(unit).filter(|&n| n > 0).ok_or_else(want)
}

/// The same, or nothing.
fn bytes_or_off(text: &str) -> Result<usize, String> {
    match text {
        "0" | "off" => Ok(0),
        _ => bytes(text).map_err(|e| format!("{e}, or 0 or off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_by_name() {
        let parse = |text| PolicyArg::parse(text).map(|p| p.0);
        assert_eq!(parse("fixed:0.5"), Ok(Named::Fixed(0.5)));
        assert_eq!(parse("threshold"), Ok(Named::Threshold));
        assert_eq!(parse("memory:2G"), Ok(Named::Memory(2_000_000_000)));
        assert_eq!(parse("slo:500,50.5"), Ok(Named::Slo(500.0, 50.5)));
        for wrong in
            ["", "fixed", "fixed:x", "threshold:1", "memory:", "memory:0", "slo:5", "slo:5,0", "slo:1e99,1"]
        {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains("want"), "{wrong}: {error}");
        }
    }

    #[test]
    fn numbers_of_bytes() {
        assert_eq!((bytes("12"), bytes("3k"), bytes("4M")), (Ok(12), Ok(3_000), Ok(4_000_000)));
        assert_eq!(["0", "off", "2G"].map(bytes_or_off), [Ok(0), Ok(0), Ok(2_000_000_000)]);
        assert!(bytes_or_off("on").is_err_and(|e| e.contains("0 or off")));
        for wrong in ["", "k", "1K", "-1", "0", "1.5M", "99999999999999999999G", "18446744073709551615k"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
