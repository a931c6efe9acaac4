//! The one engine thread: takes requests in, lets the policy decide, admits, folds, runs a step, sends events.

use crate::adapt::{Controller, Load};
use crate::backend::{Backend, Feed};
use crate::engine::{EngineConfig, Shared};
use crate::latency::{Clock, Recent};
use crate::prefix::Prefixes;
use crate::request::Facts;
use crate::running::{Running, Submission, Task};
use crate::scheduler::{Limits, Planned, Scheduler, Waiting};
use crate::stats::{Stats, StepReport};
use crate::{Error, FinishReason, Result};
use dsla_model::Want;
use dsla_model::core::Tensor;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod memory;
#[cfg(test)]
mod tests;

pub(crate) struct Worker<B: Backend> {
    backend: B,
    shared: Arc<Shared>,
    facts: Facts,
    controller: Controller,
    scheduler: Scheduler,
    waiting: BTreeMap<u64, Task>,
    /// By id, which is the scheduler's order too.
    running: BTreeMap<u64, Running<B::Sequence>>,
    prefixes: Prefixes<B::Sequence>,
    /// Tokens of a prompt between snapshots, and what cuts of prompts are multiples of.
    snapshot_every: usize,
    grain: usize,
    /// Bytes that the prefix cache may take.
    most_cached: usize,
    /// Tokens in the cache at other conversion rates when that was last warned of.
    said_other_rate: u64,
    /// Layers folded per step at most; 0 when running sequences are not folded.
    max_folds: usize,
    stats: Stats,
}

/// What became of one planned sequence: its rows of logits, if it wanted any.
type Outcome = (Planned, Result<Option<Rows>>);

/// Some rows of a step's logits [rows, V].
struct Rows {
    all: Rc<Tensor>,
    from: usize,
    to: usize,
}

impl<B: Backend> Worker<B> {
    pub fn new(backend: B, shared: Arc<Shared>, controller: Controller, config: &EngineConfig) -> Worker<B> {
        let facts = shared.facts.clone();
        let limits = Limits {
            max_running: config.max_running,
            prefill_chunk: config.prefill_chunk,
            budget: facts.budget,
        };
        let stats =
            Stats { max_queue: config.max_queue, max_running: config.max_running, ..Stats::default() };
        let foldable = backend.foldable();
        if config.fold_running && !foldable && facts.ladder.max() > 0 {
            tracing::warn!(
                "this adapter's gates read more than a KV cache holds: running sequences stay as they are"
            );
        }
        let chunk = config.prefill_chunk;
        // Where nothing else is promised a prompt is only cut where it is cut anyway.
        let grain = backend.grain().filter(|grain| chunk.is_multiple_of(*grain)).unwrap_or(chunk);
        Worker {
            backend,
            scheduler: Scheduler::new(limits, facts.footprint.clone()),
            shared,
            facts,
            controller,
            prefixes: Prefixes::new(grain, config.prefix_cache),
            snapshot_every: config.snapshot_every.next_multiple_of(chunk),
            grain,
            most_cached: config.prefix_cache,
            said_other_rate: 0,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            max_folds: if config.fold_running && foldable { config.max_folds_per_step } else { 0 },
            stats,
        }
    }

    /// Until shutdown.
    pub fn run(mut self) {
        loop {
            let wait = self.controller.idle_wait(self.shared.now());
            let orders = self.shared.receive(self.scheduler.is_idle(), wait);
            orders.arrived.into_iter().for_each(|request| self.enqueue(request));
            self.prune(orders.stop_now);
            if orders.closing && self.scheduler.is_idle() {
                self.publish();
                return;
            }
            let begin = Instant::now();
            self.adapt();
            self.admit();
            let folds = self.fold();
            self.make_room();
            let stepped = self.step();
            self.publish();
            if let Some((prompt_tokens, generated_tokens)) = stepped.filter(|_| self.shared.watched()) {
                self.shared.report(StepReport {
                    at: self.stats.at,
                    took: begin.elapsed(),
                    prompt_tokens,
                    generated_tokens,
                    folds,
                    stats: self.stats.clone(),
                });
            }
        }
    }

