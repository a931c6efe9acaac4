//! The burst: the same requests on a teacher-only engine and on an adaptive one.

use super::plot;
use crate::out;
use anyhow::Result;
use dsla_model::Model;
use dsla_serve::{Engine, EngineConfig, Policy, Request, SamplingParams, Slo, StepReport};
use std::path::Path;
use std::time::{Duration, Instant};

/// New tokens per request.
const NEW: usize = 24;

/// What one engine did.
struct Outcome {
    reports: Vec<StepReport>,
    seconds: f64,
    first: Vec<f64>,
    total: Vec<f64>,
    peak_kv: usize,
    peak_bytes: usize,
    tokens: u64,
    folds: u64,
    max_target: usize,
    last_target: usize,
}

pub fn run(model: &Model, tokens: &[u32], prompts: usize, length: usize, out_dir: &Path) -> Result<()> {
    println!(
        "\na burst of {prompts} prompts of {length} tokens, {NEW} new tokens each, twice: teacher only, then adaptive"
    );
    let teacher = one(model, tokens, prompts, length, Policy::Fixed(0.0))?;
    let adaptive = one(
        model,
        tokens,
        prompts,
        length,
        Policy::Slo(Slo {
            max_rate: 0.75,
            cooldown: Duration::from_secs(2),
            ..Slo::new(Duration::from_secs(2), Duration::from_secs(1))
        }),
    )?;
    println!("\n{:26} {:>12} {:>12} {:>8}", "", "teacher only", "adaptive", "ratio");
    let row = |what: &str, a: f64, b: f64, unit: &str| {
        println!(
            "{what:26} {:>12} {:>12} {:>8.2}",
            format!("{a:.1}{unit}"),
            format!("{b:.1}{unit}"),
            b / a.max(1e-9)
        )
    };
    row("burst served in", teacher.seconds, adaptive.seconds, " s");
    row(
        "tokens per second",
        teacher.tokens as f64 / teacher.seconds,
        adaptive.tokens as f64 / adaptive.seconds,
        "",
    );
    row("first token, median", middle(&teacher.first), middle(&adaptive.first), " s");
    row("whole answer, slowest", worst(&teacher.total), worst(&adaptive.total), " s");
    row("peak KV cache", teacher.peak_kv as f64 / 1e6, adaptive.peak_kv as f64 / 1e6, " MB");
    let both = |o: &Outcome| o.peak_bytes as f64 / 1e6;
    row("peak KV cache and states", both(&teacher), both(&adaptive), " MB");
    println!(
        "layers converted: up to {} under load, {} when it was over; {} folds of running sequences",
        adaptive.max_target, adaptive.last_target, adaptive.folds
    );
    if let Some(q) = model.adapter().and_then(|a| a.quality_at(adaptive.max_target)) {
        println!(
            "quality at {} layers, as the adapter measured it: kl {:.4}, perplexity {:.3} x teacher",
            q.converted, q.kl, q.ppl_ratio
        );
    }
    println!("one run on this machine; speeds vary, ratios travel better");
    let svg = out_dir.join("demo.svg");
    let text = plot::draw(&teacher.reports, &adaptive.reports);
    dsla_model::adapter::write_atomic(&svg, text.as_bytes())?;
    println!("plot: {}", svg.display());
    Ok(())
}

fn one(model: &Model, tokens: &[u32], prompts: usize, length: usize, policy: Policy) -> Result<Outcome> {
    let name = if matches!(policy, Policy::Fixed(_)) { "teacher only" } else { "adaptive" };
    println!(
        "\n[{name}]\n{:>7} {:>7} {:>8} {:>10} {:>10} {:>9}",
        "time", "queued", "layers", "KV", "states", "tokens/s"
    );
    let engine =
        Engine::new(model.clone(), EngineConfig { policy, max_running: 4, ..EngineConfig::default() })?;
    let reports = engine.subscribe();
    let params = SamplingParams { max_tokens: NEW, ignore_eos: true, ..SamplingParams::default() };
    let prompt =
        |i: usize, n: usize| -> Vec<u32> { tokens.iter().copied().cycle().skip(i * 211).take(n).collect() };
    // Calm before the burst.
    engine.submit(Request { prompt: prompt(0, 64), params: params.clone() })?.wait()?;
    let start = Instant::now();
    let waiting: Vec<_> = (0..prompts)
        .map(|i| {
            let generation = engine.submit(Request { prompt: prompt(i, length), params: params.clone() })?;
            Ok(std::thread::spawn(move || -> Result<(f64, f64)> {
                let mut first = None;
                for event in generation {
                    event?;
                    first.get_or_insert_with(|| start.elapsed().as_secs_f64());
                }
                let total = start.elapsed().as_secs_f64();
                Ok((first.unwrap_or(total), total))
            }))
        })
        .collect::<Result<_>>()?;
    let mut seen = vec![];
    let mut shown = Instant::now();
    let (mut since, mut at) = (0u64, Instant::now());
    while waiting.iter().any(|w| !w.is_finished()) {
        if let Ok(r) = reports.recv_timeout(Duration::from_millis(200)) {
            since += (r.prompt_tokens + r.generated_tokens) as u64;
            seen.push(r);
        }
        if shown.elapsed() > Duration::from_secs(2) {
            if let Some(r) = seen.last() {
                line(r, since as f64 / at.elapsed().as_secs_f64());
            }
            (since, at, shown) = (0, Instant::now(), Instant::now());
        }
    }
    let mut times = vec![];
    for w in waiting {
        times.push(w.join().map_err(|_| anyhow::anyhow!("demo: a client thread ended early"))??);
    }
    let seconds = start.elapsed().as_secs_f64();
    // Calm again: short requests until the late first tokens are forgotten and the policy relaxes.
    for i in 0..120 {
        engine
            .submit(Request {
                prompt: prompt(i, 64),
                params: SamplingParams { max_tokens: 8, ..params.clone() },
            })?
            .wait()?;
        if engine.stats().converted_target == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    seen.extend(reports.try_iter());
    if let Some(r) = seen.last() {
        line(r, 0.0);
    }
    let stats = engine.stats();
    engine.shutdown(Duration::from_secs(5));
    let peak = |f: &dyn Fn(&StepReport) -> usize| seen.iter().map(f).max().unwrap_or(0);
    Ok(Outcome {
        seconds,
        first: times.iter().map(|t| t.0).collect(),
        total: times.iter().map(|t| t.1).collect(),
        peak_kv: peak(&|r| r.stats.kv_bytes),
        peak_bytes: peak(&|r| r.stats.kv_bytes + r.stats.state_bytes),
        tokens: (prompts * (length + NEW)) as u64,
        folds: stats.folds,
        max_target: peak(&|r| r.stats.converted_target),
        last_target: stats.converted_target,
        reports: seen,
    })
}

fn line(r: &StepReport, speed: f64) {
    let s = &r.stats;
    println!(
        "{:>6.1}s {:>7} {:>8} {:>10} {:>10} {:>9.0}  {}",
        r.at.as_secs_f64(),
        s.queued,
        format!("{}/{}", s.converted_target, s.layers),
        out::bytes(s.kv_bytes),
        out::bytes(s.state_bytes),
        speed,
        "#".repeat(s.kv_bytes / 4_000_000)
    );
}

fn middle(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    x.get(x.len() / 2).copied().unwrap_or(0.0)
}

fn worst(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, v| m.max(*v))
}
