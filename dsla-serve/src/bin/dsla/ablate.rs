//! `dsla ablate`

use crate::args::ModelArgs;
use crate::distill::corpus;
use crate::out::{self, Progress};
use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_distill::{Lesson, Outcome, Training, Variant, ablate, variants};
use dsla_model::adapter::write_atomic;
use std::path::PathBuf;

#[derive(Args)]
pub struct Ablate {
    #[command(flatten)]
    model: ModelArgs,
    /// What to train on, as for `distill`.
    #[arg(long, num_args = 1.., required = true)]
    text: Vec<String>,
    /// Directory of the table and of the texts' tokens.
    #[arg(long)]
    out: PathBuf,
    /// Groups of rows (the shipped form always runs); default: all.
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// Tokens to align on.
    #[arg(long, default_value_t = 100_000)]
    tokens: u64,
    /// Tokens of the chains behind it, at most 1,024 at a time.
    #[arg(long, default_value_t = 40_000)]
    chain_tokens: u64,
    /// Peak learning rate of the chains.
    #[arg(long, default_value_t = 2e-3)]
    chain_lr: f64,
    /// Layers to convert, in this order where a row is chained.
    #[arg(long, value_delimiter = ',', default_value = "3,8,12,17")]
    layers: Vec<usize>,
    /// Sequence lengths, drawn anew each step.
    #[arg(long, value_delimiter = ',', default_value = "1024,2048")]
    lengths: Vec<usize>,
    /// Peak learning rate.
    #[arg(long, default_value_t = 6e-3)]
    lr: f64,
    /// Data orders to run.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Held-out windows of 1,024 tokens.
    #[arg(long, default_value_t = 8)]
    windows: usize,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl Ablate {
    pub fn run(self) -> Result<()> {
        let mut rows = variants();
        if let Some(only) = &self.only {
            if let Some(unknown) = only.iter().find(|o| rows.iter().all(|v| v.group != o.as_str())) {
                let mut groups: Vec<_> = rows.iter().map(|v| v.group).collect();
                groups.dedup();
                bail!("--only: got {unknown}, want {}", groups.join(", "));
            }
            rows.retain(|v| v.group == "native" || only.iter().any(|o| v.group == o));
        }
        let model = self.model.load()?;
        let n = model.config().num_layers;
        if self.layers.is_empty() || self.layers.iter().any(|&l| l >= n) {
            bail!("--layers: got {:?}, want layers below {n}", self.layers);
        }
        let corpus = corpus(&model, &self.text, &self.out, 0)?;
        let mut lesson = Lesson {
            align: Training {
                tokens: self.tokens,
                batch_tokens: 2048,
                lengths: self.lengths.clone(),
                lr: self.lr,
            },
            chain: Training {
                tokens: self.chain_tokens,
                batch_tokens: 2048,
                lengths: vec![1024],
                lr: self.chain_lr,
            },
            seed: 0,
            windows: self.windows,
            context: 1024,
        };
        let mut all = vec![];
        for seed in 0..self.seeds.max(1) {
            let mut progress = Progress::new("ablate");
            let note = |step: u64, of: u64, loss: f64| {
                progress.note(step as usize, of as usize, &format!("seed {seed}, loss {loss:.4}"))
            };
            lesson.seed = seed;
            all.extend(ablate(&model, &corpus, &rows, &self.layers, &lesson, note)?);
        }
        let table = table(&rows, &all);
        let about = serde_json::json!({
            "layers": self.layers, "tokens": self.tokens, "chain_tokens": self.chain_tokens,
            "lengths": self.lengths, "seeds": self.seeds, "rows": all,
        });
        let file = self.out.join("ablation.json");
        write_atomic(&file, serde_json::to_string_pretty(&about)?.as_bytes())
            .with_context(|| format!("{}: cannot write", file.display()))?;
        write_atomic(&self.out.join("ablation.md"), table.as_bytes())?;
        if self.json {
            out::json(&about);
        } else {
            print!("{table}");
        }
        Ok(())
    }
}

/// Markdown: means over seeds, with half the distance between the extremes.
fn table(rows: &[Variant], all: &[Outcome]) -> String {
    let mut text = String::from(
        "| about | variant | error | KL | KL, half the layers | perplexity over the teacher's | state bytes | parameters |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for v in rows {
        let of: Vec<&Outcome> = all.iter().filter(|o| o.group == v.group && o.name == v.name).collect();
        let cell = |f: fn(&Outcome) -> f64| {
            let values: Vec<f64> = of.iter().map(|o| f(o)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            match values.len() {
                1 => format!("{mean:.4}"),
                _ => format!("{mean:.4} ± {:.4}", (high - low) / 2.0),
            }
        };
        let (bytes, parameters) = of.first().map_or((0, 0), |o| (o.state_bytes, o.parameters));
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {bytes} | {parameters} |\n",
            v.group,
            v.name,
            cell(|o| o.error),
            cell(|o| o.kl),
            cell(|o| o.kl_half),
            cell(|o| o.ppl_ratio),
        );
    }
    text
}
