//! Answers: in one piece, or as server-sent events while the engine runs.

use super::calls::{Call, Found, Parser};
use super::error::{ApiError, ApiResult};
use super::job::{Head, Job, Kind, cut_short};
use super::logprobs::{Tokens, of_prompt};
use crate::{Engine, Event, FinishReason, Generation, Usage};
use axum::response::sse;
use futures_core::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What all choices of a request used together.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    prompt: usize,
    cached: usize,
    generated: usize,
    /// Of the choice that ran with most layers converted.
    converted: usize,
    layers: usize,
}

impl Totals {
    /// A choice's last usage. A prompt counts once, however many choices continue it.
    fn add(&mut self, usage: &Usage, first_of_prompt: bool) {
        self.prompt += if first_of_prompt { usage.prompt_tokens } else { 0 };
        self.cached += if first_of_prompt { usage.cached_tokens } else { 0 };
        self.generated += usage.generated;
        self.converted = self.converted.max(usage.converted);
        self.layers = usage.layers;
    }

    fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "dsla": {
                "rate": self.converted as f64 / self.layers.max(1) as f64,
                "converted_layers": self.converted,
                "layers": self.layers,
            },
        })
    }
}

impl Head {
    fn json(&self, stream: bool, choices: Vec<Value>, usage: Value) -> Value {
        let object = match (self.kind, stream) {
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("dsla-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
            "usage": usage,
        })
    }
}

/// vLLM's words.
fn finish_word(finish: FinishReason, called: bool) -> &'static str {
    match finish {
        FinishReason::Stop if called => "tool_calls",
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "abort",
    }
}

/// What a choice adds to its text, and the calls in it.
fn read(parser: Option<&mut Parser>, text: String, last: bool) -> Found {
    match parser {
        Some(parser) => parser.read(&text, last),
        None => Found { text, calls: Vec::new() },
    }
}

/// A chat's message. One that only calls says null.
fn message(text: &str, calls: &[Call]) -> Value {
    let content = Some(text).filter(|t| !t.is_empty() || calls.is_empty());
    let mut out = json!({"role": "assistant", "content": content, "refusal": null});
    if !calls.is_empty() {
        out["tool_calls"] = calls.iter().map(Call::json).collect();
    }
    out
}

/// Runs all choices to their ends.
pub(super) async fn whole(job: Job, engine: &Engine, generations: Vec<Generation>) -> ApiResult<Value> {
    let mut totals = Totals::default();
    let mut choices = Vec::with_capacity(generations.len());
    let mut prompt_logprobs = Value::Null;
    // One after the other: events of the later ones wait in their channels.
    for (index, mut generation) in generations.into_iter().enumerate() {
        let (mut text, mut ids, mut tokens) = (job.echo(index).to_owned(), Vec::new(), Tokens::default());
        let echoed = job.echoed_token(index);
        let mut offset = if echoed.is_some() { 0 } else { text.chars().count() };
        let finish = loop {
            let Some(event) = next(&mut generation).await else { return Err(cut_short()) };
            let event = event.map_err(|e| ApiError::engine(e, 1))?;
            text.push_str(&event.text);
            ids.extend(event.token);
            if let Some(rest) = &event.prompt {
                if let (Some(first), Some(n)) = (echoed, job.logprobs) {
                    tokens.push_prompt(first, rest, n);
                }
                prompt_logprobs =
                    job.prompt_logprobs.map_or(Value::Null, |n| of_prompt(rest, n, engine.model()));
            }
            if let (Some(id), Some(logprob)) = (event.token, event.logprob) {
                tokens.push(id, logprob);
            }
            if let Some(finish) = event.finish {
                totals.add(&event.usage, index.is_multiple_of(job.n));
                break finish;
            }
        };
        if finish == FinishReason::Cancelled {
            return Err(cut_short());
        }
        let logprobs = match job.logprobs {
            Some(_) => tokens.json(job.head.kind, engine.model(), &mut offset),
            None => Value::Null,
        };
        let Found { text, calls } = read(job.parser.clone().as_mut(), text, true);
        let word = finish_word(finish, !calls.is_empty());
        let mut choice = json!({"index": index, "logprobs": logprobs, "finish_reason": word});
        match job.head.kind {
            Kind::Chat => choice["message"] = message(&text, &calls),
            Kind::Completion => {
                choice["text"] = text.into();
                choice["prompt_logprobs"] = prompt_logprobs.take();
            }
        }
        if job.token_ids {
            choice["token_ids"] = ids.into();
        }
        choices.push(choice);
    }
    let mut answer = job.head.json(false, choices, totals.json());
    if job.head.kind == Kind::Chat {
        // All choices have the same prompt; vLLM has it here.
        answer["prompt_logprobs"] = prompt_logprobs;
    }
    Ok(answer)
}

/// What a chunk adds to a chat's message, of which `before` calls are out.
fn delta(text: String, calls: &[Call], before: usize) -> Value {
    let mut out = json!({});
    if !text.is_empty() {
        out["content"] = text.into();
    }
    if !calls.is_empty() {
        let one = |(i, call): (usize, &Call)| {
            let mut call = call.json();
            call["index"] = (before + i).into();
            call
        };
        out["tool_calls"] = calls.iter().enumerate().map(one).collect();
    }
    out
}

async fn next(generation: &mut Generation) -> Option<crate::Result<Event>> {
    poll_fn(|cx| Pin::new(&mut *generation).poll_next(cx)).await
}

