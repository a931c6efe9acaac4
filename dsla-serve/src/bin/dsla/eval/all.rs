//! `dsla eval all`

use super::text::{Text, kl};
use super::{Outcome, Output, fold, recall};
use crate::args::{ModelArgs, plan_at};
use anyhow::{Result, bail};
use clap::Args;
use dsla_model::Plan;
use dsla_model::eval::Task;
use serde_json::{Value, json};

#[derive(Args)]
pub struct All {
    #[command(flatten)]
    model: ModelArgs,
    /// Shares of layers converted, each measured.
    #[arg(long, value_delimiter = ',', default_value = "0,0.25,0.5,0.75,1")]
    rates: Vec<f64>,
    #[command(flatten)]
    text: Text,
    /// Tokens compared after a conversion in mid-flight: the end of each window.
    #[arg(long, default_value_t = 256)]
    after: usize,
    /// Recall tasks.
    #[arg(long, value_delimiter = ',', default_value = "passkey,multikey", value_parser = Task::ALL.map(Task::name))]
    tasks: Vec<String>,
    #[command(flatten)]
    size: recall::Size,
    #[command(flatten)]
    output: Output,
}

impl All {
    pub fn run(self) -> Result<()> {
        let tasks = self.tasks.iter().map(|t| t.parse()).collect::<Result<Vec<Task>, _>>()?;
        self.output.of("Evaluation", &self.model, |model, page| {
            let plans = self.rates.iter().map(|&r| plan_at(model, r)).collect::<Result<Vec<Plan>>>()?;
            if plans.is_empty() {
                bail!("--rates: got none, want at least one");
            }
            let tokens = self.text.tokens(model)?;
            let windows = self.text.windows(&tokens)?;
            let all = kl(model, &plans, &windows, page)?;
            let (kl, mut lines) = (all.json["rates"].clone(), all.lines);
            let (mut recalled, mut folded): (Vec<Value>, Vec<Value>) = (vec![], vec![]);
            for task in tasks {
                let one = recall::measure(model, task, &plans, &self.size.setup(), page)?;
                recalled.push(one.json);
                lines.extend(one.lines);
            }
            for plan in plans.iter().filter(|p| p.count() > 0) {
                let one = fold::measure(model, plan, &windows, self.after, page)?;
                folded.push(one.json);
                lines.extend(one.lines);
            }
            Ok(Outcome { json: json!({"kl": kl, "recall": recalled, "fold": folded}), lines })
        })
    }
}
