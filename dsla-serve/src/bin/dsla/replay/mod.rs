//! `dsla replay`: requests at a trace's times and lengths against a running server, ours or another of its kind; and
//! `dsla trace`, which draws such traces.

mod client;
mod report;
mod trace;
mod watch;

use crate::out;
use anyhow::{Context, Result, bail};
use clap::Args;
use client::Target;
use report::{Outcome, Report};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use trace::{Arrival, Lengths};
use watch::Watch;

#[derive(Args)]
pub struct Replay {
    /// http://HOST:PORT of an OpenAI-compatible server.
    url: String,
    /// A CSV file with TIMESTAMP, ContextTokens and GeneratedTokens, or poisson:REQUESTS_PER_SECOND.
    #[arg(long)]
    trace: String,
    /// Send requests for this long, then wait for the answers; the whole file, or 60 s, when not given.
    #[arg(long)]
    seconds: Option<f64>,
    /// Times of the file run this much faster.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Lengths of poisson: conversation, code, or PROMPT,GENERATED in tokens.
    #[arg(long, default_value = "conversation", value_parser = Lengths::parse)]
    lengths: Lengths,
    /// Names the draws of poisson and the prompts.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pin every request to this share of converted layers (our server only).
    #[arg(long)]
    rate: Option<f64>,
    /// The model's name; the server's first when not given.
    #[arg(long)]
    model: Option<String>,
    /// The server's key; better in the environment: DSLA_API_KEY.
    #[arg(long)]
    api_key: Option<String>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Trace {
    /// The file to write.
    out: PathBuf,
    /// Requests per second.
    #[arg(long)]
    rate: f64,
    /// Seconds that it spans.
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// conversation, code, or PROMPT,GENERATED in tokens.
    #[arg(long, default_value = "conversation", value_parser = Lengths::parse)]
    lengths: Lengths,
    /// Names the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn above_zero(name: &str, x: f64) -> Result<f64> {
    if !(x > 0.0 && x.is_finite()) {
        bail!("{name}: got {x}, want a number above 0");
    }
    Ok(x)
}

impl Trace {
    pub fn run(self) -> Result<()> {
        let (rate, seconds) = (above_zero("--rate", self.rate)?, above_zero("--seconds", self.seconds)?);
        let trace = trace::poisson(rate, seconds, self.lengths, self.seed);
        if trace.is_empty() {
            bail!(
                "--seconds: got {seconds} at {rate} per second, which draws no request; want more of either"
            );
        }
        dsla_model::adapter::write_atomic(&self.out, trace::csv(&trace).as_bytes())?;
        println!("{} requests in {}", trace.len(), self.out.display());
        Ok(())
    }
}

impl Replay {
    pub fn run(self) -> Result<()> {
        let mut target = Target::parse(&self.url)?;
        target.api_key = self.api_key.clone().or_else(|| std::env::var("DSLA_API_KEY").ok());
        let arrivals = self.arrivals()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let report = runtime.block_on(self.replay(target, arrivals))?;
        if report.completed() == 0 {
            bail!(
                "{}: got no answer to {} requests ({}), want some",
                self.url,
                report.sent(),
                report.errors()
            );
        }
        if self.json {
            let mut value = report.json();
            value["url"] = self.url.into();
            value["trace"] = self.trace.into();
            value["seed"] = self.seed.into();
            out::json(&value);
        } else {
            print!("{report}");
        }
        Ok(())
    }

    fn arrivals(&self) -> Result<Vec<Arrival>> {
        let speed = above_zero("--speed", self.speed)?;
        let seconds = self.seconds.map(|s| above_zero("--seconds", s)).transpose()?;
        let mut arrivals = match self.trace.strip_prefix("poisson:") {
            Some(rate) => {
                let rate = rate.parse().with_context(|| format!("--trace: got {rate:?}, want a number"))?;
                let rate = above_zero("--trace: poisson", rate)?;
                trace::poisson(rate, seconds.unwrap_or(60.0), self.lengths, self.seed)
            }
            None => trace::read(Path::new(&self.trace))?,
        };
        arrivals.iter_mut().for_each(|a| a.at /= speed);
        arrivals.retain(|a| seconds.is_none_or(|s| a.at < s));
        if arrivals.is_empty() {
            bail!("--trace: got no request within --seconds, want one or more");
        }
        Ok(arrivals)
    }

