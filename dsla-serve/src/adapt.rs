//! How many layers to convert: policies, pure functions of a load snapshot. No model, no I/O, no clock of their own.
//!
//! The answer is a **target**: the number of layers, from the front of the adapter's order, that a new sequence starts
//! with as dual-state linear attention. Whatever a policy asks for, the [`Ladder`] bounds it: no adapter, no
//! conversion; and never a prefix whose measured loss exceeds what the engine was told to accept.

use crate::{Error, Result};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// The load of an engine at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Time since the engine started.
    pub now: Duration,
    /// Requests that wait, those that just arrived included.
    pub queued_requests: usize,
    /// Prompt tokens of the longest of them.
    pub longest_queued_prompt: usize,
    /// Prompt tokens of all of them.
    pub queued_prompt_tokens: usize,
    /// Sequences running.
    pub running: usize,
    /// Bytes of their keys and values.
    pub kv_bytes: usize,
    /// Bytes of their states.
    pub state_bytes: usize,
    /// Bytes that keys, values and states together may take.
    pub kv_budget: Option<usize>,
}

/// Who decides the target.
#[non_exhaustive]
pub enum Policy {
    /// Always this share of the layers, in [0, 1], see [`layers_at`].
    Fixed(f64),
    /// More while requests queue up or prompts are long, fewer when they are gone: the paper's policy.
    Threshold(Threshold),
    /// Yours, see [`Policy::custom`].
    Custom(Custom),
}

/// A policy as a closure.
pub type Custom = Box<dyn FnMut(&Load, usize) -> usize + Send>;

impl Policy {
    /// A policy of your own: from the load and the current target to the wanted one. It runs on the engine thread
    /// before each step, so it has to be quick; the ladder bounds its answer.
    pub fn custom(decide: impl FnMut(&Load, usize) -> usize + Send + 'static) -> Policy {
        Policy::Custom(Box::new(decide))
    }
}

impl Default for Policy {
    /// The teacher as it is: `Fixed(0.0)`.
    fn default() -> Policy {
        Policy::Fixed(0.0)
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Policy::Fixed(rate) => f.debug_tuple("Fixed").field(rate).finish(),
            Policy::Threshold(threshold) => f.debug_tuple("Threshold").field(threshold).finish(),
            Policy::Custom(_) => f.write_str("Custom"),
        }
    }
}

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
    fn check(&self) -> Result<()> {
        let shares = [
            ("policy.max_rate", self.max_rate),
            ("policy.relax_queue", self.relax_queue),
            ("policy.relax_prompt", self.relax_prompt),
        ];
        for (field, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::config(field, share, "a share in [0, 1]"));
            }
        }
        if self.step == 0 {
            return Err(Error::config("policy.step", 0, "1 layer or more"));
        }
        Ok(())
    }
}

/// The number of layers nearest to `rate` of `layers`, a half rounded up.
pub fn layers_at(rate: f64, layers: usize) -> usize {
    (rate * layers as f64).round() as usize
}

/// How far conversion can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    layers: usize,
    order: usize,
    max: usize,
}

impl Ladder {
    /// layers: of the model. order: layers in the adapter's conversion order, 0 without an adapter. quality: what the
    /// adapter measured, (converted layers, loss: the mean KL divergence per token from the teacher). max_loss: the
    /// most that is acceptable; `None` accepts everything, measured or not. With a limit, conversion ends at the last
    /// measured prefix before the first whose loss exceeds it (or is no number).
    pub fn new(layers: usize, order: usize, quality: &[(usize, f64)], max_loss: Option<f64>) -> Ladder {
        let order = order.min(layers);
        let max = match max_loss {
            None => order,
            Some(limit) => {
                let good = |loss: f64| loss <= limit;
                let refused = quality.iter().filter(|q| !good(q.1)).map(|q| q.0).min();
                let below = |k: usize| refused.is_none_or(|first| k < first);
                quality.iter().map(|q| q.0).filter(|&k| below(k)).max().unwrap_or(0).min(order)
            }
        };
        Ladder { layers, order, max }
    }

    /// Layers of the model.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Layers the adapter can convert at all.
    pub fn order(&self) -> usize {
        self.order
    }

