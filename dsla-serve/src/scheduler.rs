//! Who runs next: queues and budgets in, tokens per sequence out. Pure: no model, no I/O, no clock.
//!
//! Strictly first come, first served. The head of the queue waits until it fits and nobody overtakes it, so every
//! request gets its turn. A step feeds one token of each sequence that generates, and prompts of the others in pieces
//! that start at multiples of `prefill_chunk` of the sequence's own length: how a prompt is cut, and with it every
//! rounding, does not depend on who else runs.

use std::collections::VecDeque;

/// What a step may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sequences running at once, 1 or more.
    pub max_running: usize,
    /// Prompt tokens per step, 1 or more.
    pub prefill_chunk: usize,
    /// Bytes that running sequences may reserve.
    pub budget: Option<usize>,
}

/// A request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Ids grow in order of arrival.
    pub id: u64,
    /// Prompt tokens, 1 or more.
    pub prompt: usize,
    /// Prompt tokens plus the most it may generate.
    pub total: usize,
    /// Converted layers the request insists on.
    pub pinned: Option<usize>,
}

/// What one sequence is fed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub id: u64,
    /// Tokens, 1 or more.
    pub tokens: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    waiting: Waiting,
    /// Prompt tokens fed so far.
    fed: usize,
    /// Bytes reserved.
    bytes: usize,
}

/// The queue and the running set.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    waiting: VecDeque<Waiting>,
    /// In order of arrival.
    running: Vec<Slot>,
}

impl Scheduler {
    pub fn new(limits: Limits) -> Scheduler {
        Scheduler { limits, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Appends a request to the queue.
    pub fn enqueue(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Moves requests from the queue's head to the running set while they fit. `cost`: the bytes a request will hold
    /// at its last token.
    pub fn admit(&mut self, mut cost: impl FnMut(&Waiting) -> usize) -> Vec<Waiting> {
        let mut admitted = Vec::new();
        while self.running.len() < self.limits.max_running {
            let Some(&head) = self.waiting.front() else { break };
            let bytes = cost(&head);
            if self.limits.budget.is_some_and(|budget| self.reserved().saturating_add(bytes) > budget) {
                break;
            }
            self.waiting.pop_front();
            self.running.push(Slot { waiting: head, fed: 0, bytes });
            admitted.push(head);
        }
        admitted
    }

    /// What the next step feeds, in order of arrival; empty only when nothing runs.
    pub fn plan(&self) -> Vec<Planned> {
        let chunk = self.limits.prefill_chunk;
        let mut room = Some(chunk);
        let mut plan = Vec::with_capacity(self.running.len());
        for slot in &self.running {
            let left = slot.waiting.prompt - slot.fed;
            if left == 0 {
                plan.push(Planned { id: slot.waiting.id, tokens: 1 });
                continue;
            }
            let tokens = left.min(chunk);
            // The first that does not fit ends the prefills of this step: a shorter one behind it must not overtake.
            room = room.and_then(|room| room.checked_sub(tokens));
            if room.is_some() {
                plan.push(Planned { id: slot.waiting.id, tokens });
            }
        }
        plan
    }

    /// Notes that a planned step was carried out.
    pub fn fed(&mut self, step: Planned) {
        if let Some(slot) = self.slot(step.id) {
            slot.fed = (slot.fed + step.tokens).min(slot.waiting.prompt);
        }
    }

    /// Changes what a running sequence reserves, if the budget allows it.
    pub fn resize(&mut self, id: u64, bytes: usize) -> bool {
        let (all, budget) = (self.reserved(), self.limits.budget);
        let Some(slot) = self.slot(id) else { return false };
        let others = all - slot.bytes;
        let fits = bytes <= slot.bytes || budget.is_none_or(|budget| others.saturating_add(bytes) <= budget);
        if fits {
            slot.bytes = bytes;
        }
        fits
    }

    /// Forgets a request, queued or running, and its reservation.
    pub fn remove(&mut self, id: u64) {
        self.waiting.retain(|w| w.id != id);
        self.running.retain(|s| s.waiting.id != id);
    }

    /// Requests that wait, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
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

    /// Bytes the running sequences reserve.
    pub fn reserved(&self) -> usize {
        self.running.iter().map(|s| s.bytes).sum()
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        self.running.iter_mut().find(|s| s.waiting.id == id)
    }
}

#[cfg(test)]
mod tests;
