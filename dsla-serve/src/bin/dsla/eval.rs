//! `dsla eval`

use crate::args::{ModelArgs, RateArgs, tokens_of};
use crate::out::{self, Progress};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use dsla_model::eval::{divergence, passkey, perplexity, windows};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum Eval {
    /// Perplexity on a text file.
    Ppl(OnText),
    /// Divergence of the hybrid from its teacher on a text file.
    Kl(OnText),
    /// Synthetic recall by generation.
    Recall(Recall),
}

/// What is measured on a text takes the same options.
#[derive(Args)]
pub struct OnText {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    #[command(flatten)]
    text: Text,
}

#[derive(Args)]
struct Text {
    /// UTF-8 text.
    #[arg(long)]
    text: PathBuf,
    /// Tokens per window.
    #[arg(long, default_value_t = 2048)]
    context: usize,
    /// At most this many windows.
    #[arg(long)]
    windows: Option<usize>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Recall {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rate: RateArgs,
    /// passkey
    #[arg(long, default_value = "passkey", value_parser = ["passkey"])]
    task: String,
    /// Prompt tokens.
    #[arg(long, default_value_t = 1024)]
    length: usize,
    /// Cases.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Of the numbers and depths.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl Text {
    /// Windows must fit the model's positions.
    fn check(&self, model: &dsla_model::Model) -> Result<()> {
        let room = model.table().positions();
        if self.context > room {
            bail!("--context: got {}, want at most the model's {room}", self.context);
        }
        Ok(())
    }
}

impl Eval {
    pub fn run(self) -> Result<()> {
        match self {
            Eval::Ppl(c) => c.perplexity(),
            Eval::Kl(c) => c.divergence(),
            Eval::Recall(c) => c.run(),
        }
    }
}

impl OnText {
    fn perplexity(self) -> Result<()> {
        let model = self.model.load()?;
        self.text.check(&model)?;
        let plan = self.rate.plan(&model)?;
        let tokens = tokens_of(&model, &self.text.text)?;
        let mut progress = Progress::new("windows");
        let p =
            perplexity(&model, &plan, &windows(&tokens, self.text.context, self.text.windows)?, |a, b| {
                progress.at(a, b)
            })?;
        drop(progress);
        if self.text.json {
            out::json(
                &serde_json::json!({"tokens": p.tokens, "nll": p.nll, "ppl": p.ppl(), "rate": plan.rate()}),
            );
        } else {
            println!(
                "ppl {:.4} (nll {:.5} over {} tokens, rate {:.2})",
                p.ppl(),
                p.nll,
                p.tokens,
                plan.rate()
            );
        }
        Ok(())
    }

    fn divergence(self) -> Result<()> {
        let model = self.model.load()?;
        self.text.check(&model)?;
        let plan = self.rate.plan(&model)?;
        let tokens = tokens_of(&model, &self.text.text)?;
        let mut progress = Progress::new("windows");
        let w = windows(&tokens, self.text.context, self.text.windows)?;
        let d = divergence(&model, std::slice::from_ref(&plan), &w, |a, b| progress.at(a, b))?[0];
        drop(progress);
        if self.text.json {
            out::json(&serde_json::json!({
                "tokens": d.tokens, "kl": d.kl, "top1_agreement": d.top1_agreement,
                "ppl": d.ppl, "teacher_ppl": d.teacher_ppl, "rate": plan.rate(),
            }));
        } else {
            println!(
                "kl {:.5} nats/token, arg max agrees {:.2}%, ppl {:.4} against the teacher's {:.4} (ratio {:.4}), rate {:.2}",
                d.kl,
                100.0 * d.top1_agreement,
                d.ppl,
                d.teacher_ppl,
                d.ppl / d.teacher_ppl,
                plan.rate()
            );
        }
        Ok(())
    }
}

impl Recall {
    fn run(self) -> Result<()> {
        let model = self.model.load()?;
        let plan = self.rate.plan(&model)?;
        let mut progress = Progress::new("cases");
        let r = passkey(&model, &plan, self.length, self.count, self.seed, |a, b| progress.at(a, b))?;
        drop(progress);
        let by_depth: Vec<_> = r
            .by_depth
            .iter()
            .map(|(depth, count, accuracy)| serde_json::json!({"depth": depth, "count": count, "accuracy": accuracy}))
            .collect();
        if self.json {
            out::json(&serde_json::json!({
                "task": self.task, "accuracy": r.accuracy, "count": r.count, "by_depth": by_depth, "rate": plan.rate(),
            }));
        } else {
            println!(
                "{} at {} tokens: {:.0}% of {} (rate {:.2})",
                self.task,
                self.length,
                100.0 * r.accuracy,
                r.count,
                plan.rate()
            );
            for (depth, count, accuracy) in r.by_depth {
                println!("  depth {depth:.1}: {:.0}% of {count}", 100.0 * accuracy);
            }
        }
        Ok(())
    }
}
