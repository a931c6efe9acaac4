//! How many layers to convert: policies, pure functions of a load snapshot. No model, no I/O, no clock of their own.
//!
//! The answer is a **target**: the number of layers, from the front of the adapter's order, that a new sequence starts
//! with as dual-state linear attention. Whatever a policy asks for, the [`Ladder`] bounds it: no adapter, no
//! conversion; and never a prefix whose measured loss exceeds what the engine was told to accept.

use crate::{Error, Result};
use std::cmp::Ordering;
use std::time::Duration;

mod paced;
#[cfg(test)]
mod tests;

pub use paced::{MemoryPressure, Slo, Threshold};

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
    /// How long the first of them has waited.
    pub longest_wait: Duration,
    /// Prompt tokens that are still to be taken in, of requests that wait and of those that run.
    pub prompt_tokens: usize,
    /// How many of them the engine took in per second lately; `None` before the first prompt.
    pub prefill_tok_s: Option<f64>,
    /// Sequences running.
    pub running: usize,
    /// Bytes of their keys and values.
    pub kv_bytes: usize,
    /// Bytes of their states.
    pub state_bytes: usize,
    /// Those bytes with whole prompts counted from the start; what admission counts.
    pub reserved_bytes: usize,
    /// Bytes that keys, values and states together may take.
    pub kv_budget: Option<usize>,
    /// Nine of ten recent requests had their first token within this time.
    pub first_token_p90: Option<Duration>,
    /// Nine of ten recent tokens came within this time after the one before.
    pub inter_token_p90: Option<Duration>,
}

impl Load {
    /// Nobody waits, nothing runs.
    pub fn is_idle(&self) -> bool {
        self.queued_requests == 0 && self.running == 0
    }
}

/// Who decides the target.
#[non_exhaustive]
pub enum Policy {
    /// Always this share of the layers, in [0, 1], see [`layers_at`].
    Fixed(f64),
    /// More while requests queue up or prompts are long, fewer when they are gone: the paper's policy.
    Threshold(Threshold),
    /// More while caches exceed a number of bytes, fewer when they are well below.
    Memory(MemoryPressure),
    /// More while latency goals are missed, fewer when they are met with ease.
    Slo(Slo),
    /// Yours, see [`Policy::custom`].
    Custom(Custom),
}

/// A policy as a closure.
pub type Custom = Box<dyn FnMut(&Load, usize) -> usize + Send>;

impl Policy {
    /// [`Policy::Slo`] with these goals for the time to the first token and per token after it.
    pub fn slo(ttft: Duration, tpot: Duration) -> Policy {
        Policy::Slo(Slo::new(ttft, tpot))
    }

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
            Policy::Threshold(threshold) => threshold.fmt(f),
            Policy::Memory(memory) => memory.fmt(f),
            Policy::Slo(slo) => slo.fmt(f),
            Policy::Custom(_) => f.write_str("Custom"),
        }
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

/// How a policy that looks now and then moves.
#[derive(Clone, Copy, Debug)]
struct Pace {
    period: Duration,
    cooldown: Duration,
    max_rate: f64,
    step: usize,
}

impl Policy {
    /// `None` for those that answer at every look.
    fn pace(&self) -> Option<Pace> {
        match self {
            Policy::Fixed(_) | Policy::Custom(_) => None,
            Policy::Threshold(p) => Some(p.pace()),
            Policy::Memory(p) => Some(p.pace()),
            Policy::Slo(p) => Some(p.pace()),
        }
    }

    /// Whether the load asks for more conversion or for less. `longest`: prompt tokens.
    fn judge(&self, load: &Load, longest: usize) -> Ordering {
        match self {
            Policy::Fixed(_) | Policy::Custom(_) => Ordering::Equal,
            Policy::Threshold(p) => p.judge(load.queued_requests, longest),
            Policy::Memory(p) => p.judge(load),
            Policy::Slo(p) => p.judge(load),
        }
    }

    /// Of `max` layers those that the load needs now, whatever moved when; 0 when it can wait for the next look.
    fn at_once(&self, load: &Load, max: usize) -> usize {
        match self {
            Policy::Slo(p) => p.at_once(load, max),
            _ => 0,
        }
    }

    /// Whether a load without requests ends all conversion, instead of a step of it.
    fn ends_when_idle(&self) -> bool {
        matches!(self, Policy::Slo(_))
    }

    fn check(&self) -> Result<()> {
        match self {
            Policy::Fixed(_) | Policy::Custom(_) => Ok(()),
            Policy::Threshold(p) => p.check(),
            Policy::Memory(p) => p.check(),
            Policy::Slo(p) => p.check(),
        }
    }
}

impl Controller {
    /// Errors: shares outside [0, 1], a step or a goal of 0, a fixed rate that the ladder does not allow.
    pub fn new(policy: Policy, ladder: &Ladder) -> Result<Controller> {
        policy.check()?;
        let (max, target) = match (&policy, policy.pace()) {
            (Policy::Fixed(rate), _) => {
                let pinned = ladder.pin(*rate);
                let target = pinned.map_err(|(got, want)| Error::config("policy: fixed rate", got, want))?;
                (target, target)
            }
            (_, None) => (ladder.max(), 0),
            (_, Some(pace)) => {
                // Down, never beyond the share; a share that is a whole number of layers but for rounding counts.
                let share = (pace.max_rate * ladder.layers() as f64 + 1e-9).floor() as usize;
                (ladder.max().min(share), 0)
            }
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
        if let Policy::Custom(decide) = &mut self.policy {
            self.target = decide(load, self.target).min(self.max);
        }
        let Some(pace) = self.policy.pace() else { return self.target };
        self.longest = self.longest.max(load.longest_queued_prompt);
        let at_once = self.policy.at_once(load, self.max);
        if at_once > self.target {
            (self.target, self.looked, self.moved) = (at_once, Some(load.now), Some(load.now));
            return self.target;
        }
        if self.looked.is_some_and(|at| load.now.saturating_sub(at) < pace.period) {
            return self.target;
        }
        self.looked = Some(load.now);
        let longest = std::mem::take(&mut self.longest);
        let rests = self.moved.is_some_and(|at| load.now.saturating_sub(at) < pace.cooldown);
        if rests && at_once == 0 {
            return self.target;
        }
        let next = self.next(pace, load, longest);
        if next != self.target {
            self.target = next;
            self.moved = Some(load.now);
        }
        self.target
    }

    fn next(&self, pace: Pace, load: &Load, longest: usize) -> usize {
        let next = match self.policy.judge(load, longest) {
            Ordering::Greater => self.target.saturating_add(pace.step),
            Ordering::Equal => self.target,
            Ordering::Less if load.is_idle() && self.policy.ends_when_idle() => 0,
            Ordering::Less => self.target.saturating_sub(pace.step),
        };
        next.min(self.max)
    }

    /// How long from `now` until a look without any load could change the target; `None`: it will not.
    pub fn idle_wait(&self, now: Duration) -> Option<Duration> {
        let pace = self.policy.pace()?;
        if self.next(pace, &Load::default(), 0) == self.target {
            return None;
        }
        let look = self.looked.map(|at| at.saturating_add(pace.period));
        let rest = self.moved.map(|at| at.saturating_add(pace.cooldown));
        Some(look.max(rest).unwrap_or(now).saturating_sub(now))
    }
}
