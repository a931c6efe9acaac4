//! One request on the engine thread: queued, then running. Turns logits into tokens, text and events.

use crate::adjust::{Adjust, mask};
use crate::backend::{Backend, Feed, Held};
use crate::events::EventSender;
use crate::generation::{Event, FinishReason, Logprob, PromptToken, Usage};
use crate::latency::Clock;
use crate::request::SamplingParams;
use crate::scheduler::Planned;
use crate::stats::SequenceStats;
use crate::stop::{Found, StopMatcher};
use crate::{Error, Result};
use dsla_model::core::{Tensor, View};
use dsla_model::{DecodeStream, Device, Tokenizer, Want, sample};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A checked request on its way to the engine thread and through it.
pub(crate) struct Submission {
    pub id: u64,
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    /// Converted layers it insists on.
    pub pinned: Option<usize>,
    pub events: EventSender,
    pub cancelled: Arc<AtomicBool>,
    /// On the engine's clock.
    pub submitted: Duration,
    pub span: tracing::Span,
}

impl Submission {
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// It wants the logits of its whole prompt: no token of it may come from anywhere but a step of its own.
    pub fn reads_prompt(&self) -> bool {
        self.params.prompt_logprobs.is_some()
    }

    /// Ends the request.
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
        self.events.send(last);
    }

    /// The last event of a request that was cancelled.
    pub fn cancel(self, generated: usize, converted: usize, layers: usize) {
        let usage = Usage { prompt_tokens: self.prompt.len(), generated, converted, layers };
        let finish = Some(FinishReason::Cancelled);
        self.end(Ok(Event { token: None, text: String::new(), logprob: None, prompt: None, finish, usage }));
    }
}

type Adjusted = std::result::Result<Option<Tensor>, dsla_model::core::Error>;