    async fn replay(&self, target: Target, arrivals: Vec<Arrival>) -> Result<Report> {
        let about = target.json("/v1/models", None).await?["data"][0].clone();
        let model = match &self.model {
            Some(name) => name.clone(),
            None => about["id"].as_str().context("/v1/models: got no model, want one")?.to_owned(),
        };
        let room = about["max_model_len"].as_u64().map_or(usize::MAX, |n| n as usize);
        let words = Words::of(&target, &model).await;
        let watch = Watch::start(&target).await;
        let mut tasks = tokio::task::JoinSet::new();
        let (begin, mut cut) = (Instant::now(), 0);
        let all = arrivals.len();
        let mut progress = out::Progress::new("sent");
        for (i, a) in arrivals.into_iter().enumerate() {
            let due = begin + Duration::from_secs_f64(a.at);
            tokio::time::sleep_until(due.into()).await;
            // Longer than the context: as much of the prompt as leaves room for the text.
            let generated = a.generated.min(room.saturating_sub(1)).max(1);
            let prompt = a.prompt.min(room.saturating_sub(generated)).max(1);
            cut += usize::from((prompt, generated) != (a.prompt, a.generated));
            let prompt_json = words.prompt((self.seed as usize).wrapping_add(i * 7919), prompt);
            let mut body = json!({
                "model": model,
                "prompt": prompt_json,
                "max_tokens": generated,
                "ignore_eos": true,
                "temperature": 0,
                "stream": true,
                "stream_options": {"include_usage": true},
            });
            if let Some(rate) = self.rate {
                body["dsla"] = json!({"rate": rate});
            }
            let target = target.clone();
            tasks.spawn(async move {
                let mut outcome = one(&target, &body, begin, due).await;
                outcome.at = due - begin;
                outcome.count(prompt);
                outcome
            });
            progress.at(i + 1, all);
        }
        let outcomes = tasks.join_all().await;
        let seen = watch.map(|w| w.seen());
        Ok(Report { model, outcomes, took: begin.elapsed(), cut, seen })
    }
}

/// What prompts are made of.
enum Words {
    /// A text's token ids, by the server's own tokenizer.
    Ids(Vec<u32>),
    /// For a server that tells no ids (llama-cpp-python's): words that are one token each, space included, in about
    /// every vocabulary of an English model.
    Common(Vec<&'static str>),
}

impl Words {
    async fn of(target: &Target, model: &str) -> Words {
        let text = include_str!("mod.rs");
        // `content` is what llama.cpp's server calls it.
        let body = json!({"model": model, "prompt": text, "content": text, "add_special_tokens": false});
        if let Ok(answer) = target.json("/tokenize", Some(&body)).await {
            let ids = answer["tokens"].as_array().into_iter().flatten().filter_map(Value::as_u64);
            let ids: Vec<u32> = ids.filter_map(|id| u32::try_from(id).ok()).collect();
            if !ids.is_empty() {
                return Words::Ids(ids);
            }
        }
        match target.json("/v1/dsla", None).await.ok().and_then(|s| s["vocab_size"].as_u64()) {
            Some(vocab) => Words::Ids((0..vocab.min(1000) as u32).collect()),
            None => Words::common(),
        }
    }

    fn common() -> Words {
        const WORDS: &str = "the of and to in that it was for on are as with his they at be this from have or by one had not \
            but what all were when we there can an your which their said if do will each about how up out them then she \
            many some so these would other into has more her two like him see time could no make than first been its who \
            now people my made over did down only way find use may water long little very after words called just where \
            most know";
        Words::Common(WORDS.split_whitespace().collect())
    }

    /// `tokens` tokens from the `start`-th on, round and round; no two rounds of common words are alike.
    fn prompt(&self, start: usize, tokens: usize) -> Value {
        match self {
            Words::Ids(ids) => {
                json!(ids.iter().cycle().skip(start % ids.len()).take(tokens).collect::<Vec<_>>())
            }
            Words::Common(words) => {
                let pick = |i: usize| {
                    let at = start.wrapping_mul(31).wrapping_add(i).wrapping_mul(0x9E37_79B9) >> 7;
                    words[at % words.len()]
                };
                json!((0..tokens).map(pick).collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// One request, timed from when it was due.
async fn one(target: &Target, body: &Value, begin: Instant, due: Instant) -> Outcome {
    let mut outcome = Outcome { lag: due.elapsed(), ..Outcome::default() };
    match read(target, body, begin, due, &mut outcome).await {
        Ok(()) if outcome.finished => {}
        Ok(()) => outcome.error = Some("a stream that ended early".into()),
        Err(e) => outcome.error = Some(e.root_cause().to_string()),
    }
    outcome
}

async fn read(
    target: &Target,
    body: &Value,
    begin: Instant,
    due: Instant,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut answer = target.send("/v1/completions", Some(body)).await?;
    if answer.status != 200 {
        bail!("status {}", answer.status);
    }
    while let Some(line) = answer.line().await? {
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(data).context("got a chunk that is no JSON")?;
        if let Some(message) = chunk["error"]["message"].as_str() {
            bail!("{message}");
        }
        if let Some(choice) = chunk["choices"].get(0) {
            outcome.chunks.push(begin.elapsed());
            outcome.first.get_or_insert(due.elapsed());
            outcome.last = due.elapsed();
            outcome.finished |= matches!(choice["finish_reason"].as_str(), Some("length" | "stop"));
        }
        if let Some(tokens) = chunk["usage"]["completion_tokens"].as_u64() {
            outcome.generated = tokens as usize;
            outcome.prompt = chunk["usage"]["prompt_tokens"].as_u64().unwrap_or(0) as usize;
            outcome.rate = chunk["usage"]["dsla"]["rate"].as_f64();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_as_long_as_asked_and_differ() {
        let ids = Words::Ids(vec![7, 8, 9]);
        assert_eq!(ids.prompt(1, 4), json!([8, 9, 7, 8]));
        let words = Words::common();
        let text = |start| words.prompt(start, 500).as_str().unwrap_or_default().to_owned();
        assert_eq!(text(7919).split(' ').count(), 500);
        assert_ne!(text(0), text(7919));
        let (one, two) = (text(0), text(7919));
        let same = one.split(' ').zip(two.split(' ')).filter(|(a, b)| a == b).count();
        assert!(same < 50, "{same} of 500 words at the same place");
    }
}
