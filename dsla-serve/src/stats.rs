//! What the engine is doing: snapshots and reports per step, for metrics and plots.

use std::time::Duration;

/// A snapshot of an engine, as of its last step or wake-up. Counters run from the engine's start.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Time since the engine started.
    pub at: Duration,
    /// Requests that wait.
    pub queued: usize,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Prompt tokens still to be taken in, of requests that wait and of those that run.
    pub prompt_tokens_ahead: usize,
    /// Sequences running.
    pub running: usize,
    /// Sequences that may run at once.
    pub max_running: usize,
    /// Bytes of their keys and values.
    pub kv_bytes: usize,
    /// Bytes of their states, window rings included.
    pub state_bytes: usize,
    /// Those bytes with whole prompts counted from the start; what admission counts.
    pub reserved_bytes: usize,
    /// Bytes that keys, values and states may take, those of the prefix cache included.
    pub kv_budget: Option<usize>,
    /// Layers of the model.
    pub layers: usize,
    /// Layers that a new sequence starts converted.
    pub converted_target: usize,
    /// The most layers that policy and quality guard allow.
    pub converted_max: usize,
    /// Steps run.
    pub steps: u64,
    /// Layers of running sequences folded from keys and values into states.
    pub folds: u64,
    /// Prompt tokens fed.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Running requests that went back to the queue for want of bytes.
    pub preemptions: u64,
    /// Tokens fed once more after that, counted nowhere else.
    pub recomputed_tokens: u64,
    /// The prefix cache.
    pub prefix: PrefixStats,
    /// Requests that ended by themselves: at an end token, a stop string or `max_tokens`.
    pub finished: u64,
    /// Those of them that ended at `max_tokens`.
    pub finished_by_length: u64,
    /// Requests that were cancelled.
    pub cancelled: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// The running sequences, in order of arrival.
    pub sequences: Vec<SequenceStats>,
}

/// The prefix cache. Counters are tokens, of every request's first admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixStats {
    /// Prompt tokens looked up.
    pub queries: u64,
    /// Those that came from the cache instead of being fed.
    pub hits: u64,
    /// Those that the cache holds, but computed at another number of converted layers.
    pub other_rate: u64,
    /// Those that came before, with no snapshot to show for it: evicted, or none was taken there.
    pub not_kept: u64,
    /// Those of prompts that are too short for any snapshot.
    pub too_short: u64,
    /// Snapshots held.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Snapshots dropped to make room.
    pub evictions: u64,
}

/// One running sequence.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SequenceStats {
    /// The request's number, see [`crate::Generation::id`].
    pub id: u64,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Those that were fed.
    pub prompt_fed: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Layers converted.
    pub converted: usize,
    /// Bytes of keys and values.
    pub kv_bytes: usize,
    /// Bytes of states.
    pub state_bytes: usize,
}

/// One step of the engine.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Time since the engine started, at the step's end.
    pub at: Duration,
    /// Time the step took, folds included.
    pub took: Duration,
    /// Prompt tokens fed in this step.
    pub prompt_tokens: usize,
    /// Tokens generated in this step.
    pub generated_tokens: usize,
    /// Layers folded before it.
    pub folds: usize,
    /// The engine after it.
    pub stats: Stats,
}
