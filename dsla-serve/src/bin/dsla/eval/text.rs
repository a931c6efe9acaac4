//! `dsla eval ppl` and `dsla eval kl`

use super::{Outcome, Output, percent, plan_name};
use crate::args::{ModelArgs, RateArgs, Rates, tokens_of};
use crate::out::Progress;
use anyhow::{Result, bail};
use clap::Args;
use dsla_distill::chart::{Panel, svg_with_ticks};
use dsla_distill::page::Page;
use dsla_model::eval::{Divergence, PositionKl, divergence, perplexity, windows};
use dsla_model::{Model, Plan};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Args)]
pub struct Ppl {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    #[command(flatten)]
    text: Text,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct Kl {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rates: Rates,
    #[command(flatten)]
    text: Text,
    #[command(flatten)]
    output: Output,
}

/// A text in windows.
#[derive(Args)]
pub struct Text {
    /// UTF-8 text.
    #[arg(long)]
    text: PathBuf,
    /// Tokens per window.
    #[arg(long, default_value_t = 2048)]
    pub context: usize,
    /// At most this many windows.
    #[arg(long)]
    windows: Option<usize>,
}

impl Text {
    pub fn tokens(&self, model: &Model) -> Result<Vec<u32>> {
        let room = model.table().positions();
        if self.context > room {
            bail!("--context: got {}, want at most the model's {room}", self.context);
        }
        tokens_of(model, &self.text)
    }

    pub fn windows<'a>(&self, tokens: &'a [u32]) -> Result<Vec<&'a [u32]>> {
        Ok(windows(tokens, self.context, self.windows)?)
    }
}

impl Ppl {
    pub fn run(self) -> Result<()> {
        self.output.of("Perplexity", &self.model, |model, page| {
            let plan = self.rate.plan(model)?;
            let tokens = self.text.tokens(model)?;
            let progress = Progress::new("windows");
            let p = perplexity(model, &plan, &self.text.windows(&tokens)?, progress.bar())?;
            let row = vec![plan_name(model, &plan), format!("{:.4}", p.ppl()), p.tokens.to_string()];
            page.table(&["converted", "perplexity", "tokens"], &[row]);
            let (ppl, rate) = (p.ppl(), plan.rate());
            Ok(Outcome {
                json: json!({"tokens": p.tokens, "nll": p.nll, "ppl": ppl, "rate": rate}),
                lines: vec![format!(
                    "ppl {ppl:.4} (nll {:.5} over {} tokens, rate {rate:.2})",
                    p.nll, p.tokens
                )],
            })
        })
    }
}

impl Kl {
    pub fn run(self) -> Result<()> {
        self.output.of("Divergence from the teacher", &self.model, |model, page| {
            let plans = self.rates.plans(model)?;
            let tokens = self.text.tokens(model)?;
            kl(model, &plans, &self.text.windows(&tokens)?, page)
        })
    }
}

/// Divergence of each plan: JSON has the first one's numbers at the top and everybody's in `rates`.
pub fn kl(model: &Model, plans: &[Plan], windows: &[&[u32]], page: &mut Page) -> Result<Outcome> {
    let progress = Progress::new("windows");
    let found = divergence(model, plans, windows, progress.bar())?;
    let names: Vec<String> = plans.iter().map(|p| plan_name(model, p)).collect();
    page.heading("Divergence from the teacher");
    let rows: Vec<_> =
        names.iter().zip(&found).map(|(n, d)| [vec![n.clone()], quality_cells(d)].concat()).collect();
    page.table(&[&["converted"][..], &QUALITY_HEAD].concat(), &rows);
    if plans.len() > 1 {
        let line = |f: fn(&Divergence) -> f64| {
            vec![plans.iter().zip(&found).map(|(p, d)| (p.count() as f64, f(d))).collect::<Vec<_>>()]
        };
        let panels = [
            Panel { title: "KL, nats per token, by converted layers".into(), lines: line(|d| d.kl) },
            Panel {
                title: "perplexity over the teacher's, minus 1".into(),
                lines: line(|d| (d.ppl / d.teacher_ppl - 1.0).max(0.0)),
            },
        ];
        page.chart(&["hybrid"], "layers", &panels);
    }
    by_position(page, &names, &found.iter().map(|d| d.by_position.as_slice()).collect::<Vec<_>>());
    let rates: Vec<Value> = plans.iter().zip(&found).map(|(p, d)| divergence_json(p, d)).collect();
    let mut top = rates.first().cloned().unwrap_or_default();
    top["rates"] = rates.into();
    let line = |(p, d): (&Plan, &Divergence)| {
        format!(
            "kl {:.5} nats/token, arg max agrees {:.2}%, ppl {:.4} against the teacher's {:.4} (ratio {:.4}), rate {:.2}",
            d.kl,
            100.0 * d.top1_agreement,
            d.ppl,
            d.teacher_ppl,
            d.ppl / d.teacher_ppl,
            p.rate()
        )
    };
    Ok(Outcome { json: top, lines: plans.iter().zip(&found).map(line).collect() })
}

pub const QUALITY_HEAD: [&str; 4] = ["KL, nats/token", "arg max agrees", "perplexity", "over the teacher's"];

/// Cells under [`QUALITY_HEAD`].
pub fn quality_cells(d: &Divergence) -> Vec<String> {
    vec![
        format!("{:.4}", d.kl),
        percent(d.top1_agreement),
        format!("{:.3}", d.ppl),
        format!("{:.3}", d.ppl / d.teacher_ppl),
    ]
}

/// KL by position, a line per name: x is the bucket, so the axis doubles from tick to tick.
pub fn by_position(page: &mut Page, names: &[String], found: &[&[PositionKl]]) {
    let ticks = found.iter().max_by_key(|f| f.len()).map_or(vec![], |longest| {
        longest.iter().enumerate().map(|(i, b)| (i as f64, b.from.to_string())).collect()
    });
    let line = |f: &&[PositionKl]| f.iter().enumerate().map(|(i, b)| (i as f64, b.kl)).collect();
    let panel = Panel {
        title: "KL, nats per token, by position (buckets of powers of two, labelled by their start)".into(),
        lines: found.iter().map(line).collect(),
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    page.svg(&svg_with_ticks(&names, &ticks, &[panel]));
}

/// One hybrid's numbers.
pub fn divergence_json(plan: &Plan, d: &Divergence) -> Value {
    let by_position: Vec<Value> = d
        .by_position
        .iter()
        .map(|b| json!({"from": b.from, "to": b.to, "tokens": b.tokens, "kl": b.kl}))
        .collect();
    json!({
        "rate": plan.rate(), "converted": plan.count(), "tokens": d.tokens, "kl": d.kl,
        "top1_agreement": d.top1_agreement, "ppl": d.ppl, "teacher_ppl": d.teacher_ppl, "by_position": by_position,
    })
}
