//! What a replay measured: percentiles as a client saw them.

use super::watch::Seen;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// One request. Times count from when it was due: a generator that falls behind must not make the server look fast.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// When it was due, since the start of the replay.
    pub at: Duration,
    /// How late it was sent.
    pub lag: Duration,
    pub first: Option<Duration>,
    pub last: Duration,
    /// When chunks came, since the start of the replay.
    pub chunks: Vec<Duration>,
    pub prompt: usize,
    pub generated: usize,
    /// Share of layers converted, where the server says it.
    pub rate: Option<f64>,
    /// The server said that it ended by itself.
    pub finished: bool,
    pub error: Option<String>,
}

impl Outcome {
    fn json(&self) -> Value {
        // Milliseconds are all that a client can tell.
        let seconds = |t: Duration| (t.as_secs_f64() * 1e3).round() / 1e3;
        json!({
            "at_s": seconds(self.at), "prompt_tokens": self.prompt, "generated_tokens": self.generated,
            "ttft_s": self.first.map(seconds), "e2e_s": seconds(self.last), "rate": self.rate,
        })
    }

    /// For a server whose streams end without a usage: what was asked for, and the chunks that came.
    pub fn count(&mut self, prompt: usize) {
        if self.generated == 0 {
            (self.prompt, self.generated) = (prompt, self.chunks.len());
        }
    }
}

pub struct Report {
    pub model: String,
    pub outcomes: Vec<Outcome>,
    pub took: Duration,
    /// Requests shortened to the context.
    pub cut: usize,
    /// Of our own servers.
    pub seen: Option<Seen>,
}

/// Sorted values.
struct Spread(Vec<f64>);

impl Spread {
    fn new(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Spread(values)
    }

    /// Nearest rank; `None` without values.
    fn at(&self, q: f64) -> Option<f64> {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied()
    }

    fn mean(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.iter().sum::<f64>() / self.0.len() as f64)
    }

    fn json(&self) -> Value {
        json!({"mean": self.mean(), "p50": self.at(0.5), "p90": self.at(0.9), "p99": self.at(0.99), "max": self.at(1.0)})
    }
}

impl Report {
    pub fn sent(&self) -> usize {
        self.outcomes.len()
    }

    pub fn completed(&self) -> usize {
        self.good().count()
    }

