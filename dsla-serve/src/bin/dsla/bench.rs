//! `dsla bench`: prefill and decode speed beside the machine's own measured limits.

use crate::args::{ModelArgs, plan_at};
use crate::out;
use anyhow::{Result, bail};
use clap::Args;
use dsla_model::core::kernels::limits::Limits;
use dsla_model::core::kernels::ops::linear::Packed;
use dsla_model::core::kernels::{par, simd};
use dsla_model::{Model, Plan, Sequence, Step, Want, WeightFormat};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

mod growth;
mod jobs;

#[derive(Args)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt lengths.
    #[arg(long, value_delimiter = ',', default_value = "512,2048")]
    context: Vec<usize>,
    /// Shares of layers converted.
    #[arg(long, value_delimiter = ',', default_value = "0,0.75")]
    rate: Vec<f64>,
    /// Sequences at once.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    batch: Vec<usize>,
    /// Tokens to decode per sequence.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Sweep contexts (512, doubling to 65,536), batches (1 to 32), rates and threads, one at a time, and fit exponents;
    /// --context and --batch do not matter, --rate says which shares contexts and batches are swept at.
    #[arg(long, conflicts_with = "jobs")]
    growth: bool,
    /// With --growth: contexts stop doubling where the next prefill would take longer than about this, seconds.
    #[arg(long, default_value_t = 200.0)]
    longest_s: f64,
    /// With --growth: directory for growth.json and growth.svg.
    #[arg(long)]
    out: Option<PathBuf>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Answer jobs, for `cargo xtask bench --vs`: one JSON line on stdout for each line of stdin like
    /// {"job":"prefill","context":512,"batch":1,"rate":0,"tokens":32,"format":"bf16"}, "prefill" or "decode"; first a
    /// line that says "ready". --context and --tokens then only say how long the jobs will be.
    #[arg(long, conflicts_with = "json")]
    jobs: bool,
}

fn limits_json(limits: &Limits, model: &Model) -> Value {
    json!({
        "threads": par::threads(), "simd": format!("{:?}", simd::level()), "dtype": model.format().to_string(),
        "gemm_gflops": limits.flops / 1e9, "read_gb_s": limits.bandwidth / 1e9,
    })
}

impl Bench {
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let mut model = self.model.load()?;
        let load_s = start.elapsed().as_secs_f64();
        let context = if self.growth { Some(&65_536) } else { self.context.iter().max() };
        let longest = context.copied().unwrap_or(0) + self.tokens + 1;
        if self.context.contains(&0) || self.batch.contains(&0) || self.tokens == 0 {
            bail!("bench: got a zero among --context, --batch, --tokens, want 1 or more");
        }
        if longest > model.table().positions() {
            model = model.with_positions(longest)?;
        }
        if self.jobs {
            return jobs::serve(&model, &self.model.dtype, &limits_json(&limits(model.format())?, &model));
        }
        if self.growth {
            return self.grow(&model, &limits(model.format())?);
        }
        let plans = self.rate.iter().map(|&r| plan_at(&model, r)).collect::<Result<Vec<_>>>()?;
        let limits = limits(model.format())?;
        if !self.json {
            println!(
                "loaded in {load_s:.2} s; {} threads, {:?}: {:.0} GFLOP/s in {} products, {:.1} GB/s read",
                par::threads(),
                simd::level(),
                limits.flops / 1e9,
                model.format(),
                limits.bandwidth / 1e9
            );
            println!(
                "{:>8} {:>6} {:>6} {:>14} {:>7} {:>13} {:>7} {:>10} {:>10}",
                "context", "batch", "rate", "prefill tok/s", "limit", "decode tok/s", "limit", "KV", "states"
            );
        }
        let mut rows = vec![];
        for &context in &self.context {
            for &batch in &self.batch {
                for plan in &plans {
                    let row = self.row(&model, plan, context, batch, &limits)?;
                    if !self.json {
                        let f = |k: &str| row[k].as_f64().unwrap_or(0.0);
                        println!(
                            "{context:>8} {batch:>6} {:>6.2} {:>14.0} {:>6.0}% {:>13.1} {:>6.0}% {:>10} {:>10}",
                            plan.rate(),
                            f("prefill_tok_s"),
                            f("pct_flops"),
                            f("decode_tok_s"),
                            f("pct_bandwidth"),
                            out::bytes(f("kv_bytes") as usize),
                            out::bytes(f("state_bytes") as usize)
                        );
                    }
                    rows.push(row);
                }
            }
        }
        if self.json {
            out::json(&json!({"machine": limits_json(&limits, &model), "load_s": load_s, "rows": rows}));
        }
        Ok(())
    }

    fn row(
        &self,
        model: &Model,
        plan: &Plan,
        context: usize,
        batch: usize,
        limits: &Limits,
    ) -> Result<Value> {
        let mut run = Run::prefill(model, plan, context, batch)?;
        let prefill = run.prefill_tok_s;
        let decode = run.decode(model, self.tokens)?;
        let (kv, state) = run.bytes();
        Ok(json!({
            "context": context, "batch": batch, "rate": plan.rate(), "prefill_tok_s": prefill, "decode_tok_s": decode,
            "kv_bytes": kv, "state_bytes": state,
            "pct_flops": 100.0 * prefill * flops_per_token(model, plan, context) / limits.flops,
            "pct_bandwidth": 100.0 * decode / batch as f64 * run.bytes_per_step(model) / limits.bandwidth,
        }))
    }
}

