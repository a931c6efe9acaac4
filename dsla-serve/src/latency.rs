//! How long requests wait and how fast they run: histograms since the start, quantiles of the last 20 seconds, and how
//! fast prompts go.

use std::collections::VecDeque;
use std::time::Duration;

/// Values that a [`Recent`] keeps at most.
const KEPT: usize = 512;
/// How long "recent" is.
pub const WINDOW: Duration = Duration::from_secs(20);

/// Upper bounds in seconds, from below a decode step of a small model to minutes in a queue.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0,
];
/// Upper bounds in tokens.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0,
    50_000.0, 100_000.0,
];

/// Counts of values in buckets, as Prometheus has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: what exceeds the last.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|&bound| bound < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    /// Values seen.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper bound, and values at or below it; the last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().scan(0, |below, n| {
            *below += n;
            Some(*below)
        }))
    }
}

/// The values of the last [`WINDOW`], 512 at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recent {
    values: VecDeque<(Duration, f64)>,
}

impl Recent {
    fn push(&mut self, now: Duration, value: f64) {
        self.forget(now);
        if self.values.len() == KEPT {
            self.values.pop_front();
        }
        self.values.push_back((now, value));
    }

    fn forget(&mut self, now: Duration) {
        while self.values.front().is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW) {
            self.values.pop_front();
        }
    }

    /// Values held.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The value that a share `q` in [0, 1] of them does not exceed (nearest rank); `None` without values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let mut values: Vec<f64> = self.values.iter().map(|v| v.1).collect();
        let rank = (q * values.len() as f64).ceil() as usize;
        let at = rank.clamp(1, values.len().max(1)) - 1;
        (!values.is_empty()).then(|| *values.select_nth_unstable_by(at, f64::total_cmp).1)
    }
}

/// Prompt tokens after which what came before counts half: a few long prompts, or the length of a load's change.
const HALF: f64 = 4096.0;

/// How fast prompts are taken in, over about the last few thousand tokens of them. Does not age while nothing comes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrefillRate {
    tokens: f64,
    seconds: f64,
}

impl PrefillRate {
    fn push(&mut self, tokens: usize, took: Duration) {
        let tokens = tokens as f64;
        let keep = (-tokens / HALF).exp2();
        self.tokens = self.tokens * keep + tokens;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    /// Prompt tokens per second of the steps that had some, whatever else they did; `None` before the first.
    pub fn per_second(&self) -> Option<f64> {
        (self.tokens > 0.0 && self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }
}

/// Times in seconds, as the engine thread saw them; a request's clock starts when it is submitted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Latency {
    /// From submission to admission.
    pub queue: Histogram,
    /// From admission to the first token.
    pub prefill: Histogram,
    /// From the first token to the end.
    pub decode: Histogram,
    /// From submission to the first token.
    pub first_token: Histogram,
    /// Between one token and the next.
    pub inter_token: Histogram,
    /// Mean time per token after the first, of a request that ended.
    pub per_token: Histogram,
    /// From submission to the end.
    pub whole: Histogram,
    /// Prompt tokens of requests that ended.
    pub prompt_tokens: Histogram,
    /// Generated tokens of requests that ended.
    pub generated_tokens: Histogram,
    /// Tokens of a step: prompt tokens fed and tokens generated.
    pub step_tokens: Histogram,
    /// Times to the first token of the last [`WINDOW`].
    pub recent_first_token: Recent,
    /// Times between tokens of the last [`WINDOW`].
    pub recent_inter_token: Recent,
    /// How fast prompts go.
    pub prefill_rate: PrefillRate,
}

impl Default for Latency {
    fn default() -> Latency {
        let (seconds, tokens) = (|| Histogram::new(SECONDS), || Histogram::new(TOKENS));
        Latency {
            queue: seconds(),
            prefill: seconds(),
            decode: seconds(),
            first_token: seconds(),
            inter_token: seconds(),
            per_token: seconds(),
            whole: seconds(),
            prompt_tokens: tokens(),
            generated_tokens: tokens(),
            step_tokens: tokens(),
            recent_first_token: Recent::default(),
            recent_inter_token: Recent::default(),
            prefill_rate: PrefillRate::default(),
        }
    }
}

/// When a running request reached what, on the engine's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub submitted: Duration,
    pub admitted: Duration,
    /// First and newest token.
    tokens: Option<(Duration, Duration)>,
}

