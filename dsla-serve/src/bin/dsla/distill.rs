//! `dsla distill`

use crate::args::{ModelArgs, tokens_of};
use crate::out::{self, Progress};
use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_distill::{Config, Corpus, Event, Stage, distill};
use dsla_model::{Form, Model};
use std::path::PathBuf;

#[derive(Args)]
pub struct Distill {
    #[command(flatten)]
    model: ModelArgs,
    /// UTF-8 text files to train on; the last 3% of each are held out for ranking.
    #[arg(long, num_args = 1.., required = true)]
    text: Vec<PathBuf>,
    /// Directory of the adapter, its metrics and checkpoints.
    #[arg(long)]
    out: PathBuf,
    /// Tokens to align on.
    #[arg(long, default_value_t = 500_000)]
    tokens: u64,
    /// native, paper, or a JSON file with a form.
    #[arg(long, default_value = "native")]
    form: String,
    /// Which stages to run.
    #[arg(long, value_delimiter = ',', default_value = "calibrate,align,rank")]
    stages: Vec<String>,
    /// Continue from the checkpoint in --out, if the run got that far.
    #[arg(long)]
    resume: bool,
    /// Peak learning rate.
    #[arg(long)]
    lr: Option<f64>,
    /// Tokens per step.
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Sequence lengths, drawn anew each step.
    #[arg(long, value_delimiter = ',')]
    lengths: Option<Vec<usize>>,
    /// Of data order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Train just these layers.
    #[arg(long, value_delimiter = ',')]
    layers: Option<Vec<usize>>,
    /// Held-out windows for ranking.
    #[arg(long)]
    rank_windows: Option<usize>,
    /// Tokens per ranking window.
    #[arg(long)]
    rank_context: Option<usize>,
    /// Steps between checkpoints.
    #[arg(long)]
    checkpoint_every: Option<u64>,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// A form by name or from a JSON file.
pub fn form(name: &str) -> Result<Form> {
    match name {
        "native" => Ok(Form::native()),
        "paper" => Ok(Form::paper()),
        file => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("--form: got {file}, want native, paper or a JSON file"))?;
            let form: Form = serde_json::from_str(&text).with_context(|| format!("{file}: not a form"))?;
            form.check().map_err(|e| anyhow::anyhow!("{file}: {e}"))?;
            Ok(form)
        }
    }
}

impl Distill {
    fn config(&self) -> Result<Config> {
        let mut c = Config::new(form(&self.form)?, self.tokens);
        c.stages = self.stages.iter().map(|s| s.parse()).collect::<Result<Vec<Stage>, _>>()?;
        c.lr = self.lr.unwrap_or(c.lr);
        c.batch_tokens = self.batch_tokens.unwrap_or(c.batch_tokens);
        c.lengths = self.lengths.clone().unwrap_or(c.lengths);
        c.seed = self.seed;
        c.layers = self.layers.clone();
        c.rank_windows = self.rank_windows.unwrap_or(c.rank_windows);
        c.rank_context = self.rank_context.unwrap_or(c.rank_context);
        c.checkpoint_every = self.checkpoint_every.unwrap_or(c.checkpoint_every).max(1);
        Ok(c)
    }

    pub fn run(self) -> Result<()> {
        let config = self.config()?;
        let model = self.model.load()?;
        let corpus = corpus(&model, &self.text)?;
        let start = std::time::Instant::now();
        let adapter = run(&model, &corpus, &config, &self.out, self.resume)?;
        let seconds = start.elapsed().as_secs_f64();
        if self.json {
            out::json(&serde_json::json!({
                "out": self.out, "order": adapter.order, "quality": adapter.quality, "training": adapter.training, "seconds": seconds,
            }));
        } else {
            println!("{} after {seconds:.0} s, order {:?}", self.out.display(), adapter.order);
            for q in &adapter.quality {
                println!("  {:2} layers: kl {:.4}, ppl ratio {:.4}", q.converted, q.kl, q.ppl_ratio);
            }
        }
        Ok(())
    }
}

/// All texts as tokens.
pub fn corpus(model: &Model, files: &[PathBuf]) -> Result<Corpus> {
    let mut corpus = Corpus::default();
    for file in files {
        corpus.add(tokens_of(model, file)?);
    }
    if corpus.is_empty() {
        bail!("--text: got no tokens, want text");
    }
    Ok(corpus)
}

/// Distil with progress on stderr.
pub fn run(
    model: &Model,
    corpus: &Corpus,
    config: &Config,
    out: &std::path::Path,
    resume: bool,
) -> Result<dsla_model::Adapter> {
    let mut progress = Progress::new("");
    let adapter = distill(model, corpus, config, out, resume, |event| match event {
        Event::Stage(s) => {
            progress = Progress::new(match s {
                Stage::Calibrate => "calibrate",
                Stage::Align => "align",
                _ => "rank",
            });
        }
        Event::Progress { done, of, .. } => progress.at(done, of),
        Event::Step { step, steps, tokens, tokens_per_second, loss, lr, seconds_left, .. } => {
            let note = format!(
                "{tokens} tokens, {tokens_per_second:.0} tokens/s, loss {loss:.4}, lr {lr:.1e}, {:.0} s left",
                seconds_left
            );
            progress.note(step as usize, steps as usize, &note);
        }
        _ => {}
    })?;
    Ok(adapter)
}
