//! `dsla distill`

use crate::args::{ModelArgs, tokens_of};
use crate::out::{self, Progress};
use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_distill::{Config, Corpus, Event, Fnv, Stage, distill, self_text};
use dsla_model::core::Projections;
use dsla_model::{Adapter, Form, Model, Tokens};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Distill {
    #[command(flatten)]
    model: ModelArgs,
    /// What to train on: UTF-8 text files, and self:TOKENS for that much text of the teacher's own; the last 3% of each
    /// are held out for ranking.
    #[arg(long, num_args = 1.., required = true)]
    text: Vec<String>,
    /// Directory of the adapter, its metrics and checkpoints.
    #[arg(long)]
    out: PathBuf,
    /// Tokens to align on; without alignment among the stages, tokens of the chain.
    #[arg(long, default_value_t = 500_000)]
    tokens: u64,
    /// Tokens of the chain; default: a quarter of --tokens beside alignment.
    #[arg(long)]
    chain_tokens: Option<u64>,
    /// native, paper, or a JSON file with a form; default: that of --adapter, or native.
    #[arg(long)]
    form: Option<String>,
    /// Tokens of the exact window, another than the form's; an adapter can go on with another window than it had.
    #[arg(long)]
    window: Option<usize>,
    /// Which stages to run, of calibrate (a closed-form start), align, rank and chain.
    #[arg(long, value_delimiter = ',', default_value = "align,rank")]
    stages: Vec<String>,
    /// Continue from the checkpoint in --out, if the run got that far.
    #[arg(long)]
    resume: bool,
    /// Peak learning rate of alignment.
    #[arg(long)]
    lr: Option<f64>,
    /// Peak learning rate of the chain.
    #[arg(long)]
    chain_lr: Option<f64>,
    /// Tokens per step of alignment.
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Tokens per step of the chain.
    #[arg(long)]
    chain_batch_tokens: Option<usize>,
    /// Sequence lengths of alignment, drawn anew each step.
    #[arg(long, value_delimiter = ',')]
    lengths: Option<Vec<usize>>,
    /// Sequence lengths of the chain, drawn anew each step.
    #[arg(long, value_delimiter = ',')]
    chain_lengths: Option<Vec<usize>>,
    /// What a step of the chain converts: random prefixes of the order, or the paper's frozen chain.
    #[arg(long, default_value = "random", value_parser = ["random", "frozen"])]
    prefixes: String,
    /// Weight of the alignment error in the chain's loss.
    #[arg(long)]
    aligned: Option<f64>,
    /// Keep less for the chain's backward pass and compute it again.
    #[arg(long)]
    recompute: bool,
    /// Train a low-rank change of the q and o projections in the chain; a rank, or `full` for whole matrices.
    #[arg(long)]
    lora: Option<String>,
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
    /// Passkey texts of 1,024 tokens that tell which layers retrieval hangs on: these come last in the order. 0: rank by
    /// divergence alone.
    #[arg(long)]
    rank_recall: Option<usize>,
    /// With --adapter: layers at the start of its order that ranking leaves where they are.
    #[arg(long, requires = "adapter")]
    rank_keep: Option<usize>,
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
    /// `start`: the adapter to go on from.
    fn config(&self, start: Option<&Adapter>) -> Result<Config> {
        let form = match (&self.form, start) {
            (Some(name), _) => form(name)?,
            (None, Some(adapter)) => adapter.form,
            (None, None) => Form::native(),
        };
        let mut c = Config::new(form, self.tokens);
        c.form.window = self.window.unwrap_or(form.window);
        c.stages = self.stages.iter().map(|s| s.parse()).collect::<Result<Vec<Stage>, _>>()?;
        if let Some(lora) = &self.lora {
            c.form.projections = match lora.as_str() {
                "full" => Projections::Full,
                rank => match rank.parse() {
                    Ok(rank) => Projections::Lora { rank },
                    Err(_) => bail!("--lora: got {rank}, want a rank or full"),
                },
            };
        }
        let beside = if c.stages.contains(&Stage::Align) { 4 } else { 1 };
        for (t, tokens, lr, batch_tokens, lengths) in [
            (&mut c.align, self.tokens, self.lr, self.batch_tokens, &self.lengths),
            (
                &mut c.chain.training,
                self.chain_tokens.unwrap_or(self.tokens / beside),
                self.chain_lr,
                self.chain_batch_tokens,
                &self.chain_lengths,
            ),
        ] {
            t.tokens = tokens;
            t.lr = lr.unwrap_or(t.lr);
            t.batch_tokens = batch_tokens.unwrap_or(t.batch_tokens);
            t.lengths = lengths.clone().unwrap_or_else(|| t.lengths.clone());
        }
        c.chain.prefixes = self.prefixes.parse()?;
        c.chain.aligned = self.aligned.unwrap_or(c.chain.aligned);
        c.chain.recompute = self.recompute;
        c.seed = self.seed;
        c.layers = self.layers.clone();
        c.rank_windows = self.rank_windows.unwrap_or(c.rank_windows);
        c.rank_context = self.rank_context.unwrap_or(c.rank_context);
        c.rank_recall = self.rank_recall.unwrap_or(c.rank_recall);
        c.rank_keep = self.rank_keep.unwrap_or(c.rank_keep);
        c.checkpoint_every = self.checkpoint_every.unwrap_or(c.checkpoint_every).max(1);
        Ok(c)
    }

    pub fn run(self) -> Result<()> {
        let model = self.model.load()?;
        // Not the shipped one, which a model known by name brings along: only what was asked for.
        let start = self.model.adapter.is_some().then(|| model.adapter()).flatten();
        let config = self.config(start)?;
        let corpus = corpus(&model, &self.text, &self.out, self.seed)?;
        let began = std::time::Instant::now();
        let adapter = run(&model, &corpus, &config, start, &self.out, self.resume)?;
        let seconds = began.elapsed().as_secs_f64();
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

/// All texts as tokens, kept as files in `out/tokens`: a run that goes on maps what the first one made.
pub fn corpus(model: &Model, texts: &[String], out: &Path, seed: u64) -> Result<Corpus> {
    let dir = out.join("tokens");
    std::fs::create_dir_all(&dir).with_context(|| format!("{}: cannot create", dir.display()))?;
    let base = model.weights().fingerprint()?;
    let mut corpus = Corpus::default();
    for text in texts {
        let (stem, identity) = match text.strip_prefix("self:") {
            Some(tokens) => {
                (format!("self-{tokens}"), format!("{tokens} {seed} {}", model.format()).into_bytes())
            }
            None => {
                let path = Path::new(text);
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (stem, std::fs::read(path).with_context(|| format!("{text}: cannot read"))?)
            }
        };
        let mut hash = Fnv::default();
        hash.extend(identity.iter().chain(base.as_bytes()).map(|&b| b as u32));
        let file = dir.join(format!("{stem}-{hash}.tokens"));
        if !file.exists() {
            Tokens::write(&file, &tokens(model, text, seed)?)?;
        }
        corpus.add(Tokens::open(&file)?);
    }
    if corpus.is_empty() {
        bail!("--text: got no tokens, want text");
    }
    Ok(corpus)
}

/// The tokens of a file, or of the teacher's own text for `self:TOKENS`.
fn tokens(model: &Model, text: &str, seed: u64) -> Result<Vec<u32>> {
    let Some(count) = text.strip_prefix("self:") else { return tokens_of(model, Path::new(text)) };
    let Some(count) = count.parse().ok().filter(|n| *n > 0) else {
        bail!("--text: got {text}, want a file or self:TOKENS with a number of tokens");
    };
    let mut progress = Progress::new("the teacher writes");
    Ok(self_text(model, count, seed, |done, of| progress.at(done, of))?)
}

/// Distil with progress on stderr.
pub fn run(
    model: &Model,
    corpus: &Corpus,
    config: &Config,
    start: Option<&Adapter>,
    out: &Path,
    resume: bool,
) -> Result<Adapter> {
    let mut progress = Progress::new("");
    let adapter = distill(model, corpus, config, start, out, resume, |event| match event {
        Event::Stage(s) => {
            progress = Progress::new(match s {
                Stage::Calibrate => "calibrate",
                Stage::Align => "align",
                Stage::Rank => "rank",
                Stage::Chain => "chain",
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