    /// The most layers that may be converted: the quality guard.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The number of layers that a wanted rate means; `field` is named in errors.
    ///
    /// Errors: a rate outside [0, 1], one that needs more layers than the adapter has or the guard allows.
    pub(crate) fn pin(&self, rate: f64) -> std::result::Result<usize, (String, String)> {
        if !(0.0..=1.0).contains(&rate) {
            return Err((rate.to_string(), "a share of the layers in [0, 1]".into()));
        }
        let converted = layers_at(rate, self.layers);
        if converted > self.max {
            let why = match (self.order, self.max) {
                (0, _) => "without an adapter".to_owned(),
                (order, max) if max < order => format!("of {} by max_quality_loss", self.layers),
                _ => format!("of {} in the adapter's order", self.layers),
            };
            let got = format!("{rate} = {converted} layers");
            return Err((got, format!("at most {} layers ({why})", self.max)));
        }
        Ok(converted)
    }
}

/// A policy at work: remembers the target and when it moved.
#[derive(Debug)]
pub struct Controller {
    policy: Policy,
    /// Highest target.
    max: usize,
    target: usize,
    looked: Option<Duration>,
    moved: Option<Duration>,
    /// Longest prompt seen waiting since the last look.
    longest: usize,
}

impl Controller {
    /// Errors: shares outside [0, 1], a step of 0, a fixed rate that the ladder does not allow.
    pub fn new(policy: Policy, ladder: &Ladder) -> Result<Controller> {
        let (max, target) = match &policy {
            Policy::Fixed(rate) => {
                let pinned = ladder.pin(*rate);
                let target = pinned.map_err(|(got, want)| Error::config("policy: fixed rate", got, want))?;
                (target, target)
            }
            Policy::Threshold(threshold) => {
                threshold.check()?;
                // Down, never beyond the share; a share that is a whole number of layers but for rounding counts.
                let share = (threshold.max_rate * ladder.layers() as f64 + 1e-9).floor() as usize;
                (ladder.max().min(share), 0)
            }
            Policy::Custom(_) => (ladder.max(), 0),
        };
        Ok(Controller { policy, max, target, looked: None, moved: None, longest: 0 })
    }

    /// Layers that a new sequence starts with.
    pub fn target(&self) -> usize {
        self.target
    }

    /// The most that [`Controller::observe`] will ever answer.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Looks at the load; the target from here on. To be called often: between looks it only takes notes.
    pub fn observe(&mut self, load: &Load) -> usize {
        match &mut self.policy {
            Policy::Fixed(_) => {}
            Policy::Custom(decide) => self.target = decide(load, self.target).min(self.max),
            Policy::Threshold(threshold) => {
                self.longest = self.longest.max(load.longest_queued_prompt);
                if self.looked.is_some_and(|at| load.now.saturating_sub(at) < threshold.period) {
                    return self.target;
                }
                self.looked = Some(load.now);
                let longest = std::mem::take(&mut self.longest);
                if self.moved.is_some_and(|at| load.now.saturating_sub(at) < threshold.cooldown) {
                    return self.target;
                }
                let next = threshold.next(load.queued_requests, longest, self.target).min(self.max);
                if next != self.target {
                    self.target = next;
                    self.moved = Some(load.now);
                }
            }
        }
        self.target
    }

    /// How long from `now` until a look without any load could change the target; `None`: it will not.
    pub fn idle_wait(&self, now: Duration) -> Option<Duration> {
        let Policy::Threshold(threshold) = &self.policy else { return None };
        if threshold.next(0, 0, self.target).min(self.max) == self.target {
            return None;
        }
        let look = self.looked.map(|at| at.saturating_add(threshold.period));
        let rest = self.moved.map(|at| at.saturating_add(threshold.cooldown));
        Some(look.max(rest).unwrap_or(now).saturating_sub(now))
    }
}

impl Threshold {
    fn next(&self, queued: usize, longest: usize, target: usize) -> usize {
        if queued >= self.queued_requests || longest >= self.prompt_tokens {
            return target.saturating_add(self.step);
        }
        let calm_queue = (queued as f64) < self.relax_queue * self.queued_requests as f64;
        let calm_prompts = (longest as f64) < self.relax_prompt * self.prompt_tokens as f64;
        if calm_queue && calm_prompts { target.saturating_sub(self.step) } else { target }
    }
}
