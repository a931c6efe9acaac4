//! One request on the engine thread: queued, then running. Turns logits into tokens, text and events.

use crate::backend::{Backend, Feed, Held};
use crate::generation::{Event, FinishReason, Logprob, Usage};
use crate::request::SamplingParams;
use crate::scheduler::Planned;
use crate::stats::SequenceStats;
use crate::stop::StopMatcher;
use crate::{Error, Result};
use dsla_model::core::View;
use dsla_model::{DecodeStream, Tokenizer, sample};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

/// A checked request on its way to the engine thread and through it.
pub(crate) struct Submission {
    pub id: u64,
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    /// Converted layers it insists on.
    pub pinned: Option<usize>,
    pub events: Sender<Result<Event>>,
    pub cancelled: Arc<AtomicBool>,
    pub span: tracing::Span,
}

impl Submission {
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Ends the request. Whoever dropped the receiver does not want to know.
    pub fn end(self, last: Result<Event>) {
        match &last {
            Ok(event) => tracing::debug!(
                parent: &self.span,
                generated = event.usage.generated,
                converted = event.usage.converted,
                finish = ?event.finish,
                "request ended"
            ),
            Err(error) => tracing::warn!(parent: &self.span, %error, "request failed"),
        }
        let _ = self.events.send(last);
    }

    /// The last event of a request that was cancelled.
    pub fn cancel(self, generated: usize, converted: usize, layers: usize) {
        let usage = Usage { prompt_tokens: self.prompt.len(), generated, converted, layers };
        let finish = Some(FinishReason::Cancelled);
        self.end(Ok(Event { token: None, text: String::new(), logprob: None, finish, usage }));
    }
}

/// A running sequence.
pub(crate) struct Running<S> {
    pub request: Submission,
    pub seq: S,
    /// Prompt tokens fed.
    pub fed: usize,
    /// Tokens generated.
    pub generated: usize,
    /// The newest of them, not fed yet.
    last: u32,
    decode: DecodeStream,
    stop: StopMatcher,
}

/// Where a sequence stood before a step, to tell whether a failed step touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    len: usize,
    held: Held,
}

impl<S> Running<S> {
    pub fn new(mut request: Submission, seq: S) -> Running<S> {
        let stop = StopMatcher::new(std::mem::take(&mut request.params.stop));
        Running { request, seq, fed: 0, generated: 0, last: 0, decode: DecodeStream::new(true), stop }
    }

    /// Prompt plus the most it may generate.
    pub fn total(&self) -> usize {
        self.request.prompt.len() + self.request.params.max_tokens
    }

    /// Prompt tokens left to feed.
    pub fn prompt_left(&self) -> usize {
        self.request.prompt.len() - self.fed
    }

    /// What a planned step feeds.
    pub fn feed(&mut self, step: Planned) -> Feed<'_, S> {
        let left = self.prompt_left();
        let tokens = match left {
            0 => std::slice::from_ref(&self.last),
            _ => &self.request.prompt[self.fed..self.fed + step.tokens.min(left)],
        };
        Feed { seq: &mut self.seq, tokens, logits: step.tokens >= left }
    }

    pub fn mark<B: Backend<Sequence = S>>(&self, backend: &B) -> Mark {
        Mark { len: backend.len(&self.seq), held: backend.held(&self.seq) }
    }

    pub fn stats<B: Backend<Sequence = S>>(&self, backend: &B) -> SequenceStats {
        let held = backend.held(&self.seq);
        SequenceStats {
            id: self.request.id,
            prompt_tokens: self.request.prompt.len(),
            prompt_fed: self.fed,
            generated: self.generated,
            converted: backend.converted(&self.seq),
            kv_bytes: held.kv,
            state_bytes: held.state,
        }
    }

    /// Takes the next token from `logits` [V]. The event it makes; the last one has `finish` set.
    pub fn accept<B: Backend<Sequence = S>>(
        &mut self,
        backend: &B,
        logits: View,
        layers: usize,
    ) -> Result<Event> {
        let params = &self.request.params;
        let model = |e| Error::Model(dsla_model::Error::Kernel(e));
        // The index of the draw is the token's place in its own sequence: no other request has a say in it.
        let id = sample::forward(logits, &params.draw(), self.generated as u64).map_err(model)?;
        let ended = !params.ignore_eos && backend.eos().contains(&id);
        let mut logprob = None;
        if let Some(n) = params.logprobs.filter(|_| !ended) {
            let (of_token, top) = sample::top_logprobs(logits, id, n).map_err(model)?;
            logprob = Some(Logprob { logprob: of_token, top });
        }
        let limit = params.max_tokens;
        if !ended {
            self.generated += 1;
            self.last = id;
        }
        let mut finish = ended.then_some(FinishReason::Stop);
        let mut text = String::new();
        if let Some(tokenizer) = backend.tokenizer() {
            let more = if ended { String::new() } else { self.decode.push(tokenizer, id)? };
            let last = ended || self.generated >= limit;
            if self.speak(tokenizer, &more, last, &mut text)? {
                finish = Some(FinishReason::Stop);
            }
        }
        if finish.is_none() && self.generated >= limit {
            finish = Some(FinishReason::Length);
        }
        let usage = Usage {
            prompt_tokens: self.request.prompt.len(),
            generated: self.generated,
            converted: backend.converted(&self.seq),
            layers,
        };
        Ok(Event { token: (!ended).then_some(id), text, logprob, finish, usage })
    }

    /// Appends what can be given out to `out`; whether a stop string is complete.
    fn speak(&mut self, tokenizer: &Tokenizer, more: &str, last: bool, out: &mut String) -> Result<bool> {
        let found = self.stop.push(more);
        out.push_str(&found.text);
        if found.hit || !last {
            return Ok(found.hit);
        }
        let found = self.stop.push(&self.decode.finish(tokenizer)?);
        out.push_str(&found.text);
        if !found.hit {
            out.push_str(&self.stop.flush());
        }
        Ok(found.hit)
    }
}
