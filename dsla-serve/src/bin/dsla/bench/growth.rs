//! `dsla bench --growth`: how time and memory grow with context, batch, rate and threads, with fitted exponents.

use super::{Bench, Run, limits_json};
use crate::args::plan_at;
use crate::out;
use anyhow::{Context, Result};
use dsla_distill::chart::{Panel, svg_with_ticks};
use dsla_model::Model;
use dsla_model::adapter::write_atomic;
use dsla_model::core::kernels::limits::Limits;
use dsla_model::core::kernels::par;
use serde_json::{Value, json};

/// One measured point of a sweep.
struct Point {
    axis: &'static str,
    /// Context, batch, rate or threads.
    x: f64,
    rate: f64,
    prefill_s: f64,
    decode_ms: f64,
    kv: usize,
    state: usize,
}

impl Point {
    fn json(&self) -> Value {
        json!({
            "axis": self.axis, "x": self.x, "rate": self.rate, "prefill_s": self.prefill_s, "decode_ms": self.decode_ms,
            "kv_bytes": self.kv, "state_bytes": self.state,
        })
    }
}

/// What grows, and how to read it off a point.
type Quantity = (&'static str, fn(&Point) -> f64);
const QUANTITIES: [Quantity; 4] = [
    ("prefill, s", |p| p.prefill_s),
    ("decode step, ms", |p| p.decode_ms),
    ("KV cache, MB", |p| p.kv as f64 / 1e6),
    ("states, MB", |p| p.state as f64 / 1e6),
];

impl Bench {
    /// Sweep one axis at a time: contexts double from 512 while a prefill takes less than `longest_s` and positions last.
    pub(super) fn grow(&self, model: &Model, limits: &Limits) -> Result<()> {
        let point = |axis, x, rate, context, batch| -> Result<Point> {
            let plan = plan_at(model, rate)?;
            let mut run = Run::prefill(model, &plan, context, batch)?;
            let prefill_s = (context * batch) as f64 / run.prefill_tok_s;
            // The first step pays for pages.
            run.decode(model, 1)?;
            let decode_ms = 1e3 * batch as f64 / run.decode(model, self.tokens)?;
            let (kv, state) = run.bytes();
            let p = Point { axis, x, rate: plan.rate(), prefill_s, decode_ms, kv, state };
            eprintln!(
                "{axis} {x}, rate {:.2}: prefill {prefill_s:.2} s, decode step {decode_ms:.1} ms, KV {}, states {}",
                p.rate,
                out::bytes(kv),
                out::bytes(state)
            );
            Ok(p)
        };
        let mut points = vec![];
        for &rate in &self.rate {
            let mut context = 512;
            while context + self.tokens < model.table().positions() {
                let p = point("context", context as f64, rate, context, 1)?;
                let enough = 3.0 * p.prefill_s > self.longest_s;
                points.push(p);
                if enough {
                    break;
                }
                context *= 2;
            }
            for batch in [1, 2, 4, 8, 16, 32] {
                points.push(point("batch", batch as f64, rate, 512, batch)?);
            }
            for n in [1, 2, 4, 8, 16].into_iter().filter(|n| *n <= par::threads()) {
                points.push(self.with_threads(n, rate)?);
            }
        }
        for rate in [0.0, 0.25, 0.5, 0.75, 1.0] {
            points.push(point("rate", rate, rate, 2048, 1)?);
        }
        let fits = self.fits(&points);
        let result = json!({
            "machine": limits_json(limits, model), "points": points.iter().map(Point::json).collect::<Vec<_>>(), "fits": fits,
        });
        if let Some(dir) = &self.out {
            std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot create", dir.display()))?;
            write_atomic(&dir.join("growth.json"), serde_json::to_string_pretty(&result)?.as_bytes())?;
            write_atomic(&dir.join("growth.svg"), self.picture(&points).as_bytes())?;
        }
        if self.json {
            out::json(&result);
            return Ok(());
        }
        println!("exponents b of y = a x^b (the last half of each sweep)");
        for f in &fits {
            println!(
                "{:>8}, rate {:.2}: {:<16} {:.2}",
                f["axis"].as_str().unwrap_or(""),
                f["rate"].as_f64().unwrap_or(0.0),
                f["of"].as_str().unwrap_or(""),
                f["exponent"].as_f64().unwrap_or(0.0)
            );
        }
        Ok(())
    }

    /// A process of its own: a team of threads is made once.
    fn with_threads(&self, n: usize, rate: f64) -> Result<Point> {
        let mut args: Vec<String> =
            ["bench", &self.model.model, "--dtype", &self.model.dtype, "--context", "2048"]
                .map(String::from)
                .into();
        args.extend(["--rate".into(), rate.to_string(), "--threads".into(), n.to_string()]);
        args.extend(["--tokens".into(), self.tokens.to_string(), "--json".into()]);
        if let Some(dir) = self.model.adapter_dir() {
            args.extend(["--adapter".into(), dir.display().to_string()]);
        }
        let exe = std::env::current_exe().context("this program's own path")?;
        let done = std::process::Command::new(exe).args(&args).output().context("bench --threads")?;
        let row = serde_json::from_slice::<Value>(&done.stdout)
            .with_context(|| String::from_utf8_lossy(&done.stderr).into_owned())?["rows"][0]
            .take();
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let p = Point {
            axis: "threads",
            x: n as f64,
            rate: number("rate"),
            prefill_s: 2048.0 / number("prefill_tok_s"),
            decode_ms: 1e3 / number("decode_tok_s"),
            kv: number("kv_bytes") as usize,
            state: number("state_bytes") as usize,
        };
        eprintln!(
            "threads {n}, rate {rate:.2}: prefill {:.2} s, decode step {:.1} ms",
            p.prefill_s, p.decode_ms
        );
        Ok(p)
    }

    /// Exponents over the larger half of each sweep: what growth tends to, not what the start costs.
    fn fits(&self, points: &[Point]) -> Vec<Value> {
        let mut fits = vec![];
        for axis in ["context", "batch", "threads"] {
            let mut rates: Vec<f64> = points.iter().filter(|p| p.axis == axis).map(|p| p.rate).collect();
            rates.dedup();
            for rate in rates {
                let of: Vec<&Point> = points.iter().filter(|p| p.axis == axis && p.rate == rate).collect();
                let half = &of[if of.len() > 3 { of.len() / 2 - 1 } else { 0 }..];
                for (name, quantity) in QUANTITIES {
                    let xy: Vec<(f64, f64)> = half.iter().map(|p| (p.x, quantity(p))).collect();
                    if let Some(exponent) = exponent(&xy) {
                        fits.push(json!({"axis": axis, "rate": rate, "of": name, "exponent": exponent}));
                    }
                }
            }
        }
        fits
    }

    /// Contexts on a logarithmic axis, a panel per quantity, a line per rate.
    fn picture(&self, points: &[Point]) -> String {
        let of: Vec<&Point> = points.iter().filter(|p| p.axis == "context").collect();
        let mut rates: Vec<f64> = of.iter().map(|p| p.rate).collect();
        rates.dedup();
        let names: Vec<String> = rates.iter().map(|r| format!("{:.0}% converted", 100.0 * r)).collect();
        let at = |x: f64| (x / 256.0).log2();
        let longest = of.iter().map(|p| p.x).fold(512.0, f64::max);
        let ticks: Vec<(f64, String)> = std::iter::successors(Some(512.0), |x| Some(x * 2.0))
            .take_while(|x| *x <= longest)
            .map(|x| (at(x), format!("{x}")))
            .collect();
        let panel = |(name, quantity): Quantity| Panel {
            title: format!("{name}, by context"),
            lines: rates
                .iter()
                .map(|r| of.iter().filter(|p| p.rate == *r).map(|p| (at(p.x), quantity(p))).collect())
                .collect(),
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        svg_with_ticks(&names, &ticks, &QUANTITIES.map(panel))
    }
}

/// Least squares of ln y on ln x; None where y is nothing or there is one point.
fn exponent(xy: &[(f64, f64)]) -> Option<f64> {
    if xy.len() < 2 || xy.iter().any(|(_, y)| *y <= 0.0) {
        return None;
    }
    let n = xy.len() as f64;
    let logs: Vec<(f64, f64)> = xy.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (mx, my) = (logs.iter().map(|l| l.0).sum::<f64>() / n, logs.iter().map(|l| l.1).sum::<f64>() / n);
    let cov: f64 = logs.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    Some(cov / logs.iter().map(|(x, _)| (x - mx).powi(2)).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::exponent;

    #[test]
    fn exponents_of_powers() {
        let power = |b: f64| [1.0f64, 2.0, 4.0, 8.0].map(|x| (x, 3.0 * x.powf(b)));
        for b in [0.0, 1.0, 2.0, -0.5] {
            assert!((exponent(&power(b)).unwrap() - b).abs() < 1e-12);
        }
        assert!(exponent(&[(1.0, 2.0)]).is_none() && exponent(&[(1.0, 0.0), (2.0, 0.0)]).is_none());
    }
}
