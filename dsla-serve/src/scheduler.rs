//! Who runs next: queues and budgets in, tokens per sequence out. Pure: no model, no I/O, no clock.
//!
//! Strictly first come, first served. The head of the queue waits until it fits and nobody overtakes it, so every
//! request gets its turn. It also waits until the next step has room for prompt tokens: what is not begun yet stays in
//! the queue, holds no bytes, and starts with as many converted layers as the load then asks for. A step feeds one token of each sequence that generates, and prompts of the others in pieces
//! that end at multiples of `prefill_chunk` of the sequence's own length, or at cuts that it names: how a prompt is cut
//! does not depend on who else runs.
//!
//! A sequence is admitted when what it needs soon fits, not what it could need at its last token. When all of them
//! have grown so much that their next step would exceed the budget, the youngest goes back to the head of the queue and
//! is computed again later. The oldest never does, and fits alone, so it ends, and the next one is the oldest.

use crate::footprint::Footprint;
use std::collections::VecDeque;

/// Tokens that every sequence must have room to grow by when another one is admitted: with less, the newcomer's prompt
/// would soon have been fed in vain.
pub(crate) const GROWTH: usize = 64;

/// What a step may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sequences running at once, 1 or more.
    pub max_running: usize,
    /// Prompt tokens per step, 1 or more.
    pub prefill_chunk: usize,
    /// Bytes that running sequences may hold.
    pub budget: Option<usize>,
}

/// A request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Ids grow in order of arrival.
    pub id: u64,
    /// Prompt tokens, 1 or more.
    pub prompt: usize,
    /// Prompt tokens, and those it has generated before it was preempted.
    pub known: usize,
    /// Prompt tokens plus the most it may generate.
    pub total: usize,
    /// Converted layers the request insists on.
    pub pinned: Option<usize>,
    /// Preempted: the converted layers it started with, and starts with again.
    pub again: Option<usize>,
}

/// What one sequence is fed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub id: u64,
    /// Tokens, 1 or more.
    pub tokens: usize,
}

#[derive(Clone, Debug)]
struct Slot {
    waiting: Waiting,
    /// Tokens taken in.
    len: usize,
    /// Converted layers, at the start and now.
    start: usize,
    converted: usize,
    /// Where pieces of the prompt end, besides multiples of the chunk.
    cuts: Vec<usize>,
    /// Is not fed for now.
    held_back: bool,
}

impl Slot {
    /// Bytes it holds with `converted` layers when it has grown by `growth` tokens, its whole prompt counted from the start.
    fn bytes(&self, footprint: &Footprint, converted: usize, growth: usize) -> usize {
        let tokens = self.waiting.known.max(self.len).saturating_add(growth).min(self.waiting.total);
        footprint.peak(tokens, converted)
    }

    /// Has prompt tokens to be fed.
    fn is_prompt(&self) -> bool {
        self.len < self.waiting.prompt
    }

    /// What it is fed next: the rest of its prompt up to the next cut, or one token.
    fn piece(&self, chunk: usize) -> usize {
        let ends = (self.len / chunk).saturating_add(1).saturating_mul(chunk).min(self.waiting.prompt);
        let cut = self.cuts.iter().copied().filter(|&cut| cut > self.len).min();
        cut.map_or(ends, |cut| cut.min(ends)).saturating_sub(self.len).max(1)
    }
}

/// The queue and the running set.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    footprint: Footprint,
    waiting: VecDeque<Waiting>,
    /// In order of arrival.
    running: Vec<Slot>,
}