/// A running sequence.
pub(crate) struct Running<S> {
    pub request: Submission,
    pub seq: S,
    /// Prompt tokens fed.
    pub fed: usize,
    /// Tokens generated.
    pub generated: usize,
    pub clock: Clock,
    /// The newest of them, not fed yet.
    last: u32,
    /// Tokens of the prompt whose probability is known, until an event takes them along.
    scored: Option<Vec<PromptToken>>,
    adjust: Option<Adjust>,
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
    pub fn new(mut request: Submission, seq: S, now: Duration) -> Running<S> {
        let stop = StopMatcher::new(std::mem::take(&mut request.params.stop));
        let adjust = Adjust::new(&request.prompt, &request.params);
        let decode = DecodeStream::new(!request.params.keep_special);
        let clock = Clock::new(request.submitted, now);
        let scored = request.reads_prompt().then(Vec::new);
        Running { request, seq, fed: 0, generated: 0, clock, last: 0, scored, adjust, decode, stop }
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
        let logits = match left {
            1.. if self.request.reads_prompt() => Want::All,
            _ if step.tokens >= left => Want::Last,
            _ => Want::None,
        };
        Feed { seq: &mut self.seq, tokens, logits }
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

    /// Takes what a step made of the tokens fed last: rows of logits [rows, V], one or more. The event that follows from
    /// them; the last one has `finish` set.
    pub fn take<B: Backend<Sequence = S>>(
        &mut self,
        backend: &B,
        rows: View,
        layers: usize,
    ) -> Result<Option<Event>> {
        let model = |e| Error::Model(dsla_model::Error::Kernel(e));
        let [n, vocab] = rows.dims("take", "logits").map_err(model)?;
        if self.request.reads_prompt() && self.generated == 0 {
            self.score(&rows).map_err(model)?;
        }
        if self.prompt_left() > 0 {
            return Ok(None);
        }
        let mut event = match self.request.params.max_tokens {
            0 => {
                let finish = Some(FinishReason::Length);
                let usage = self.usage(backend, layers);
                Event { token: None, text: String::new(), logprob: None, prompt: None, finish, usage }
            }
            _ => self.accept(backend, rows.rows(n - 1, n).reshape([vocab]), layers)?,
        };
        event.prompt = self.scored.take();
        Ok(Some(event))
    }

    /// Looks up the prompt's next tokens in the rows [rows, V] of those that were fed last.
    fn score(&mut self, rows: &View) -> std::result::Result<(), dsla_model::core::Error> {
        let (Some(scored), Some(n)) = (&mut self.scored, self.request.params.prompt_logprobs) else {
            return Ok(());
        };
        let rows = rows.to_tensor()?.to_device(Device::Cpu)?;
        let (count, vocab) = (rows.dims()[0], rows.dims()[1]);
        for (at, &id) in
            (self.fed - count..self.fed).zip(self.request.prompt.iter().skip(self.fed - count + 1))
        {
            let i = at + count - self.fed;
            let row = rows.rows(i, i + 1).reshape([vocab]);
            let (logprob, top) = sample::top_logprobs(row, id, n)?;
            let row = &rows.f32()[i * vocab..(i + 1) * vocab];
            let rank = 1 + row.iter().filter(|x| **x > row[id as usize]).count();
            scored.push(PromptToken { id, rank, logprob: Logprob { logprob, top } });
        }
        Ok(())
    }

    fn usage<B: Backend<Sequence = S>>(&self, backend: &B, layers: usize) -> Usage {
        Usage {
            prompt_tokens: self.request.prompt.len(),
            generated: self.generated,
            converted: backend.converted(&self.seq),
            layers,
        }
    }

    /// Takes the next token from `logits` [V]. The event it makes; the last one has `finish` set.
    fn accept<B: Backend<Sequence = S>>(
        &mut self,
        backend: &B,
        logits: View,
        layers: usize,
    ) -> Result<Event> {
        let params = &self.request.params;
        let model = |e| Error::Model(dsla_model::Error::Kernel(e));
        let early = self.generated < params.min_tokens;
        let eos = if params.ignore_eos { &[] } else { backend.eos() };
        let adjusted = self.adjusted(eos, early, &logits).map_err(model)?;
        let drawn_from = adjusted.as_ref().map_or(logits, Tensor::view);
        // The index of the draw is the token's place in its own sequence: no other request has a say in it.
        let id = sample::forward(drawn_from, &params.draw(), self.generated as u64).map_err(model)?;
        let ended = eos.contains(&id) || params.stop_ids.contains(&id);
        let mut logprob = None;
        if let Some(n) = params.logprobs.filter(|_| !ended) {
            let (of_token, top) = sample::top_logprobs(logits, id, n).map_err(model)?;
            logprob = Some(Logprob { logprob: of_token, top });
        }
        let limit = params.max_tokens;
        if !ended {
            self.generated += 1;
            self.last = id;
            if let Some(adjust) = &mut self.adjust {
                adjust.push(id);
            }
        }
        let mut finish = ended.then_some(FinishReason::Stop);
        let mut text = String::new();
        if let Some(tokenizer) = backend.tokenizer() {
            let more = if ended { String::new() } else { self.decode.push(tokenizer, id)? };
            let last = ended || self.generated >= limit;
            if self.speak(tokenizer, &more, last, early, &mut text)? {
                finish = Some(FinishReason::Stop);
            }
        }
        if finish.is_none() && self.generated >= limit {
            finish = Some(FinishReason::Length);
        }
        let usage = self.usage(backend, layers);
        Ok(Event { token: (!ended).then_some(id), text, logprob, prompt: None, finish, usage })
    }

    /// The logits the token is drawn from, where they are not the model's; without the tokens that would end the
    /// text while it is too `early`.
    fn adjusted(&self, eos: &[u32], early: bool, logits: &View) -> Adjusted {
        if self.adjust.is_none() && !early {
            return Ok(None);
        }
        let mut own = logits.to_tensor()?.to_device(Device::Cpu)?;
        if let Some(adjust) = &self.adjust {
            adjust.apply(&self.request.params, own.f32_mut());
        }
        if early {
            mask(eos, own.f32_mut());
            mask(&self.request.params.stop_ids, own.f32_mut());
        }
        Ok(Some(own))
    }

    /// Appends what can be given out to `out`; whether a stop string is complete.
    fn speak(
        &mut self,
        tokenizer: &Tokenizer,
        more: &str,
        last: bool,
        early: bool,
        out: &mut String,
    ) -> Result<bool> {
        let unseen = |text: String| Found { text, hit: false };
        let found = if early { unseen(more.to_owned()) } else { self.stop.push(more) };
        out.push_str(&found.text);
        if found.hit || !last {
            return Ok(found.hit);
        }
        let rest = self.decode.finish(tokenizer)?;
        let found = if early { unseen(rest) } else { self.stop.push(&rest) };
        out.push_str(&found.text);
        if !found.hit {
            out.push_str(&self.stop.flush());
        }
        Ok(found.hit)
    }
}
