//! Policies that look now and then, move by a step and rest: the paper's, one on memory, one on latency.

use super::{Load, Pace};
use crate::{Error, Result};
use std::cmp::Ordering;
use std::time::Duration;

/// The paper's policy (arXiv 2506.09316); the defaults are the constants of its published server.
///
/// Every `period` it looks. It raises the target by `step` when `queued_requests` or more wait, or when a prompt of
/// `prompt_tokens` or more waited at any time since the last look. It lowers the target by `step` when fewer than
/// `relax_queue * queued_requests` wait and no prompt reached `relax_prompt * prompt_tokens`. After any move it rests
/// for `cooldown`.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Requests waiting that count as high load.
    pub queued_requests: usize,
    /// Tokens of a waiting prompt that count as high load.
    pub prompt_tokens: usize,
    /// Time between looks.
    pub period: Duration,
    /// Time after a move in which there is no other.
    pub cooldown: Duration,
    /// The most that is ever converted, as a share of all layers, in [0, 1].
    pub max_rate: f64,
    /// Below this share of `queued_requests` the queue counts as relaxed, in [0, 1].
    pub relax_queue: f64,
    /// Below this share of `prompt_tokens` prompts count as relaxed, in [0, 1].
    pub relax_prompt: f64,
    /// Layers per move, 1 or more.
    pub step: usize,
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold {
            queued_requests: 50,
            prompt_tokens: 1024,
            period: Duration::from_secs(5),
            cooldown: Duration::from_secs(60),
            max_rate: 0.75,
            relax_queue: 0.5,
            relax_prompt: 0.8,
            step: 1,
        }
    }
}

impl Threshold {
    pub(super) fn check(&self) -> Result<()> {
        let shares = [
            ("policy.max_rate", self.max_rate),
            ("policy.relax_queue", self.relax_queue),
            ("policy.relax_prompt", self.relax_prompt),
        ];
        check(&shares, self.step)
    }

    pub(super) fn pace(&self) -> Pace {
        let Threshold { period, cooldown, max_rate, step, .. } = *self;
        Pace { period, cooldown, max_rate, step }
    }

    pub(super) fn judge(&self, queued: usize, longest: usize) -> Ordering {
        if queued >= self.queued_requests || longest >= self.prompt_tokens {
            return Ordering::Greater;
        }
        let calm_queue = (queued as f64) < self.relax_queue * self.queued_requests as f64;
        let calm_prompts = (longest as f64) < self.relax_prompt * self.prompt_tokens as f64;
        if calm_queue && calm_prompts { Ordering::Less } else { Ordering::Equal }
    }
}

/// Converts while memory is short.
///
/// Every `period` it looks. It raises the target by `step` when keys, values and states hold more than `bytes`, or
/// when requests wait while more than `bytes` are reserved. It lowers the target by `step` when they hold less than
/// `relax * bytes` and nobody waits. After any move it rests for `cooldown`.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPressure {
    /// Bytes of keys, values and states that count as pressure, 1 or more.
    pub bytes: usize,
    /// Below this share of `bytes` memory counts as relaxed, in [0, 1].
    pub relax: f64,
    /// Time between looks.
    pub period: Duration,
    /// Time after a move in which there is no other.
    pub cooldown: Duration,
    /// The most that is ever converted, as a share of all layers, in [0, 1].
    pub max_rate: f64,
    /// Layers per move, 1 or more.
    pub step: usize,
}

impl MemoryPressure {
    /// Above `bytes` a layer every half second; back below half of it.
    pub fn new(bytes: usize) -> MemoryPressure {
        let pause = Duration::from_millis(500);
        MemoryPressure { bytes, relax: 0.5, period: pause, cooldown: pause, max_rate: 1.0, step: 1 }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.bytes == 0 {
            return Err(Error::config("policy.bytes", 0, "1 byte or more"));
        }
        check(&[("policy.max_rate", self.max_rate), ("policy.relax", self.relax)], self.step)
    }

    pub(super) fn pace(&self) -> Pace {
        let MemoryPressure { period, cooldown, max_rate, step, .. } = *self;
        Pace { period, cooldown, max_rate, step }
    }