/// Sequences of one length, filled and timed.
struct Run {
    seqs: Vec<Sequence>,
    prefill_tok_s: f64,
}

impl Run {
    fn prefill(model: &Model, plan: &Plan, context: usize, batch: usize) -> Result<Run> {
        let prompt: Vec<u32> =
            (0..context).map(|i| (100 + i * 7 % 4000) as u32 % model.config().vocab_size as u32).collect();
        let mut seqs = (0..batch).map(|_| model.new_sequence(plan)).collect::<Result<Vec<Sequence>, _>>()?;
        let start = Instant::now();
        for seq in &mut seqs {
            dsla_model::generate::prefill(model, seq, &prompt)?;
        }
        Ok(Run { seqs, prefill_tok_s: (context * batch) as f64 / start.elapsed().as_secs_f64() })
    }

    /// `tokens` more for each sequence, one by one; tokens per second over all of them.
    fn decode(&mut self, model: &Model, tokens: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..tokens {
            let mut steps: Vec<Step> =
                self.seqs.iter_mut().map(|seq| Step { seq, tokens: &[1], logits: Want::Last }).collect();
            model.forward(&mut steps)?;
        }
        Ok((tokens * self.seqs.len()) as f64 / start.elapsed().as_secs_f64())
    }

    /// Bytes of the KV caches, and of the states.
    fn bytes(&self) -> (usize, usize) {
        (
            self.seqs.iter().map(Sequence::kv_bytes).sum::<usize>(),
            self.seqs.iter().map(Sequence::state_bytes).sum::<usize>(),
        )
    }

    /// Per decode step of all sequences: weights once, caches read, states read and written.
    fn bytes_per_step(&self, model: &Model) -> f64 {
        let (kv, state) = self.bytes();
        (model.bytes() + kv + 2 * state) as f64
    }
}

/// Floating-point operations per prompt token: projections and MLP, then each layer's attention.
fn flops_per_token(model: &Model, plan: &Plan, context: usize) -> f64 {
    let c = model.config();
    let (h, g, d) = (c.num_heads as f64, c.num_kv_heads as f64, c.head_dim as f64);
    let hidden = c.hidden_size as f64;
    let linear = 2.0 * c.num_layers as f64 * hidden * (2.0 * (h + g) * d + 3.0 * c.intermediate_size as f64);
    let softmax = 4.0 * h * d * context as f64 / 2.0;
    let dsla = model.adapter().map_or(0.0, |a| {
        let (f, w) = (a.form.features(c.head_dim) as f64, a.form.window as f64);
        // Feature maps, window, scores inside the chunk, states read per query head and written per kv head.
        2.0 * (h + g) * d * d + 4.0 * h * d * w + h * 32.0 * 2.0 * (f + d) + 4.0 * f * d * (h + g)
    });
    let n = plan.count() as f64;
    linear + (c.num_layers as f64 - n) * softmax + n * dsla
}

/// With weights in the model's format.
fn limits(format: WeightFormat) -> Result<Limits> {
    Ok(Limits::measure(|w| match format {
        WeightFormat::Quantised(quant) => Packed::quantised(w, quant),
        _ => Packed::new(w.to_tensor()?.to_dtype(format.dtype())?.view()),
    })?)
}