/// One choice of a stream.
struct Choice {
    index: usize,
    /// Gone when it has ended.
    generation: Option<Generation>,
    /// Characters so far.
    offset: usize,
    parser: Option<Parser>,
    /// Calls so far.
    calls: usize,
}

/// All choices of a request as chunks, in the order in which their tokens come. Dropping it cancels what still runs.
pub(super) struct Chunks {
    job: Job,
    engine: Engine,
    choices: Vec<Choice>,
    /// Whose turn it is to be asked first.
    turn: usize,
    totals: Totals,
    ready: VecDeque<String>,
    ended: bool,
}

impl Chunks {
    pub fn new(job: Job, engine: Engine, generations: Vec<Generation>) -> Chunks {
        let each = generations.into_iter().enumerate();
        let choice = |(index, g)| Choice {
            index,
            generation: Some(g),
            offset: 0,
            parser: job.parser.clone(),
            calls: 0,
        };
        let choices = each.map(choice).collect();
        let totals = Totals::default();
        let mut chunks =
            Chunks { job, engine, choices, turn: 0, totals, ready: VecDeque::new(), ended: false };
        chunks.open();
        chunks
    }

    /// What comes before the first token: the role of a chat's message, the text of a repeated prompt.
    fn open(&mut self) {
        for index in 0..self.choices.len() {
            // With log-probabilities the first event repeats it.
            let waits = self.job.echoed_token(index).is_some();
            let echo = if waits { String::new() } else { self.job.echo(index).to_owned() };
            self.choices[index].offset = echo.chars().count();
            match self.job.head.kind {
                Kind::Chat => self.say(index, json!({"delta": {"role": "assistant", "content": ""}})),
                Kind::Completion if !echo.is_empty() => self.say(index, json!({"text": echo})),
                Kind::Completion => {}
            }
        }
    }

    /// Queues a chunk of one choice.
    fn say(&mut self, index: usize, mut choice: Value) {
        choice["index"] = index.into();
        for field in ["logprobs", "finish_reason"] {
            if choice[field].is_null() {
                choice[field] = Value::Null;
            }
        }
        self.ready.push_back(self.job.head.json(true, vec![choice], Value::Null).to_string());
    }

    fn event(&mut self, at: usize, event: Event) {
        let choice = &mut self.choices[at];
        let index = choice.index;
        let mut tokens = Tokens::default();
        let mut text = event.text;
        if let (Some(rest), Some(first), Some(n)) =
            (&event.prompt, self.job.echoed_token(index), self.job.logprobs)
        {
            tokens.push_prompt(first, rest, n);
            text.insert_str(0, self.job.echo(index));
        }
        let mut logprobs = Value::Null;
        if let Some((id, logprob)) = event.token.zip(event.logprob) {
            tokens.push(id, logprob);
        }
        if !tokens.is_empty() {
            logprobs = tokens.json(self.job.head.kind, self.engine.model(), &mut choice.offset);
        }
        if event.finish.is_some() {
            self.totals.add(&event.usage, index.is_multiple_of(self.job.n));
            choice.generation = None;
        }
        let ids = event.token.filter(|_| self.job.token_ids);
        let Found { text, calls } = read(choice.parser.as_mut(), text, event.finish.is_some());
        // Text that could still become a stop string or a call is held back: a token without any is no chunk.
        if text.is_empty()
            && calls.is_empty()
            && event.finish.is_none()
            && logprobs.is_null()
            && ids.is_none()
        {
            return;
        }
        let mut out = match self.job.head.kind {
            Kind::Chat => json!({"delta": delta(text, &calls, choice.calls)}),
            Kind::Completion => json!({"text": text}),
        };
        choice.calls += calls.len();
        out["logprobs"] = logprobs;
        out["finish_reason"] = event.finish.map(|finish| finish_word(finish, choice.calls > 0)).into();
        if self.job.token_ids {
            out["token_ids"] = ids.into_iter().collect();
        }
        self.say(index, out);
    }

    /// Ends the stream: with an error, or with the usage if it is wanted.
    fn end(&mut self, error: Option<ApiError>) {
        self.choices.clear();
        self.ended = true;
        match error {
            Some(error) => self.ready.push_back(error.body().to_string()),
            None if self.job.include_usage => {
                self.ready.push_back(self.job.head.json(true, Vec::new(), self.totals.json()).to_string());
            }
            None => {}
        }
        self.ready.push_back("[DONE]".into());
    }

    /// Asks every choice once for an event; whether one had any.
    fn ask(&mut self, cx: &mut Context<'_>) -> bool {
        let n = self.choices.len();
        for at in (0..n).map(|i| (self.turn + i) % n) {
            let Some(generation) = &mut self.choices[at].generation else { continue };
            let event = match Pin::new(generation).poll_next(cx) {
                Poll::Pending => continue,
                Poll::Ready(event) => event,
            };
            self.turn = at + 1;
            match event {
                Some(Ok(event)) => self.event(at, event),
                Some(Err(error)) => self.end(Some(ApiError::engine(error, 1))),
                None => self.choices[at].generation = None,
            }
            return true;
        }
        false
    }
}

impl Stream for Chunks {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(sse::Event::default().data(data))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if self.choices.iter().all(|c| c.generation.is_none()) {
                self.end(None);
            } else if !self.ask(cx) {
                return Poll::Pending;
            }
        }
    }
}