    pub(super) fn judge(&self, load: &Load) -> Ordering {
        let held = load.kv_bytes.saturating_add(load.state_bytes);
        let waits = load.queued_requests > 0;
        if held > self.bytes || (waits && load.reserved_bytes > self.bytes) {
            return Ordering::Greater;
        }
        let calm = !waits && (held as f64) < self.relax * self.bytes as f64;
        if calm { Ordering::Less } else { Ordering::Equal }
    }
}

/// Converts while latency goals are missed, and before a queue misses them.
///
/// What waits says how long it will take: the prompt tokens that are still to be taken in, at the rate at which prompts
/// went lately. When that, or the time the first in the queue has waited already, is `n` times `ttft`, the share
/// `1 - 1/n` of the time has to go, and at least that share of the layers is converted at once: the requests that cause
/// the delay then start converted. (Converting after a first token was late does not give its time back.)
///
/// Besides, every `period` it looks. It raises the target by `step` while that delay exceeds `ttft`, when nine of ten
/// recent requests did not have their first token within `ttft`, or nine of ten recent tokens did not follow the one
/// before within `tpot`. It lowers the target by `step` when all of that stays below `relax` times the goals, and to 0
/// when moreover nothing waits or runs. After any move it rests for `cooldown`, which should be no shorter than what
/// "recent" spans ([`crate::latency::WINDOW`]): what it then sees is the effect of its move. A delay that is coming is
/// no memory of the past, and does not wait for the rest to end.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// Goal for the time to the first token, above 0.
    pub ttft: Duration,
    /// Goal for the time per output token, above 0.
    pub tpot: Duration,
    /// Below this share of the goals latency counts as relaxed, in [0, 1].
    pub relax: f64,
    /// Time between looks.
    pub period: Duration,
    /// Time after a move in which there is no other.
    pub cooldown: Duration,
    /// The most that is ever converted, as a share of all layers, in [0, 1].
    pub max_rate: f64,
    /// Layers per move, 1 or more.
    pub step: usize,
}

impl Slo {
    /// Looks every second, moves by four layers or what a coming delay needs, rests for 20 seconds, and goes back at
    /// half of the goals.
    pub fn new(ttft: Duration, tpot: Duration) -> Slo {
        let (period, cooldown) = (Duration::from_secs(1), crate::latency::WINDOW);
        Slo { ttft, tpot, relax: 0.5, period, cooldown, max_rate: 1.0, step: 4 }
    }

    pub(super) fn check(&self) -> Result<()> {
        for (field, goal) in [("policy.ttft", self.ttft), ("policy.tpot", self.tpot)] {
            if goal.is_zero() {
                return Err(Error::config(field, "0 s", "a time above 0"));
            }
        }
        check(&[("policy.max_rate", self.max_rate), ("policy.relax", self.relax)], self.step)
    }

    pub(super) fn pace(&self) -> Pace {
        let Slo { period, cooldown, max_rate, step, .. } = *self;
        Pace { period, cooldown, max_rate, step }
    }

    /// The delay that is coming, in units of the goal.
    fn delay(&self, load: &Load) -> f64 {
        let ahead = load.prefill_tok_s.map_or(0.0, |rate| load.prompt_tokens as f64 / rate);
        load.longest_wait.as_secs_f64().max(ahead) / self.ttft.as_secs_f64()
    }

    pub(super) fn at_once(&self, load: &Load, max: usize) -> usize {
        // Below 1 the product is below 0, which is 0 layers; 1/0 is infinite, and fine.
        ((1.0 - 1.0 / self.delay(load)) * max as f64).ceil() as usize
    }

    pub(super) fn judge(&self, load: &Load) -> Ordering {
        let share = |seen: Option<Duration>, goal: Duration| {
            seen.unwrap_or_default().as_secs_f64() / goal.as_secs_f64()
        };
        let recent = share(load.first_token_p90, self.ttft).max(share(load.inter_token_p90, self.tpot));
        let worst = self.delay(load).max(recent);
        if worst > 1.0 {
            Ordering::Greater
        } else if worst < self.relax {
            Ordering::Less
        } else {
            Ordering::Equal
        }
    }
}

fn check(shares: &[(&'static str, f64)], step: usize) -> Result<()> {
    for (field, share) in shares {
        if !(0.0..=1.0).contains(share) {
            return Err(Error::config(field, share, "a share in [0, 1]"));
        }
    }
    if step == 0 {
        return Err(Error::config("policy.step", 0, "1 layer or more"));
    }
    Ok(())
}
