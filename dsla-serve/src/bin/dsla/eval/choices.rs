//! `dsla eval choices`

use super::{Outcome, Output, percent, plan_name};
use crate::args::{ModelArgs, RateArgs};
use crate::out::Progress;
use anyhow::Result;
use clap::Args;
use dsla_model::eval::{choices, read_questions};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct Choices {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    /// JSON Lines: rows {"context", "choices", "gold"}, or exports of PIQA, ARC, HellaSwag or WinoGrande.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Choices {
    pub fn run(self) -> Result<()> {
        let questions = read_questions(&self.data)?;
        self.output.of("Multiple choice", &self.model, |model, page| {
            let plan = self.rate.plan(model)?;
            let progress = Progress::new("questions");
            let s = choices(model, &plan, &questions, progress.bar())?;
            let row = vec![
                plan_name(model, &plan),
                percent(s.acc),
                percent(s.acc_norm),
                percent(s.chance),
                s.count.to_string(),
            ];
            page.table(&["converted", "acc", "acc_norm", "by chance", "questions"], &[row]);
            Ok(Outcome {
                json: json!({
                    "acc": s.acc, "acc_norm": s.acc_norm, "acc_bytes": s.acc_bytes, "chance": s.chance,
                    "count": s.count, "rate": plan.rate(), "converted": plan.count(),
                }),
                lines: vec![format!(
                    "acc {}, acc_norm {} of {} questions ({} by chance), rate {:.2}",
                    percent(s.acc),
                    percent(s.acc_norm),
                    s.count,
                    percent(s.chance),
                    plan.rate()
                )],
            })
        })
    }
}
