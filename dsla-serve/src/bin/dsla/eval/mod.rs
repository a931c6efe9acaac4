//! `dsla eval`: one file per family of measurements, each giving JSON, lines and a piece of the report page.

mod all;
mod choices;
mod fold;
mod recall;
mod text;
mod written;

use crate::args::ModelArgs;
use crate::out;
use anyhow::Result;
use clap::{Args, Subcommand};
use dsla_distill::page::Page;
use dsla_model::adapter::write_atomic;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum Eval {
    /// Perplexity on a text file.
    Ppl(text::Ppl),
    /// Divergence of the hybrid from its teacher on a text file, also by position.
    Kl(text::Kl),
    /// Synthetic recall by generation.
    Recall(recall::Recall),
    /// Multiple choice by likelihood, as lm-eval scores it.
    Choices(choices::Choices),
    /// Answers to questions about a text: F1 and exact match.
    Qa(written::Qa),
    /// Summaries: ROUGE-1, ROUGE-2 and ROUGE-L.
    Summary(written::Summary),
    /// What converting a sequence in mid-flight costs: fold, drop, or prefill anew.
    Fold(fold::Fold),
    /// Divergence, recall and fold at several rates, on one page.
    All(all::All),
}

/// Where results go.
#[derive(Args)]
pub struct Output {
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Also a page with tables and charts, self-contained HTML.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// What a measurement says to programs and to people.
pub struct Outcome {
    pub json: Value,
    pub lines: Vec<String>,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        match self {
            Eval::Ppl(c) => c.run(),
            Eval::Kl(c) => c.run(),
            Eval::Recall(c) => c.run(),
            Eval::Choices(c) => c.run(),
            Eval::Qa(c) => c.run(),
            Eval::Summary(c) => c.run(),
            Eval::Fold(c) => c.run(),
            Eval::All(c) => c.run(),
        }
    }
}

impl Output {
    /// Load the model, measure, write the page where one is wanted, print.
    fn of(
        &self,
        title: &str,
        model: &ModelArgs,
        measure: impl FnOnce(&dsla_model::Model, &mut Page) -> Result<Outcome>,
    ) -> Result<()> {
        let loaded = model.load()?;
        let mut page = Page::new(&format!("{title}: {}", model.model));
        let command: Vec<String> = std::env::args().skip(1).collect();
        page.code(&format!("dsla {}", command.join(" ")));
        let outcome = measure(&loaded, &mut page)?;
        if let Some(file) = &self.report {
            write_atomic(file, page.html().as_bytes())?;
        }
        match self.json {
            true => out::json(&outcome.json),
            false => outcome.lines.iter().for_each(|l| println!("{l}")),
        }
        Ok(())
    }
}

/// "23 of 30 layers", the name of a plan's line in charts and tables.
fn plan_name(model: &dsla_model::Model, plan: &dsla_model::Plan) -> String {
    format!("{} of {} layers", plan.count(), model.config().num_layers)
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}