    fn enqueue(&mut self, request: Submission) {
        let prompt = request.prompt.len();
        let total = prompt + request.params.max_tokens;
        let (id, pinned) = (request.id, request.pinned);
        self.scheduler.enqueue(Waiting { id, prompt, known: prompt, total, pinned, again: None });
        self.waiting.insert(id, Task::new(request));
    }

    /// Ends cancelled requests, or all of them.
    fn prune(&mut self, all: bool) {
        let layers = self.facts.ladder.layers();
        let gone: Vec<u64> =
            self.waiting.iter().filter(|(_, t)| all || t.request.is_cancelled()).map(|(id, _)| *id).collect();
        for id in gone {
            let Some(task) = self.waiting.remove(&id) else { continue };
            self.scheduler.remove(id);
            self.stats.cancelled += 1;
            task.cancel(layers);
        }
        let gone = self.running.iter().filter(|(_, r)| all || r.task.request.is_cancelled());
        let gone: Vec<u64> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            let Some(running) = self.running.remove(&id) else { continue };
            self.scheduler.remove(id);
            self.stats.cancelled += 1;
            // Memory first: whoever sees the event finds it free.
            drop(running.seq);
            running.task.cancel(layers);
        }
    }

    fn adapt(&mut self) {
        let waiting = self.scheduler.waiting();
        let held = self.running.values().map(|r| self.backend.held(&r.seq));
        let (kv_bytes, state_bytes) = held.fold((0, 0), |(kv, state), h| (kv + h.kv, state + h.state));
        let (longest, tokens) = waiting.fold((0, 0), |(max, sum), w| (w.prompt.max(max), sum + w.prompt));
        let now = self.shared.now();
        let first = self.waiting.values().next();
        let longest_wait = first.map_or(Duration::ZERO, |r| now.saturating_sub(r.waits_since));
        let (first_token_p90, inter_token_p90, prefill_tok_s) = {
            let mut latency = self.shared.latency();
            latency.forget(now);
            let p90 = |recent: &Recent| recent.quantile(0.9).map(Duration::from_secs_f64);
            let rate = latency.prefill_rate.per_second();
            (p90(&latency.recent_first_token), p90(&latency.recent_inter_token), rate)
        };
        let before = self.controller.target();
        let target = self.controller.observe(&Load {
            now,
            queued_requests: self.waiting.len(),
            longest_queued_prompt: longest,
            queued_prompt_tokens: tokens,
            prompt_tokens: self.scheduler.prompt_tokens(),
            prefill_tok_s,
            longest_wait,
            running: self.running.len(),
            kv_bytes,
            state_bytes,
            reserved_bytes: self.scheduler.reserved(),
            first_token_p90,
            inter_token_p90,
            kv_budget: self.facts.budget,
        });
        if target != before {
            tracing::info!(
                from = before,
                to = target,
                queued = self.waiting.len(),
                longest,
                "converted layers"
            );
        }
    }

    fn admit(&mut self) {
        let target = self.controller.target();
        let facts = &self.facts;
        // A preempted one starts as it did. What fits nowhere is refused below, once it is out of the queue.
        let start = |w: &Waiting| w.again.map_or_else(|| facts.start(w.total, w.pinned, target), Ok);
        for w in self.scheduler.admit(|w| start(w).ok()) {
            let Some(mut task) = self.waiting.remove(&w.id) else { continue };
            match start(&w).and_then(|converted| self.backend.start(converted)) {
                Ok(seq) => {
                    task.start = self.backend.converted(&seq);
                    tracing::debug!(parent: &task.request.span, converted = task.start, "admitted");
                    if task.preemptions == 0 {
                        task.clock = Clock::new(task.request.submitted, self.shared.now());
                        self.shared.latency().admitted(&task.clock);
                    }
                    self.running.insert(w.id, Running { task, seq });
                }
                Err(error) => {
                    self.scheduler.remove(w.id);
                    self.stats.failed += 1;
                    task.request.end(Err(error));
                }
            }
        }
        self.shared.set_queued(self.waiting.len());
    }

    /// Brings running sequences closer to the target, those with most keys and values first. Layers folded.
    fn fold(&mut self) -> usize {
        self.fold_again();
        let target = self.controller.target();
        let mut folds = 0;
        let mut no_room = Vec::new();
        while folds < self.max_folds {
            let behind = self.running.iter().filter(|(id, r)| {
                let t = &r.task;
                let open = t.request.pinned.is_none() && t.fed > 0 && t.is_open() && !no_room.contains(*id);
                open && self.backend.converted(&r.seq) < target
            });
            let next = behind.max_by_key(|(_, r)| self.backend.held(&r.seq).kv).map(|(id, _)| *id);
            let Some((id, r)) = next.and_then(|id| Some((id, self.running.get(&id)?))) else { break };
            // A short sequence's state is larger than its keys and values: it has to fit first.
            if !self.scheduler.convert(id, self.backend.converted(&r.seq) + 1) {
                no_room.push(id);
                continue;
            }
            folds += usize::from(self.fold_one(id));
        }
        self.stats.folds += folds as u64;
        folds
    }

    /// Repeats the folds of preempted sequences where they were.
    fn fold_again(&mut self) {
        let due = |r: &Running<B::Sequence>| r.task.fold_is_due();
        while let Some((&id, r)) = self.running.iter().find(|(_, r)| due(r)) {
            self.scheduler.converted(id, self.backend.converted(&r.seq) + 1);
            self.fold_one(id);
        }
    }

    /// Folds the next layer of a running sequence; whether that went well.
    fn fold_one(&mut self, id: u64) -> bool {
        let Some(r) = self.running.get_mut(&id) else { return false };
        let want = self.backend.converted(&r.seq) + 1;
        let error = match self.backend.fold(&mut r.seq) {
            Ok(()) if self.backend.converted(&r.seq) == want => {
                r.task.folded();
                return true;
            }
            Ok(()) => Error::internal("converted layers after a fold", self.backend.converted(&r.seq), want),
            Err(error) => error,
        };
        self.fail(id, error);
        false
    }

    /// One step of every planned sequence: prompt tokens fed and tokens generated; `None` when nothing runs.
    fn step(&mut self) -> Option<(usize, usize)> {
        let plan = self.begin();
        if plan.is_empty() {
            return None;
        }
        let begin = Instant::now();
        let (mut prompt_tokens, mut generated) = (0, 0);
        for (planned, outcome) in self.forward(&plan) {
            let logits = match outcome {
                Ok(logits) => logits,
                Err(error) => {
                    self.fail(planned.id, error);
                    continue;
                }
            };
            self.scheduler.fed(planned);
            let Some(r) = self.running.get_mut(&planned.id) else { continue };
            let (of_prompt, again) = r.task.took(planned);
            prompt_tokens += of_prompt;
            self.stats.recomputed_tokens += again as u64;
            let Some(logits) = logits else {
                self.keep(planned.id);
                continue;
            };
            let rows = logits.all.rows(logits.from, logits.to);
            match r.task.take(&self.backend, rows, self.facts.ladder.layers()) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    generated += usize::from(event.token.is_some());
                    self.deliver(planned.id, event);
                }
                Err(error) => self.fail(planned.id, error),
            }
        }
        self.shared.latency().step(prompt_tokens, generated, begin.elapsed(), self.shared.now());
        self.stats.steps += 1;
        self.stats.prompt_tokens += prompt_tokens as u64;
        self.stats.generated_tokens += generated as u64;
        Some((prompt_tokens, generated))
    }

    /// All planned sequences in one call; when that fails, each alone, so that one cannot end the others.
    fn forward(&mut self, plan: &[Planned]) -> Vec<Outcome> {
        let backend = &self.backend;
        let planned = |id: u64| plan.binary_search_by_key(&id, |p| p.id).ok().map(|at| plan[at]);
        let before: Vec<_> =
            plan.iter().filter_map(|p| Some(self.running.get(&p.id)?.mark(backend))).collect();
        let mut feeds: Vec<Feed<B::Sequence>> =
            self.running.iter_mut().filter_map(|(id, r)| Some(r.feed(planned(*id)?))).collect();
        let together = checked_forward(backend, &mut feeds);
        let together = match together {
            Ok(rows) => return plan.iter().copied().zip(rows.into_iter().map(Ok)).collect(),
            Err(error) => error,
        };
        if plan.len() > 1 {
            tracing::warn!(error = %together, sequences = plan.len(), "a step failed, running its sequences alone");
        }
        let mut outcomes = Vec::with_capacity(plan.len());
        for (&step, before) in plan.iter().zip(before) {
            let Some(r) = self.running.get_mut(&step.id) else { continue };
            // A sequence that took in half a step would go on with wrong text.
            let outcome = if plan.len() == 1 || r.mark(backend) != before {
                Err(together.clone())
            } else {
                checked_forward(backend, &mut [r.feed(step)]).map(|mut rows| rows.pop().flatten())
            };
            outcomes.push((step, outcome));
        }
        outcomes
    }

    fn deliver(&mut self, id: u64, event: crate::Event) {
        let now = self.shared.now();
        if let Some(r) = self.running.get_mut(&id) {
            let mut latency = self.shared.latency();
            if event.token.is_some() {
                latency.token(&mut r.task.clock, now);
            }
            if event.finish.is_some() {
                latency.ended(&r.task.clock, now, event.usage.prompt_tokens, event.usage.generated);
            }
        }
        if let Some(finish) = event.finish {
            self.stats.finished += 1;
            self.stats.finished_by_length += u64::from(finish == FinishReason::Length);
            if let Some(request) = self.forget(id) {
                request.end(Ok(event));
            }
        } else if let Some(r) = self.running.get(&id) {
            // A receiver that is gone has also set the flag that the next step looks at.
            r.task.request.events.send(Ok(event));
        }
    }

    fn fail(&mut self, id: u64, error: Error) {
        self.stats.failed += 1;
        if let Some(request) = self.forget(id) {
            request.end(Err(error));
        }
    }

    /// Frees a running sequence before anyone hears of its end.
    fn forget(&mut self, id: u64) -> Option<Submission> {
        self.scheduler.remove(id);
        let running = self.running.remove(&id)?;
        drop(running.seq);
        Some(running.task.request)
    }

    fn publish(&mut self) {
        let sequences: Vec<_> = self.running.values().map(|r| r.stats(&self.backend)).collect();
        self.stats.at = self.shared.now();
        self.stats.queued = self.waiting.len();
        self.stats.prompt_tokens_ahead = self.scheduler.prompt_tokens();
        self.stats.running = sequences.len();
        self.stats.kv_bytes = sequences.iter().map(|s| s.kv_bytes).sum();
        self.stats.state_bytes = sequences.iter().map(|s| s.state_bytes).sum();
        self.stats.reserved_bytes = self.scheduler.reserved();
        self.stats.prefix = self.prefixes.stats();
        self.stats.kv_budget = self.facts.budget;
        self.stats.layers = self.facts.ladder.layers();
        self.stats.converted_target = self.controller.target();
        self.stats.converted_max = self.controller.max();
        self.stats.sequences = sequences;
        self.shared.publish(self.stats.clone());
    }
}