impl Clock {
    pub fn new(submitted: Duration, admitted: Duration) -> Clock {
        Clock { submitted, admitted, tokens: None }
    }
}

fn between(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64()
}

impl Latency {
    pub(crate) fn admitted(&mut self, clock: &Clock) {
        self.queue.observe(between(clock.submitted, clock.admitted));
    }

    pub(crate) fn token(&mut self, clock: &mut Clock, now: Duration) {
        let first = match clock.tokens {
            None => {
                let waited = between(clock.submitted, now);
                self.first_token.observe(waited);
                self.recent_first_token.push(now, waited);
                self.prefill.observe(between(clock.admitted, now));
                now
            }
            Some((first, before)) => {
                self.inter_token.observe(between(before, now));
                self.recent_inter_token.push(now, between(before, now));
                first
            }
        };
        clock.tokens = Some((first, now));
    }

    /// A request ended by itself.
    pub(crate) fn ended(&mut self, clock: &Clock, now: Duration, prompt: usize, generated: usize) {
        self.whole.observe(between(clock.submitted, now));
        self.prompt_tokens.observe(prompt as f64);
        self.generated_tokens.observe(generated as f64);
        if let Some((first, newest)) = clock.tokens {
            self.decode.observe(between(first, now));
            if generated > 1 {
                self.per_token.observe(between(first, newest) / (generated - 1) as f64);
            }
        }
    }

    pub(crate) fn step(&mut self, prompt: usize, generated: usize, took: Duration, now: Duration) {
        self.step_tokens.observe((prompt + generated) as f64);
        if prompt > 0 {
            self.prefill_rate.push(prompt, took);
        }
        self.forget(now);
    }

    pub(crate) fn forget(&mut self, now: Duration) {
        self.recent_first_token.forget(now);
        self.recent_inter_token.forget(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let mut h = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.0, 1.5, 2.0, 9.0].into_iter().for_each(|x| h.observe(x));
        assert_eq!(h.buckets().collect::<Vec<_>>(), [(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!((h.count(), h.sum()), (5, 14.0));
    }

    #[test]
    fn quantiles_are_of_the_window() {
        let mut r = Recent::default();
        assert_eq!(r.quantile(0.5), None);
        (1..=100).for_each(|i| r.push(ms(i), i as f64));
        assert_eq!(
            (r.quantile(0.0), r.quantile(0.5), r.quantile(0.99), r.quantile(1.0)),
            (Some(1.0), Some(50.0), Some(99.0), Some(100.0))
        );
        r.push(ms(20_050), 7.0);
        assert_eq!((r.count(), r.quantile(0.0)), (52, Some(7.0)));
        (0..600).for_each(|_| r.push(ms(20_051), 1.0));
        assert_eq!(r.count(), 512);
    }

    #[test]
    fn the_rate_of_prompts_follows_the_latest_thousands() {
        let mut r = PrefillRate::default();
        assert_eq!(r.per_second(), None);
        r.push(512, ms(1000));
        assert_eq!(r.per_second(), Some(512.0));
        r.push(4096, ms(4000));
        assert!((r.per_second().unwrap_or(0.0) - 4352.0 / 4.5).abs() < 1e-9, "half of what came before");
        (0..10).for_each(|_| r.push(4096, ms(16_000)));
        assert!((r.per_second().unwrap_or(0.0) - 256.0).abs() < 1.0);
    }

    #[test]
    fn a_request_of_three_tokens() {
        let mut l = Latency::default();
        let mut clock = Clock::new(ms(100), ms(300));
        l.admitted(&clock);
        [600, 700, 900].into_iter().for_each(|at| l.token(&mut clock, ms(at)));
        l.ended(&clock, ms(900), 5, 3);
        let sums = [&l.queue, &l.prefill, &l.decode, &l.first_token, &l.inter_token, &l.per_token, &l.whole];
        let sums = sums.map(|h| (h.sum() * 1000.0).round());
        assert_eq!(sums, [200.0, 300.0, 300.0, 500.0, 300.0, 150.0, 800.0]);
        assert_eq!(l.inter_token.count(), 2);
        assert_eq!((l.prompt_tokens.sum(), l.generated_tokens.sum()), (5.0, 3.0));
    }
}
