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
    /// Whether the prefix cache may begin it, and keep a part of it. What needs every position's logits must say no here.
    pub fn cacheable(&self) -> bool {
        self.params.cache_prompt && !self.reads_prompt()
    }

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
}

type Adjusted = std::result::Result<Option<Tensor>, dsla_model::core::Error>;

/// A request on the engine thread, all but its sequence: it waits without one. It was not admitted yet, or it was
/// preempted and has its past to take in again.
pub(crate) struct Task {
    pub request: Submission,
    /// Tokens taken in, of the prompt and of those generated.
    pub fed: usize,
    /// The most that were, before it was preempted.
    fed_before: usize,
    /// The prefix cache was asked.
    pub begun: bool,
    /// Where a snapshot is worth keeping, besides whole chunks.
    pub keep: Vec<usize>,
    /// Prompt tokens that the prefix cache gave.
    pub cached: usize,
    pub preemptions: usize,
    /// Since when it waits, on the engine's clock.
    pub waits_since: Duration,
    pub clock: Clock,
    /// Tokens of the prompt whose probability is known, until an event takes them along.
    scored: Option<Vec<PromptToken>>,
    /// Tokens generated; the newest is not fed yet.
    ids: Vec<u32>,
    /// Converted layers at the start.
    pub start: usize,
    /// Tokens that were taken in when one more layer was folded, fold by fold.
    folds: Vec<usize>,
    /// Those of them that the sequence has behind it.
    folded: usize,
    adjust: Option<Adjust>,
    decode: DecodeStream,
    stop: StopMatcher,
}

/// A running request.
pub(crate) struct Running<S> {
    pub task: Task,
    pub seq: S,
}

/// Where a sequence stood before a step, to tell whether a failed step touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    len: usize,
    held: Held,
}

impl<S> Running<S> {
    /// What a planned step feeds: of the prompt, or one generated token. The logits after all that is known are wanted.
    pub fn feed(&mut self, step: Planned) -> Feed<'_, S> {
        let Task { request: Submission { prompt, .. }, ids, fed, .. } = &self.task;
        let tokens = match fed.checked_sub(prompt.len()) {
            None => &prompt[*fed..(fed + step.tokens).min(prompt.len())],
            Some(at) => &ids[at.min(ids.len())..(at + 1).min(ids.len())],
        };
        let ends = fed + step.tokens == prompt.len() + ids.len();
        let logits = match self.task.scored {
            Some(_) if *fed < prompt.len() => Want::All,
            _ if ends => Want::Last,
            _ => Want::None,
        };
        Feed { seq: &mut self.seq, tokens, logits }
    }

    pub fn mark<B: Backend<Sequence = S>>(&self, backend: &B) -> Mark {
        Mark { len: backend.len(&self.seq), held: backend.held(&self.seq) }
    }

    pub fn stats<B: Backend<Sequence = S>>(&self, backend: &B) -> SequenceStats {
        let (held, task) = (backend.held(&self.seq), &self.task);
        SequenceStats {
            id: task.request.id,
            prompt_tokens: task.request.prompt.len(),
            prompt_fed: task.fed.min(task.request.prompt.len()),
            generated: task.ids.len(),
            converted: backend.converted(&self.seq),
            kv_bytes: held.kv,
            state_bytes: held.state,
        }
    }
}

impl Task {
    pub fn new(mut request: Submission) -> Task {
        let stop = StopMatcher::new(std::mem::take(&mut request.params.stop));
        let adjust = Adjust::new(&request.prompt, &request.params);
        let decode = DecodeStream::new(!request.params.keep_special);
        Task {
            fed: 0,
            fed_before: 0,
            scored: request.params.prompt_logprobs.map(|_| Vec::new()),
            begun: false,
            keep: Vec::new(),
            cached: 0,
            preemptions: 0,
            waits_since: request.submitted,
            clock: Clock::new(request.submitted, request.submitted),
            ids: Vec::new(),
            start: 0,
            folds: Vec::new(),
            folded: 0,
            adjust,
            decode,
            stop,
            request,
        }
    }

    /// Its sequence is let go. What it has said stays said: it will take the same tokens in again, fold the same layers at
    /// the same places, and go on from there.
    pub fn preempted(&mut self, now: Duration) {
        self.fed_before = self.fed_before.max(self.fed);
        (self.fed, self.folded, self.begun) = (0, 0, false);
        self.scored.iter_mut().for_each(Vec::clear);
        self.keep.clear();
        self.preemptions += 1;
        self.waits_since = now;
    }

    /// Prompt and tokens generated.
    fn known(&self) -> usize {
        self.request.prompt.len() + self.ids.len()
    }

