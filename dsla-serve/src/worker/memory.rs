//! Who gives way when bytes run out, and what the prefix cache gives and keeps.

use super::Worker;
use crate::backend::Backend;
use crate::prefix::last_cut;
use crate::scheduler::Planned;

impl<B: Backend> Worker<B> {
    /// Room for the next step of all that run: the prefix cache gives way first, then the youngest.
    pub(super) fn make_room(&mut self) {
        while let Some(id) = self.scheduler.preempt() {
            let Some(running) = self.running.remove(&id) else { continue };
            let mut task = running.task;
            drop(running.seq);
            task.preempted(self.shared.now());
            tracing::debug!(parent: &task.request.span, times = task.preemptions, "preempted");
            self.stats.preemptions += 1;
            self.waiting.insert(id, task);
        }
        self.shared.set_queued(self.waiting.len());
        self.prefixes.set_limit(self.most_cached.min(self.scheduler.left()));
    }

    /// What the next step feeds. Sequences that are new to it begin with what the prefix cache has for them.
    pub(super) fn begin(&mut self) -> Vec<Planned> {
        loop {
            let plan = self.scheduler.plan();
            let is_new = |id: &u64| self.running.get(id).is_some_and(|r| !r.task.begun);
            let new: Vec<u64> = plan.iter().map(|p| p.id).filter(is_new).collect();
            if new.is_empty() {
                return plan;
            }
            new.into_iter().for_each(|id| self.restore(id));
        }
    }

    fn restore(&mut self, id: u64) {
        let Some(r) = self.running.get_mut(&id) else { return };
        let task = &mut r.task;
        let first = task.preemptions == 0;
        task.begun = true;
        let mut cuts = task.folds_ahead().to_vec();
        if task.request.cacheable() && self.most_cached > 0 {
            let prompt = &task.request.prompt;
            let last = last_cut(prompt.len(), self.grain);
            // A snapshot is of a sequence that was not folded: not of what came after a fold that is to be repeated.
            let most = cuts.first().map_or(last, |&fold| last.min(fold));
            let found = self.prefixes.find(prompt, task.start, most, first);
            let hit = found.hit.map(|(at, snapshot)| (at, self.backend.snapshot(snapshot)));
            task.keep = vec![found.seen, last];
            match hit {
                Some((at, Ok(seq))) => {
                    (r.seq, task.fed) = (seq, at);
                    task.cached = if first { at } else { task.cached };
                }
                Some((_, Err(error))) => tracing::warn!(%error, "a snapshot could not be copied"),
                None => {}
            }
            cuts.extend(&task.keep);
        }
        self.scheduler.begin(id, task.fed, cuts);
        self.warn_of_other_rates();
    }

    /// Snapshots of another conversion rate are no bug, but should not go unseen either: said when their share doubles.
    fn warn_of_other_rates(&mut self) {
        let stats = self.prefixes.stats();
        if stats.other_rate >= self.said_other_rate.max(1) * 2 {
            self.said_other_rate = stats.other_rate;
            tracing::warn!(
                tokens = stats.other_rate,
                of = stats.queries,
                "the prefix cache holds prompts at other conversion rates than the ones asked for"
            );
        }
    }

    /// Keeps a snapshot of a sequence that has come to a cut of its prompt.
    pub(super) fn keep(&mut self, id: u64) {
        let Some(r) = self.running.get(&id) else { return };
        let (task, at) = (&r.task, r.task.fed);
        let prompt = &task.request.prompt;
        let last = last_cut(prompt.len(), self.grain);
        let cut = at > 0 && at <= last && (at.is_multiple_of(self.chunk) || task.keep.contains(&at));
        let whole = task.is_unfolded() && at.is_multiple_of(self.grain);
        if !(cut && whole && task.request.cacheable()) {
            return;
        }
        self.prefixes.set_limit(self.most_cached.min(self.scheduler.left()));
        let held = self.backend.held(&r.seq);
        if !self.prefixes.takes(held.kv + held.state) || self.prefixes.holds(&prompt[..at], task.start) {
            return;
        }
        match self.backend.snapshot(&r.seq) {
            Ok(snapshot) => {
                let weight = self.backend.weight(&snapshot);
                self.prefixes.insert(&prompt[..at], task.start, snapshot, weight);
            }
            Err(error) => tracing::warn!(%error, "a sequence could not be copied into the prefix cache"),
        }
    }
}
