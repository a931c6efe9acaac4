//! A checked request on its way to the engine: what to run, and how the answer is to look.

use super::App;
use super::calls::Parser;
use super::error::{ApiError, ApiResult};
use super::params::{Wishes, random};
use crate::{Engine, Generation, Request};
use axum::http::StatusCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Which endpoint's shapes an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// What all parts of an answer begin with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub kind: Kind,
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

/// A request body understood.
pub(super) struct Job {
    pub head: Head,
    /// One per choice: the first prompt's n, then the next one's.
    requests: Vec<Request>,
    /// Choices per prompt.
    pub n: usize,
    pub stream: bool,
    pub include_usage: bool,
    pub token_ids: bool,
    /// Likeliest tokens that are shown beside each.
    pub logprobs: Option<usize>,
    /// The same for the prompt, in vLLM's field.
    pub prompt_logprobs: Option<usize>,
    /// The prompts' texts, where the answer repeats them.
    echo: Vec<Echo>,
    /// Finds the calls of tools in what a choice says.
    pub parser: Option<Parser>,
}

/// A prompt that the answer repeats.
struct Echo {
    text: String,
    /// Its first token, which nothing comes before.
    first: Option<u32>,
}

impl Job {
    /// `limit`: tokens per choice; `None` takes what there is room for.
    pub fn new(
        app: &App,
        engine: &Engine,
        kind: Kind,
        wishes: Wishes,
        prompts: Vec<Vec<u32>>,
        limit: Option<usize>,
    ) -> ApiResult<Job> {
        let limits = &app.options.limits;
        let Wishes { params, n, stream, include_usage, token_ids } = wishes;
        let choices = n.saturating_mul(prompts.len());
        // More than fit the queue could never be accepted.
        let most = limits.choices.min(engine.stats().max_queue);
        if choices > most {
            let got = format!("{n} for each of {} prompts", prompts.len());
            return Err(ApiError::field("n", got, format!("at most {most} choices in all")));
        }
        if let Some(max) = limit.filter(|&max| max > limits.max_tokens) {
            return Err(ApiError::field("max_tokens", max, format!("at most {}", limits.max_tokens)));
        }
        let param = if kind == Kind::Chat { "messages" } else { "prompt" };
        let mut requests = Vec::with_capacity(choices);
        for prompt in prompts {
            let tokens = prompt.len();
            if tokens > limits.prompt_tokens {
                let want = format!("at most {}", limits.prompt_tokens);
                let error = ApiError::field(param, format!("{tokens} tokens"), want);
                return Err(error.code("context_length_exceeded"));
            }
            let room = || engine.room(tokens, params.rate).min(limits.max_tokens);
            // Without room the engine says why one token does not fit.
            let max_tokens = limit.unwrap_or_else(|| room().max(1));
            for i in 0..n as u64 {
                let params =
                    crate::SamplingParams { max_tokens, seed: params.seed.wrapping_add(i), ..params.clone() };
                requests.push(Request { prompt: prompt.clone(), params });
            }
        }
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let head = Head {
            kind,
            id: format!("{prefix}-{:016x}{:016x}", random(), random()),
            created: now.as_secs(),
            model: app.options.model_name.clone(),
        };
        let (logprobs, prompt_logprobs) = (params.logprobs, params.prompt_logprobs);
        let (echo, parser) = (Vec::new(), None);
        Ok(Job {
            head,
            requests,
            n,
            stream,
            include_usage,
            token_ids,
            logprobs,
            prompt_logprobs,
            echo,
            parser,
        })
    }

    /// Has the answer repeat the prompts.
    pub fn echo_prompts(&mut self, engine: &Engine) -> ApiResult<()> {
        let input = |e| ApiError::input("echo", e);
        let tokenizer = engine.model().tokenizer().map_err(input)?;
        let prompts = self.requests.iter().step_by(self.n);
        let echo = |r: &Request| {
            let text = tokenizer.decode(&r.prompt, true).map_err(input)?;
            Ok(Echo { text, first: r.prompt.first().copied() })
        };
        self.echo = prompts.map(echo).collect::<ApiResult<_>>()?;
        Ok(())
    }

    /// What choice `index` begins with.
    pub fn echo(&self, index: usize) -> &str {
        self.echo.get(index / self.n).map_or("", |e| e.text.as_str())
    }

    /// Where the tokens of choice `index` begin with its prompt's: the first of them.
    pub fn echoed_token(&self, index: usize) -> Option<u32> {
        self.echo.get(index / self.n).and_then(|e| e.first).filter(|_| self.logprobs.is_some())
    }

    /// Queues all choices or none.
    pub fn submit(&mut self, engine: &Engine) -> ApiResult<Vec<Generation>> {
        // When one is refused, dropping the others cancels them.
        let requests = std::mem::take(&mut self.requests);
        let submit = |request| engine.submit(request).map_err(|e| ApiError::engine(e, retry_after(engine)));
        requests.into_iter().map(submit).collect()
    }
}

/// Seconds until a place in the queue may be free: a request's share of the prompt tokens ahead, at the rate they go.
fn retry_after(engine: &Engine) -> u64 {
    let (stats, rate) = (engine.stats(), engine.latency().prefill_rate.per_second());
    let requests = (stats.queued + 1) as f64;
    let waits = rate.map_or(1.0, |rate| stats.prompt_tokens_ahead as f64 / rate / requests);
    (waits.ceil() as u64).clamp(1, 60)
}

/// For a choice that the shutdown ended: half an answer must not pass for one.
pub(super) fn cut_short() -> ApiError {
    let message = "request: the server shut down before it ended";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down")
}