/// The rows of logits that each feed wants.
fn checked_forward<B: Backend>(backend: &B, feeds: &mut [Feed<B::Sequence>]) -> Result<Vec<Option<Rows>>> {
    let count = |f: &Feed<B::Sequence>| match f.logits {
        Want::None => 0,
        Want::Last => 1,
        Want::All => f.tokens.len(),
    };
    let wanted: Vec<usize> = feeds.iter().map(count).collect();
    let rows: usize = wanted.iter().sum();
    let logits = Rc::new(unwound(|| backend.forward(feeds))?);
    if !matches!(logits.dims(), [got, _] if *got == rows) {
        let got = format!("{:?}", logits.dims());
        return Err(Error::internal("logits of a step", got, format!("[{rows}, vocabulary]")));
    }
    let mut from = 0;
    let each = wanted.into_iter().map(|n| {
        from += n;
        (n > 0).then(|| Rows { all: Rc::clone(&logits), from: from - n, to: from })
    });
    Ok(each.collect())
}

/// A panic as an error: it ends the requests of its step and not the engine. Sequences that it left half way are torn,
/// which the model knows.
fn unwound<T>(step: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
        // The first line: an error is one.
        let line = text.lines().next().unwrap_or_default();
        Err(Error::internal("a step", format!("a panic ({line})"), "logits"))
    })
}
