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
        self.hold_back();
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

    /// Prompts that came together and begin the same (choices of one request, questions behind one system prompt): the
    /// first feeds what they share and leaves a snapshot, the others wait for it.
    fn hold_back(&mut self) {
        let new = self.running.iter().filter(|(_, r)| !r.task.begun).map(|(id, _)| *id);
        for id in new.collect::<Vec<_>>() {
            let shared = self.shared_with(id);
            self.scheduler.hold_back(id, shared.is_some());
            let Some((other, at)) = shared else { continue };
            if let Some(r) = self.running.get_mut(&other).filter(|r| !r.task.keep.contains(&at)) {
                r.task.keep.push(at);
                self.scheduler.cut(other, at);
            }
        }
    }

    /// An older sequence that is about to feed more of this one's prompt than the cache has, and up to which cut.
    fn shared_with(&self, id: u64) -> Option<(u64, usize)> {
        let task = &self.running.get(&id)?.task;
        let cut = |prompt: &[u32]| last_cut(prompt.len(), self.grain);
        let prompt = &task.request.prompt;
        if !task.request.cacheable() || self.most_cached == 0 || task.preemptions > 0 {
            return None;
        }
        let older = self.running.range(..id).filter(|(_, o)| {
            let o = &o.task;
            o.start == task.start
                && o.is_unfolded()
                && o.request.cacheable()
                && o.fed < cut(&o.request.prompt)
        });
        let shared = older.map(|(other, o)| {
            let theirs = &o.task.request.prompt;
            let same = prompt.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            let at = (same / self.grain * self.grain).min(cut(prompt)).min(cut(theirs));
            (*other, at, o.task.fed)
        });
        let (other, at, _) = shared
            .filter(|&(_, at, fed)| at > fed)
            .max_by_key(|&(other, at, _)| (at, std::cmp::Reverse(other)))?;
        (at > self.prefixes.peek(prompt, task.start, at)).then_some((other, at))
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
            task.keep.extend([found.seen, last]);
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
        let cut = at > 0 && at <= last && (at.is_multiple_of(self.snapshot_every) || task.keep.contains(&at));
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
