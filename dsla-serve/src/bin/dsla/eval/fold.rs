//! `dsla eval fold`

use super::text::{QUALITY_HEAD, Text, by_position, divergence_json, quality_cells};
use super::{Outcome, Output, plan_name};
use crate::args::{ModelArgs, RateArgs};
use crate::out::Progress;
use anyhow::{Result, bail};
use clap::Args;
use dsla_distill::page::Page;
use dsla_model::eval::{Divergence, FoldQuality, fold};
use dsla_model::{Model, Plan};
use serde_json::json;

#[derive(Args)]
pub struct Fold {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    #[command(flatten)]
    text: Text,
    /// Tokens compared after the conversion: the end of each window.
    #[arg(long, default_value_t = 256)]
    after: usize,
    #[command(flatten)]
    output: Output,
}

impl Fold {
    pub fn run(self) -> Result<()> {
        self.output.of("Conversion in mid-flight", &self.model, |model, page| {
            let plan = self.rate.plan(model)?;
            let tokens = self.text.tokens(model)?;
            measure(model, &plan, &self.text.windows(&tokens)?, self.after, page)
        })
    }
}

/// The three ways, with names for people.
fn ways(q: &FoldQuality) -> [(&'static str, &Divergence); 3] {
    [("fold", &q.fold), ("drop", &q.drop), ("prefill", &q.prefill)]
}

/// Fold, drop and prefill at one plan.
pub fn measure(
    model: &Model,
    plan: &Plan,
    windows: &[&[u32]],
    after: usize,
    page: &mut Page,
) -> Result<Outcome> {
    if plan.count() == 0 {
        bail!("--rate: got no layer to convert, want --rate above 0 or --layers");
    }
    let progress = Progress::new("windows");
    let q = fold(model, plan, windows, after, progress.bar())?;
    page.heading(&format!("Conversion in mid-flight: {}", plan_name(model, plan)));
    page.text(&format!(
        "The teacher reads a text, the layers convert, and {after} more tokens follow. Fold: caches become states. Drop: \
         converted layers start empty, as in the paper. Prefill: the hybrid reads the whole text anew."
    ));
    let rows: Vec<_> =
        ways(&q).iter().map(|(name, d)| [vec![name.to_string()], quality_cells(d)].concat()).collect();
    page.table(&[&["past"][..], &QUALITY_HEAD].concat(), &rows);
    let names = ways(&q).map(|w| w.0.to_owned());
    by_position(page, &names, &ways(&q).map(|w| w.1.by_position.as_slice()));
    let mut json = json!({
        "rate": plan.rate(), "converted": plan.count(), "after": after, "tokens": q.fold.tokens,
        "teacher_ppl": q.fold.teacher_ppl,
    });
    ways(&q).iter().for_each(|(name, d)| json[*name] = divergence_json(plan, d));
    let line = |(name, d): &(&str, &Divergence)| {
        format!(
            "{name:<8} kl {:.5} nats/token over the next {after} tokens, arg max agrees {:.2}%, ppl ratio {:.4}, rate {:.2}",
            d.kl,
            100.0 * d.top1_agreement,
            d.ppl / d.teacher_ppl,
            plan.rate()
        )
    };
    Ok(Outcome { json, lines: ways(&q).iter().map(line).collect() })
}
