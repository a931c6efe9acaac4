//! `dsla eval recall`

use super::{Outcome, Output, percent, plan_name};
use crate::args::{ModelArgs, Rates};
use crate::out::Progress;
use anyhow::Result;
use clap::Args;
use dsla_distill::chart::Panel;
use dsla_distill::page::Page;
use dsla_model::eval::{Recall as Found, Setup, Task, recall};
use dsla_model::{Model, Plan};
use serde_json::{Value, json};

#[derive(Args)]
pub struct Recall {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rates: Rates,
    /// passkey, multikey, mqar, phonebook or vt (variable tracking).
    #[arg(long, default_value = "passkey", value_parser = Task::ALL.map(Task::name))]
    task: String,
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    output: Output,
}

/// How much is asked.
#[derive(Args)]
pub struct Size {
    /// Prompt tokens.
    #[arg(long, default_value_t = 1024)]
    length: usize,
    /// Texts.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Of the facts and where they stand.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Size {
    pub fn setup(&self) -> Setup {
        Setup { length: self.length, count: self.count, seed: self.seed }
    }
}

impl Recall {
    pub fn run(self) -> Result<()> {
        let task: Task = self.task.parse()?;
        self.output.of("Recall", &self.model, |model, page| {
            measure(model, task, &self.rates.plans(model)?, &self.size.setup(), page)
        })
    }
}

/// One task at every plan: JSON has the first one's numbers at the top and everybody's in `rates`.
pub fn measure(model: &Model, task: Task, plans: &[Plan], setup: &Setup, page: &mut Page) -> Result<Outcome> {
    let progress = Progress::new("texts");
    let found = recall(model, task, plans, setup, progress.bar())?;
    page.heading(&format!("Recall: {}", task.name()));
    page.text(&format!("{} texts of {} tokens, seed {}.", setup.count, setup.length, setup.seed));
    let row = |(p, r): (&Plan, &Found)| {
        let depths = r.by_depth.iter().map(|b| format!("{:.1}: {}", b.depth, percent(b.accuracy)));
        vec![
            plan_name(model, p),
            percent(r.accuracy),
            r.questions.to_string(),
            depths.collect::<Vec<_>>().join(", "),
        ]
    };
    page.table(
        &["converted", "exact", "questions", "by depth of the fact"],
        &plans.iter().zip(&found).map(row).collect::<Vec<_>>(),
    );
    if plans.len() > 1 {
        let line = plans.iter().zip(&found).map(|(p, r)| (p.count() as f64, 100.0 * r.accuracy)).collect();
        let panel = Panel { title: "exact answers, %, by converted layers".into(), lines: vec![line] };
        page.chart(&[task.name()], "layers", &[panel]);
    }
    let rates: Vec<Value> = plans.iter().zip(&found).map(|(p, r)| to_json(p, r)).collect();
    let mut top = rates.first().cloned().unwrap_or_default();
    top["task"] = task.name().into();
    top["length"] = setup.length.into();
    top["seed"] = setup.seed.into();
    top["rates"] = rates.into();
    let lines = plans.iter().zip(&found).flat_map(|(p, r)| {
        let (name, accuracy, rate) = (task.name(), 100.0 * r.accuracy, p.rate());
        let head =
            format!("{name} at {} tokens: {accuracy:.0}% of {} (rate {rate:.2})", setup.length, r.questions);
        let depth = r
            .by_depth
            .iter()
            .map(|b| format!("  depth {:.1}: {:.0}% of {}", b.depth, 100.0 * b.accuracy, b.count));
        std::iter::once(head).chain(depth)
    });
    Ok(Outcome { json: top, lines: lines.collect() })
}

fn to_json(plan: &Plan, r: &Found) -> Value {
    let by_depth: Vec<Value> = r
        .by_depth
        .iter()
        .map(|b| json!({"depth": b.depth, "count": b.count, "accuracy": b.accuracy}))
        .collect();
    json!({
        "rate": plan.rate(), "converted": plan.count(), "accuracy": r.accuracy, "count": r.count,
        "questions": r.questions, "by_depth": by_depth,
    })
}
