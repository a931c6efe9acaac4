//! Measuring, and what comes of it: rows with medians, ratios and shares of the machine's limits.

use super::engine::Engine;
use serde_json::{Value, json};
use std::time::Duration;

pub const OURS: &str = "dsla";

pub struct Settings {
    pub contexts: Vec<usize>,
    pub rates: Vec<f64>,
    pub batches: Vec<usize>,
    pub tokens: usize,
    pub repeats: usize,
}

/// Sizes of the model, as `convert.py` wrote them: peers do not say what they compute and read.
pub struct Facts(pub Value);

/// The largest that any engine measured on this machine.
#[derive(Default, Clone, Copy)]
pub struct Limits {
    pub gflops: f64,
    pub gb_s: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    pub peer: String,
    pub value: f64,
}

#[derive(Clone, Debug, Default)]
pub struct Row {
    pub job: &'static str,
    pub context: usize,
    pub batch: usize,
    pub engine: String,
    pub format: String,
    pub rate: f64,
    /// Tokens per second of each round.
    pub samples: Vec<Option<f64>>,
    /// Why a round has none.
    pub error: Option<String>,
    /// Percent of the limit: of products in prefill, of reads in decode.
    pub share: Option<f64>,
    /// Ours over the best peer of comparable format, and over the best of any format.
    pub same: Option<Ratio>,
    pub any: Option<Ratio>,
}

impl Row {
    pub fn label(&self) -> String {
        let rate = if self.rate > 0.0 { format!(" at {}", self.rate) } else { String::new() };
        format!("{} {}{rate}", self.engine, self.format)
    }

    fn measured(&self) -> Vec<f64> {
        self.samples.iter().flatten().copied().collect()
    }

    pub fn median(&self) -> Option<f64> {
        median(self.measured())
    }

    pub fn range(&self) -> (f64, f64) {
        self.measured().iter().fold((f64::INFINITY, 0.0), |(a, b), v| (v.min(a), v.max(b)))
    }

    pub fn json(&self) -> Value {
        let ratio = |r: &Option<Ratio>| r.as_ref().map(|r| json!({"peer": r.peer, "ratio": r.value}));
        let range = self.median().map(|_| self.range());
        json!({
            "job": self.job, "context": self.context, "batch": self.batch, "engine": self.engine, "format": self.format,
            "rate": self.rate, "tok_s": self.median(), "min": range.map(|r| r.0), "max": range.map(|r| r.1),
            "samples": self.samples, "pct_limit": self.share, "vs_same_format": ratio(&self.same),
            "vs_any_format": ratio(&self.any), "error": self.error,
        })
    }
}

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (n > 0).then(|| (values[(n - 1) / 2] + values[n / 2]) / 2.0)
}

impl Limits {
    pub fn of(engines: &[Engine]) -> Limits {
        let most = |key: &str| engines.iter().filter_map(|e| e.facts[key].as_f64()).fold(0.0, f64::max);
        Limits { gflops: most("gemm_gflops"), gb_s: most("read_gb_s") }
    }
}

impl Facts {
    fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap_or(f64::NAN)
    }

    /// Of one prompt token: products with the weights, and attention over half of the context on average.
    fn flops_per_token(&self, context: usize) -> f64 {
        let attention =
            self.number("layers") * self.number("heads") * self.number("head_dim") * context as f64;
        2.0 * self.number("prefill_matrix") + 2.0 * attention
    }

    /// Of one decode step of all sequences: the weights once, and each cache.
    fn bytes_per_step(&self, format: &str, context: usize, batch: usize) -> f64 {
        let (weights, element) = match format {
            "f32" => (4.0 * self.number("read_per_step"), 4.0),
            "bf16" => (2.0 * self.number("read_per_step"), 2.0),
            // Blocks with scales: the file is what is read.
            quantised => (self.0["file_bytes"][quantised].as_f64().unwrap_or(f64::NAN), 2.0),
        };
        let cache = 2.0 * self.number("layers") * self.number("kv_heads") * self.number("head_dim") * element;
        weights + cache * (context * batch) as f64
    }
}

/// Every engine in turn, round after round, so that all of them see the same weather.
pub fn measure(
    engines: &mut [Engine],
    settings: &Settings,
    facts: &Facts,
    limits: Limits,
    pause: Duration,
) -> Vec<Row> {
    let mut all = Vec::new();
    for &context in &settings.contexts {
        for &batch in &settings.batches {
            let mut rows = empty_rows(engines, settings, context, batch);
            for round in 0..settings.repeats {
                for job in ["prefill", "decode"] {
                    eprintln!(
                        "xtask: {job}, {context} tokens, {batch} at once, round {} of {}",
                        round + 1,
                        settings.repeats
                    );
                    let mut turn: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].1.job == job).collect();
                    // Nobody always follows the same one.
                    let shift = round % turn.len().max(1);
                    turn.rotate_left(shift);
                    for i in turn {
                        let (engine, row) = &mut rows[i];
                        // Threads of the one before may still be spinning.
                        std::thread::sleep(pause);
                        one(&mut engines[*engine], row, settings.tokens, facts, limits);
                    }
                }
            }
            let mut rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
            for job in ["prefill", "decode"] {
                compare(rows.iter_mut().filter(|r| r.job == job).collect());
            }
            all.append(&mut rows);
        }
    }
    all
}