impl Scheduler {
    pub fn new(limits: Limits, footprint: Footprint) -> Scheduler {
        Scheduler { limits, footprint, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Appends a request to the queue.
    pub fn enqueue(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Moves requests from the queue's head to the running set while they fit and the next step has prompt tokens left
    /// for them. `start`: the converted layers that a request starts with; `None` lets it pass, so that it can be refused.
    pub fn admit(&mut self, mut start: impl FnMut(&Waiting) -> Option<usize>) -> Vec<Waiting> {
        let mut admitted = Vec::new();
        let mut bytes = self.bytes(GROWTH);
        let chunk = self.limits.prefill_chunk;
        let feeding = self.running.iter().filter(|s| s.is_prompt() && !s.held_back);
        let mut taken: usize = feeding.map(|s| s.piece(chunk)).sum();
        while self.running.len() < self.limits.max_running && taken < chunk {
            let Some(&head) = self.waiting.front() else { break };
            let start = start(&head);
            let converted = start.unwrap_or(0);
            let slot = Slot {
                waiting: head,
                len: 0,
                start: converted,
                converted,
                cuts: Vec::new(),
                held_back: false,
            };
            let with = bytes.saturating_add(start.map_or(0, |k| slot.bytes(&self.footprint, k, GROWTH)));
            if self.limits.budget.is_some_and(|budget| with > budget) {
                break;
            }
            bytes = with;
            taken += slot.piece(chunk);
            self.waiting.pop_front();
            self.running.push(slot);
            admitted.push(head);
        }
        admitted
    }

    /// What a running sequence begins with: tokens it need not be fed, and where its prompt is cut.
    pub fn begin(&mut self, id: u64, len: usize, cuts: Vec<usize>) {
        if let Some(slot) = self.slot(id) {
            (slot.len, slot.cuts) = (len, cuts);
        }
    }

    /// Cuts the prompt of a running sequence at one more place.
    pub fn cut(&mut self, id: u64, at: usize) {
        if let Some(slot) = self.slot(id) {
            slot.cuts.push(at);
        }
    }

    /// Leaves a running sequence out of plans, or no longer. Never the oldest.
    pub fn hold_back(&mut self, id: u64, held_back: bool) {
        if let Some(slot) = self.slot(id) {
            slot.held_back = held_back;
        }
    }

    /// What the next step feeds, in order of arrival; empty only when nothing runs.
    pub fn plan(&self) -> Vec<Planned> {
        let chunk = self.limits.prefill_chunk;
        let mut room = Some(chunk);
        let mut plan = Vec::with_capacity(self.running.len());
        for (at, slot) in self.running.iter().enumerate() {
            let id = slot.waiting.id;
            if slot.held_back && at > 0 {
                continue;
            }
            if !slot.is_prompt() {
                plan.push(Planned { id, tokens: 1 });
                continue;
            }
            let tokens = slot.piece(chunk);
            // The first that does not fit ends the prefills of this step: a shorter one behind it must not overtake.
            room = room.and_then(|room| room.checked_sub(tokens));
            if room.is_some() {
                plan.push(Planned { id, tokens });
            }
        }
        plan
    }

    /// Notes that a planned step was carried out.
    pub fn fed(&mut self, step: Planned) {
        if let Some(slot) = self.slot(step.id) {
            slot.len += step.tokens;
        }
    }

    /// Whether a running sequence may have `converted` layers: it still fits alone at its last token, and with the others
    /// now. Notes it if so.
    pub fn convert(&mut self, id: u64, converted: usize) -> bool {
        let Some(slot) = self.running.iter().find(|s| s.waiting.id == id) else { return false };
        let [before, after] = [slot.converted, converted].map(|k| slot.bytes(&self.footprint, k, 1));
        let alone = self.footprint.peak(slot.waiting.total, converted);
        let others = self.bytes(1) - before;
        let fits = |budget| alone <= budget && (after <= before || others.saturating_add(after) <= budget);
        let fits = self.limits.budget.is_none_or(fits);
        if fits {
            self.converted(id, converted);
        }
        fits
    }

    /// Notes that a running sequence has `converted` layers.
    pub fn converted(&mut self, id: u64, converted: usize) {
        if let Some(slot) = self.slot(id) {
            slot.converted = converted;
        }
    }

    /// If the next step of all would exceed the budget: the youngest, which is at the head of the queue again.
    pub fn preempt(&mut self) -> Option<u64> {
        if self.running.len() < 2 || self.limits.budget.is_none_or(|budget| self.bytes(1) <= budget) {
            return None;
        }
        let Slot { waiting, len, start, .. } = self.running.pop()?;
        // Fed beyond what was known: each token of that was generated, and one that is not fed yet.
        let known = if len < waiting.known { waiting.known } else { len + 1 };
        self.waiting.push_front(Waiting { known: known.min(waiting.total), again: Some(start), ..waiting });
        Some(waiting.id)
    }

    /// Forgets a request, queued or running.
    pub fn remove(&mut self, id: u64) {
        self.waiting.retain(|w| w.id != id);
        self.running.retain(|s| s.waiting.id != id);
    }

    /// Requests that wait, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    /// Prompt tokens that are still to be fed, of all that wait and run.
    pub fn prompt_tokens(&self) -> usize {
        let left = |s: &Slot| s.waiting.prompt.saturating_sub(s.len);
        self.waiting.iter().map(|w| w.prompt).chain(self.running.iter().map(left)).sum()
    }

    /// Sequences running.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Nothing waits, nothing runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Bytes that running sequences hold, their whole prompts counted from the start.
    pub fn reserved(&self) -> usize {
        self.bytes(0)
    }

    /// Bytes that are left beside them after the next step.
    pub fn left(&self) -> usize {
        self.limits.budget.map_or(usize::MAX, |budget| budget.saturating_sub(self.bytes(1)))
    }

    fn bytes(&self, growth: usize) -> usize {
        self.running.iter().map(|s| s.bytes(&self.footprint, s.converted, growth)).sum()
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        self.running.iter_mut().find(|s| s.waiting.id == id)
    }
}

#[cfg(test)]
mod tests;
