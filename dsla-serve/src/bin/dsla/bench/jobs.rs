//! `dsla bench --jobs`: the process that `cargo xtask bench --vs` measures. It speaks the protocol of `xtask/peers/peer.py`.

use super::{Run, flops_per_token};
use crate::args::plan_at;
use anyhow::{Result, bail};
use dsla_model::Model;
use serde_json::{Value, json};
use std::io::{BufRead, Write};

/// Sequences of the last length, kept between a job "prefill" and its "decode": one for each rate.
type Kept = Vec<((usize, usize, usize), Run)>;

/// Answer every line of stdin, to its end. `format` is what --dtype said.
pub fn serve(model: &Model, format: &str, machine: &Value) -> Result<()> {
    let mut kept = Kept::new();
    // The first run pays for memory, as in `peer.py`.
    Run::prefill(model, &model.plan(0), 512.min(model.table().positions().saturating_sub(8).max(1)), 1)?
        .decode(model, 2)?;
    say(&json!({
        "ready": true, "version": format!("dsla {}", env!("CARGO_PKG_VERSION")), "simd": machine["simd"],
        "gemm_gflops": machine["gemm_gflops"], "read_gb_s": machine["read_gb_s"],
    }))?;
    for line in std::io::stdin().lock().lines() {
        let answer = answer(model, format, &line?, &mut kept);
        say(&answer.unwrap_or_else(|e| json!({"error": format!("{e:#}").replace('\n', " ")})))?;
    }
    Ok(())
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn answer(model: &Model, format: &str, line: &str, kept: &mut Kept) -> Result<Value> {
    let job: Value = serde_json::from_str(line)?;
    let number = |key: &str, default: usize| match &job[key] {
        Value::Null => Ok(default),
        v => match v.as_u64() {
            Some(n) if n > 0 => Ok(n as usize),
            _ => bail!("job: {key}: got {v}, want 1 or more"),
        },
    };
    let (context, batch, tokens) = (number("context", 512)?, number("batch", 1)?, number("tokens", 32)?);
    if let Some(other) = job["format"].as_str().filter(|f| *f != format) {
        bail!("job: format: got {other}, want {format}, which this process loaded");
    }
    let room = model.table().positions();
    if context + tokens > room {
        bail!("job: context: got {context} and {tokens} tokens, want at most {room} in all");
    }
    let plan = plan_at(model, job["rate"].as_f64().unwrap_or(0.0))?;
    let key = (context, batch, plan.count());
    let facts = |run: &Run, tok_s: f64| {
        let (kv, state) = run.bytes();
        json!({
            "tok_s": tok_s, "kv_bytes": kv, "state_bytes": state,
            "flops_per_token": flops_per_token(model, &plan, context), "bytes_per_step": run.bytes_per_step(model),
        })
    };
    match job["job"].as_str() {
        Some("prefill") => {
            // Only what the next decode may ask for stays in memory.
            kept.retain(|(old, _)| (old.0, old.1) == (context, batch) && old.2 != plan.count());
            let run = Run::prefill(model, &plan, context, batch)?;
            let answer = facts(&run, run.prefill_tok_s);
            kept.push((key, run));
            Ok(answer)
        }
        Some("decode") => {
            let mut run = match kept.iter().position(|(old, _)| *old == key) {
                Some(i) => kept.swap_remove(i).1,
                None => Run::prefill(model, &plan, context, batch)?,
            };
            let tok_s = run.decode(model, tokens)?;
            Ok(facts(&run, tok_s))
        }
        _ => bail!("job: got {}, want \"prefill\" or \"decode\"", job["job"]),
    }
}
