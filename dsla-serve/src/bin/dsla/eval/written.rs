//! `dsla eval qa` and `dsla eval summary`

use super::{Outcome, Output, percent, plan_name};
use crate::args::{ModelArgs, RateArgs};
use crate::out::Progress;
use anyhow::Result;
use clap::Args;
use dsla_model::eval::{Prompting, qa, read_asked, read_documents, summary};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct Qa {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    /// JSON Lines: rows {"context", "question", "answers"}; SQuAD as the Hugging Face hub has it will do.
    #[arg(long)]
    data: PathBuf,
    /// Put the question through the model's chat template.
    #[arg(long)]
    chat: bool,
    /// New tokens at most.
    #[arg(long, default_value_t = 32)]
    max_tokens: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct Summary {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    /// JSON Lines: rows {"document", "summary"}.
    #[arg(long)]
    data: PathBuf,
    /// Put the document through the model's chat template.
    #[arg(long)]
    chat: bool,
    /// New tokens at most.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    #[command(flatten)]
    output: Output,
}

impl Qa {
    pub fn run(self) -> Result<()> {
        let questions = read_asked(&self.data)?;
        let prompting = Prompting { chat: self.chat, max_tokens: self.max_tokens };
        self.output.of("Answers to questions", &self.model, |model, page| {
            let plan = self.rate.plan(model)?;
            let progress = Progress::new("questions");
            let s = qa(model, &plan, &questions, &prompting, progress.bar())?;
            let row =
                vec![plan_name(model, &plan), percent(s.f1), percent(s.exact_match), s.count.to_string()];
            page.table(&["converted", "F1", "exact match", "questions"], &[row]);
            let (f1, exact) = (percent(s.f1), percent(s.exact_match));
            Ok(Outcome {
                json: json!({
                    "f1": s.f1, "exact_match": s.exact_match, "count": s.count, "rate": plan.rate(),
                    "converted": plan.count(),
                }),
                lines: vec![format!(
                    "F1 {f1}, exact match {exact} of {} questions, rate {:.2}",
                    s.count,
                    plan.rate()
                )],
            })
        })
    }
}

impl Summary {
    pub fn run(self) -> Result<()> {
        let documents = read_documents(&self.data)?;
        let prompting = Prompting { chat: self.chat, max_tokens: self.max_tokens };
        self.output.of("Summaries", &self.model, |model, page| {
            let plan = self.rate.plan(model)?;
            let progress = Progress::new("documents");
            let r = summary(model, &plan, &documents, &prompting, progress.bar())?;
            let n = documents.len();
            let numbers = [r.rouge1, r.rouge2, r.rouge_l].map(|v| format!("{v:.4}"));
            let row = [&[plan_name(model, &plan)][..], &numbers, &[n.to_string()]].concat();
            page.table(&["converted", "ROUGE-1", "ROUGE-2", "ROUGE-L", "documents"], &[row]);
            Ok(Outcome {
                json: json!({
                    "rouge1": r.rouge1, "rouge2": r.rouge2, "rougeL": r.rouge_l, "count": n, "rate": plan.rate(),
                    "converted": plan.count(),
                }),
                lines: vec![format!(
                    "ROUGE-1 {:.4}, ROUGE-2 {:.4}, ROUGE-L {:.4} of {n} documents, rate {:.2}",
                    r.rouge1,
                    r.rouge2,
                    r.rouge_l,
                    plan.rate()
                )],
            })
        })
    }
}