    fn good(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|o| o.error.is_none())
    }

    fn failures(&self) -> BTreeMap<&str, usize> {
        let mut out = BTreeMap::new();
        self.outcomes.iter().filter_map(|o| o.error.as_deref()).for_each(|e| *out.entry(e).or_default() += 1);
        out
    }

    /// Errors and how often they came, in a line.
    pub fn errors(&self) -> String {
        let each = self.failures().into_iter().map(|(e, n)| format!("{n} x {e}"));
        each.collect::<Vec<_>>().join("; ")
    }

    fn ms(&self, of: impl Fn(&Outcome) -> Option<Duration>) -> Spread {
        Spread::new(self.good().filter_map(of).map(|t| t.as_secs_f64() * 1e3))
    }

    fn first(&self) -> Spread {
        self.ms(|o| o.first)
    }

    /// Mean time per token after the first, of each request with two or more.
    fn per_token(&self) -> Spread {
        self.ms(|o| {
            let steps = u32::try_from(o.generated.checked_sub(1)?).ok().filter(|&n| n > 0)?;
            Some(o.last.saturating_sub(o.first?) / steps)
        })
    }

    /// Chunks that came in each whole second: tokens, but for those that complete no text.
    fn each_second(&self) -> Spread {
        let mut seconds = vec![0.0; self.took.as_secs() as usize];
        for at in self.outcomes.iter().flat_map(|o| &o.chunks) {
            if let Some(n) = seconds.get_mut(at.as_secs() as usize) {
                *n += 1.0;
            }
        }
        Spread::new(seconds.into_iter())
    }

    fn tokens(&self) -> (usize, usize) {
        self.good().fold((0, 0), |(p, g), o| (p + o.prompt, g + o.generated))
    }

    /// What conversion cost: the adapter's measured divergence at the share that each request was answered with, mean over
    /// generated tokens, nats per token.
    fn kl(&self) -> Option<f64> {
        let seen = self.seen.as_ref()?;
        let (mut sum, mut tokens) = (0.0, 0.0);
        for o in self.good() {
            sum += seen.kl_at(o.rate?)? * o.generated as f64;
            tokens += o.generated as f64;
        }
        (tokens > 0.0).then(|| sum / tokens)
    }

    pub fn json(&self) -> Value {
        let seconds = self.took.as_secs_f64();
        let (prompt, generated) = self.tokens();
        let rates = Spread::new(self.good().filter_map(|o| o.rate));
        let each_second = self.each_second();
        json!({
            "model": self.model,
            "seconds": seconds,
            "requests": {"sent": self.sent(), "completed": self.completed(), "shortened": self.cut},
            "errors": self.failures(),
            "prompt_tokens": prompt,
            "generated_tokens": generated,
            "ttft_ms": self.first().json(),
            "tpot_ms": self.per_token().json(),
            "e2e_ms": self.ms(|o| Some(o.last)).json(),
            "throughput": {
                "requests_s": self.completed() as f64 / seconds,
                "generated_tok_s": generated as f64 / seconds,
                "total_tok_s": (prompt + generated) as f64 / seconds,
                "chunks_in_a_second": {"p50": each_second.at(0.5), "p99": each_second.at(0.99)},
            },
            "server": self.seen.as_ref().map(Seen::json),
            "kl": self.kl(),
            "converted_rate": {"mean": rates.mean(), "max": rates.at(1.0)},
            "each": self.good().map(Outcome::json).collect::<Vec<_>>(),
            "generator_lag_ms": Spread::new(self.outcomes.iter().map(|o| o.lag.as_secs_f64() * 1e3)).json(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prompt, generated) = self.tokens();
        let seconds = self.took.as_secs_f64();
        writeln!(f, "{}: {} of {} requests in {seconds:.1} s", self.model, self.completed(), self.sent())?;
        if self.cut > 0 {
            writeln!(f, "{} were shortened to the context", self.cut)?;
        }
        if self.completed() < self.sent() {
            writeln!(f, "failed: {}", self.errors())?;
        }
        let per_second = |n: usize| n as f64 / seconds;
        writeln!(
            f,
            "{prompt} prompt tokens, {generated} generated: {:.1} tok/s generated, {:.1} in all",
            per_second(generated),
            per_second(prompt + generated)
        )?;
        if let Some(seen) = &self.seen {
            write!(f, "at most {} layers converted, {} folds; ", seen.layers, seen.folds)?;
            write!(f, "peak of KV and states {:.1} MB", seen.bytes as f64 / 1e6)?;
            writeln!(
                f,
                "; KL paid {}",
                self.kl().map_or("unknown".into(), |kl| format!("{kl:.4} nats/token"))
            )?;
        }
        writeln!(f, "{:22} {:>10} {:>10} {:>10} {:>10}", "", "mean", "p50", "p90", "p99")?;
        let each_second = self.each_second();
        let rows = [
            ("first token, ms", self.first()),
            ("per output token, ms", self.per_token()),
            ("whole request, ms", self.ms(|o| Some(o.last))),
            ("chunks in a second", each_second),
            ("share converted", Spread::new(self.good().filter_map(|o| o.rate))),
        ];
        for (name, spread) in rows {
            write!(f, "{name:22}")?;
            for x in [spread.mean(), spread.at(0.5), spread.at(0.9), spread.at(0.99)] {
                write!(f, " {:>10}", x.map_or("-".into(), |x| format!("{x:.2}")))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn report(outcomes: Vec<Outcome>, took: Duration, seen: Option<Seen>) -> Report {
        Report { model: "m".into(), outcomes, took, cut: 0, seen }
    }

    #[test]
    fn numbers_of_a_small_replay() {
        let good = |first: u64, generated: usize| Outcome {
            first: Some(ms(first)),
            last: ms(first + 100),
            chunks: vec![ms(first); generated],
            prompt: 10,
            generated,
            rate: Some(0.5),
            finished: true,
            ..Outcome::default()
        };
        let failed = Outcome { error: Some("status 429".into()), ..Outcome::default() };
        let outcomes = vec![good(100, 11), good(300, 1), good(1200, 5), failed.clone(), failed];
        // Two layers: half of them cost 0.3 nats per token.
        let kl = vec![None, Some(0.3), None];
        let got = report(outcomes, ms(2000), Some(Seen { bytes: 7, kl, ..Seen::default() })).json();
        assert_eq!((&got["server"]["peak_bytes"], &got["kl"]), (&json!(7), &json!(0.3)));
        assert_eq!(got["requests"], json!({"sent": 5, "completed": 3, "shortened": 0}));
        assert_eq!(got["errors"], json!({"status 429": 2}));
        assert_eq!((&got["ttft_ms"]["p50"], &got["ttft_ms"]["p99"]), (&json!(300.0), &json!(1200.0)));
        // 100 ms over 10 and over 4 tokens; a single token has no time per further one.
        assert_eq!((&got["tpot_ms"]["p50"], &got["tpot_ms"]["max"]), (&json!(10.0), &json!(25.0)));
        assert_eq!((&got["prompt_tokens"], &got["generated_tokens"]), (&json!(30), &json!(17)));
        assert_eq!(got["throughput"]["generated_tok_s"], 8.5);
        assert_eq!(got["throughput"]["chunks_in_a_second"], json!({"p50": 5.0, "p99": 12.0}));
        let first = json!({"at_s": 0.0, "prompt_tokens": 10, "generated_tokens": 11, "ttft_s": 0.1, "e2e_s": 0.2, "rate": 0.5});
        assert_eq!((got["each"].as_array().map(Vec::len), &got["each"][0]), (Some(3), &first));
        assert_eq!(got["converted_rate"], json!({"mean": 0.5, "max": 0.5}));
    }

    #[test]
    fn nothing_came_back() {
        let report = report(vec![Outcome { error: Some("x".into()), ..Outcome::default() }], ms(5), None);
        assert_eq!((report.completed(), report.errors()), (0, "1 x x".into()));
        let got = report.json();
        assert_eq!(
            (&got["ttft_ms"]["p50"], &got["kl"], &got["server"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert!(report.to_string().contains("failed: 1 x x"));
    }
}
