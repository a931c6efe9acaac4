//! The receiving end of a request: an iterator of events, and a stream of them.

use crate::engine::Shared;
use crate::events::EventReceiver;
use crate::{Error, Result};
use futures_core::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// Cancelled, or the engine shut down.
    Cancelled,
}

/// A token's probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// Natural log-probability of the token under the plain softmax.
    pub logprob: f32,
    /// The likeliest tokens and theirs, best first.
    pub top: Vec<(u32, f32)>,
}

/// A token of the prompt, and how likely it was after those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// The token.
    pub id: u32,
    /// 1 for the likeliest.
    pub rank: usize,
    /// Its probability.
    pub logprob: Logprob,
}

/// What a generation has used so far, and at which conversion rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that came from the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, an end token not counted.
    pub generated: usize,
    /// Layers that ran as dual-state linear attention.
    pub converted: usize,
    /// Layers of the model.
    pub layers: usize,
}

impl Usage {
    /// Share of layers converted, in [0, 1].
    pub fn rate(&self) -> f64 {
        self.converted as f64 / self.layers.max(1) as f64
    }
}

/// One step of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The new token. `None` when the generation ended without one: at an end token, or cancelled.
    pub token: Option<u32>,
    /// Text that is complete now: whole characters, nothing that could still become a stop string. May be empty; the
    /// events' texts together are the text. Always empty when the model has no tokenizer.
    pub text: String,
    /// The token's probability, when asked for.
    pub logprob: Option<Logprob>,
    /// On the first event, when asked for: the prompt's tokens without the first, which comes after nothing.
    pub prompt: Option<Vec<PromptToken>>,
    /// Set on the last event.
    pub finish: Option<FinishReason>,
    /// So far, this event included.
    pub usage: Usage,
}

/// A finished generation in one piece, see [`Generation::wait`].
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The tokens generated, without the end token.
    pub ids: Vec<u32>,
    /// Their text, up to the stop string.
    pub text: String,
    /// One for each id, when asked for.
    pub logprobs: Vec<Logprob>,
    /// The prompt's tokens without the first, when asked for.
    pub prompt: Vec<PromptToken>,
    /// Why it ended.
    pub finish: FinishReason,
    /// What it used.
    pub usage: Usage,
}

/// A running request: an iterator that blocks until the next event, and a [`Stream`] that does not, under any
/// executor (with `StreamExt` in scope say which `next` you mean). Both end after the last event, which has `finish` set, or after an error. Dropping it cancels the request;
/// its memory is free by the next step.
pub struct Generation {
    pub(crate) id: u64,
    pub(crate) prompt_tokens: usize,
    pub(crate) events: EventReceiver,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) done: bool,
}

impl Generation {
    /// The request's number, unique within its engine.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Ends the request at the next step; events that are on their way still arrive, then one with
    /// [`FinishReason::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.shared.poke();
    }

    /// Passes an event on, and remembers if it is the last.
    fn noted(&mut self, event: Result<Event>) -> Result<Event> {
        self.done = event.as_ref().map_or(true, |e| e.finish.is_some());
        event
    }

    /// Runs to the end and collects everything.
    pub fn wait(mut self) -> Result<Completion> {
        let (mut ids, mut text, mut logprobs, mut prompt) =
            (Vec::new(), String::new(), Vec::new(), Vec::new());
        loop {
            let event = Iterator::next(&mut self).unwrap_or(Err(Error::Stopped))?;
            ids.extend(event.token);
            text.push_str(&event.text);
            logprobs.extend(event.logprob);
            prompt.extend(event.prompt.into_iter().flatten());
            if let Some(finish) = event.finish {
                return Ok(Completion { ids, text, logprobs, prompt, finish, usage: event.usage });
            }
        }
    }
}

impl Iterator for Generation {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.done {
            return None;
        }
        // A sender that is gone without a last event: the engine thread died.
        let event = self.events.recv().unwrap_or(Err(Error::Stopped));
        Some(self.noted(event))
    }
}

impl Stream for Generation {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let event = ready!(self.events.poll(cx)).unwrap_or(Err(Error::Stopped));
        Poll::Ready(Some(self.noted(event)))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.done {
            self.cancel();
        }
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut s = f.debug_struct("Generation");
        s.field("id", &self.id).field("prompt_tokens", &self.prompt_tokens).field("done", &self.done).finish()
    }
}