    /// Notes that a planned step was carried out: prompt tokens fed, and tokens fed once more after a preemption.
    pub fn took(&mut self, step: Planned) -> (usize, usize) {
        let again = self.fed_before.saturating_sub(self.fed).min(step.tokens);
        let of_prompt = self.fed < self.request.prompt.len();
        self.fed += step.tokens;
        (if of_prompt { step.tokens - again } else { 0 }, again)
    }

    /// Whether its next layer has to be folded now, as it was before it was preempted.
    pub fn fold_is_due(&self) -> bool {
        self.folds.get(self.folded).is_some_and(|&at| at <= self.fed)
    }

    /// Where folds will be due.
    pub fn folds_ahead(&self) -> &[usize] {
        &self.folds[self.folded..]
    }

    /// Nothing that was folded or said is still to be repeated: from here on it may change.
    pub fn is_open(&self) -> bool {
        let said = self.ids.is_empty() || self.fed + 1 >= self.known();
        said && self.folds_ahead().is_empty()
    }

    /// Whether it has run at its first number of converted layers so far.
    pub fn is_unfolded(&self) -> bool {
        self.folded == 0
    }

    /// Notes that a layer was folded.
    pub fn folded(&mut self) {
        if self.folds_ahead().is_empty() {
            self.folds.push(self.fed);
        }
        self.folded += 1;
    }

    /// Ends a request that was cancelled.
    pub fn cancel(self, layers: usize) {
        let finish = Some(FinishReason::Cancelled);
        let usage = self.usage(self.start + self.folds.len(), layers);
        self.request.end(Ok(Event {
            token: None,
            text: String::new(),
            logprob: None,
            prompt: None,
            finish,
            usage,
        }));
    }

    fn usage(&self, converted: usize, layers: usize) -> Usage {
        Usage {
            prompt_tokens: self.request.prompt.len(),
            cached_tokens: self.cached,
            generated: self.ids.len(),
            converted,
            layers,
        }
    }

    /// Takes what a step made of the tokens fed last: rows of logits [rows, V], one or more. The event that follows from
    /// them; the last one has `finish` set.
    pub fn take<B: Backend>(&mut self, backend: &B, rows: View, layers: usize) -> Result<Option<Event>> {
        let model = |e| Error::Model(dsla_model::Error::Kernel(e));
        let [n, vocab] = rows.dims("take", "logits").map_err(model)?;
        self.score(&rows).map_err(model)?;
        if self.fed < self.known() {
            return Ok(None);
        }
        let mut event = match self.request.params.max_tokens {
            0 => {
                let finish = Some(FinishReason::Length);
                let usage = self.usage(self.start + self.folded, layers);
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

    /// Takes the next token from `logits` [V]. The event it makes; the last one has `finish` set.
    fn accept<B: Backend>(&mut self, backend: &B, logits: View, layers: usize) -> Result<Event> {
        let params = &self.request.params;
        let model = |e| Error::Model(dsla_model::Error::Kernel(e));
        let early = self.ids.len() < params.min_tokens;
        let eos = if params.ignore_eos { &[] } else { backend.eos() };
        let adjusted = self.adjusted(eos, early, &logits).map_err(model)?;
        let drawn_from = adjusted.as_ref().map_or(logits, Tensor::view);
        // The index of the draw is the token's place in its own sequence: no other request has a say in it.
        let id = sample::forward(drawn_from, &params.draw(), self.ids.len() as u64).map_err(model)?;
        let ended = eos.contains(&id) || params.stop_ids.contains(&id);
        let mut logprob = None;
        if let Some(n) = params.logprobs.filter(|_| !ended) {
            let (of_token, top) = sample::top_logprobs(logits, id, n).map_err(model)?;
            logprob = Some(Logprob { logprob: of_token, top });
        }
        let limit = params.max_tokens;
        if !ended {
            self.ids.push(id);
            if let Some(adjust) = &mut self.adjust {
                adjust.push(id);
            }
        }
        let mut finish = ended.then_some(FinishReason::Stop);
        let mut text = String::new();
        if let Some(tokenizer) = backend.tokenizer() {
            let more = if ended { String::new() } else { self.decode.push(tokenizer, id)? };
            let last = ended || self.ids.len() >= limit;
            if self.speak(tokenizer, &more, last, early, &mut text)? {
                finish = Some(FinishReason::Stop);
            }
        }
        if finish.is_none() && self.ids.len() >= limit {
            finish = Some(FinishReason::Length);
        }
        let usage = self.usage(self.start + self.folded, layers);
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