/// A row for each job, engine that started, and rate; with the engine's index.
fn empty_rows(engines: &[Engine], settings: &Settings, context: usize, batch: usize) -> Vec<(usize, Row)> {
    let mut rows = Vec::new();
    for job in ["prefill", "decode"] {
        for (i, engine) in engines.iter().enumerate().filter(|(_, e)| !e.facts.is_null()) {
            // Only ours converts layers.
            let rates: &[f64] = if engine.name == OURS { &settings.rates } else { &[0.0] };
            for &rate in rates {
                let (name, format) = (engine.name.clone(), engine.format.clone());
                rows.push((i, Row { job, context, batch, engine: name, format, rate, ..Row::default() }));
            }
        }
    }
    rows
}

fn one(engine: &mut Engine, row: &mut Row, tokens: usize, facts: &Facts, limits: Limits) {
    let (context, batch) = (row.context, row.batch);
    let job = json!({"job": row.job, "context": context, "batch": batch, "rate": row.rate, "tokens": tokens});
    let answer = engine.ask(&job).and_then(|a| match a["tok_s"].as_f64().filter(|v| v.is_finite()) {
        Some(_) => Ok(a),
        None => Err(format!("answered {a}, want \"tok_s\"")),
    });
    match answer {
        Ok(answer) => {
            eprintln!("xtask:   {}: {:.1} tokens/s", row.label(), answer["tok_s"].as_f64().unwrap_or(0.0));
            row.samples.push(answer["tok_s"].as_f64());
            let said = |key: &str, otherwise: f64| answer[key].as_f64().unwrap_or(otherwise);
            let tok_s = row.median().unwrap_or(0.0);
            let share = if row.job == "prefill" {
                tok_s * said("flops_per_token", facts.flops_per_token(context)) / (limits.gflops * 1e9)
            } else {
                let bytes = said("bytes_per_step", facts.bytes_per_step(&row.format, context, batch));
                tok_s / batch as f64 * bytes / (limits.gb_s * 1e9)
            };
            row.share = share.is_finite().then_some(100.0 * share);
        }
        Err(reason) => {
            eprintln!("xtask:   {}: {reason}", row.label());
            row.samples.push(None);
            row.error = Some(reason);
        }
    }
}

/// bf16 and f32 hold the same weights; a quantised format compares with itself.
fn comparable(a: &str, b: &str) -> bool {
    let full = |f: &str| matches!(f, "bf16" | "f32");
    a == b || full(a) && full(b)
}

/// Fill the ratios of our rows, all of one job, context and batch: medians over the rounds that both finished.
fn compare(mut rows: Vec<&mut Row>) {
    let peers: Vec<Row> = rows.iter().filter(|r| r.engine != OURS).map(|r| (**r).clone()).collect();
    for ours in rows.iter_mut().filter(|r| r.engine == OURS) {
        let best = |fits: &dyn Fn(&Row) -> bool| {
            let with_median = peers.iter().filter(|p| fits(p)).filter_map(|p| Some((p.median()?, p)));
            let (_, peer) = with_median.max_by(|a, b| a.0.total_cmp(&b.0))?;
            let pairs = ours.samples.iter().zip(&peer.samples);
            let ratios = pairs.filter_map(|(a, b)| Some((*a)? / (*b)?)).collect();
            Some(Ratio { peer: peer.label(), value: median(ratios)? })
        };
        let (same, any) = (best(&|p| comparable(&p.format, &ours.format)), best(&|_| true));
        (ours.same, ours.any) = (same, any);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(engine: &str, format: &str, samples: &[Option<f64>]) -> Row {
        Row { engine: engine.into(), format: format.into(), samples: samples.to_vec(), ..Row::default() }
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn ratios_pair_rounds_with_the_best_peer() {
        // The machine halves its speed in round 2: pairs still say 2.
        let mut rows = [
            row(OURS, "bf16", &[Some(40.0), Some(20.0), Some(40.0)]),
            row("a", "f32", &[Some(20.0), Some(10.0), Some(20.0)]),
            row("b", "bf16", &[Some(19.0), Some(10.0), None]),
            row("c", "q8_0", &[Some(80.0), Some(40.0), Some(80.0)]),
            row("d", "bf16", &[None, None, None]),
        ];
        compare(rows.iter_mut().collect());
        assert_eq!(rows[0].same, Some(Ratio { peer: "a f32".into(), value: 2.0 }));
        assert_eq!(rows[0].any, Some(Ratio { peer: "c q8_0".into(), value: 0.5 }));
        assert_eq!((&rows[1].same, &rows[1].any), (&None, &None));
    }

    #[test]
    fn nobody_to_compare_with_is_no_ratio() {
        let mut rows = [row(OURS, "q4_0", &[Some(1.0)]), row("a", "bf16", &[Some(2.0)])];
        compare(rows.iter_mut().collect());
        assert_eq!(rows[0].same, None);
        assert_eq!(rows[0].any, Some(Ratio { peer: "a bf16".into(), value: 0.5 }));
    }

    #[test]
    fn bytes_and_operations() {
        let facts = Facts(json!({
            "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "read_per_step": 1000, "prefill_matrix": 600,
            "file_bytes": {"q8_0": 1100},
        }));
        assert_eq!(facts.flops_per_token(10), 1200.0 + 2.0 * 2.0 * 4.0 * 8.0 * 10.0);
        assert_eq!(facts.bytes_per_step("bf16", 10, 3), 2000.0 + 2.0 * 2.0 * 2.0 * 8.0 * 2.0 * 30.0);
        assert_eq!(facts.bytes_per_step("q8_0", 10, 1), 1100.0 + 1280.0);
        assert!(facts.bytes_per_step("q4_0", 10, 1).is_nan());
    }
}
