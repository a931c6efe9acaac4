//! `dsla demo`: the main job in front of you. Teacher and hybrid side by side, then an engine under a burst of long
//! prompts that converts layers as it runs and goes back when the burst is over.

mod burst;
mod plot;

use crate::args::{ModelArgs, plan_at};
use crate::distill;
use crate::generate::chat_ids;
use crate::out::{self, Progress};
use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_distill::{Config, Corpus, Stage};
use dsla_model::eval::{divergence, perplexity, windows};
use dsla_model::generate::{Options, generate};
use dsla_model::sample::Params;
use dsla_model::{Adapter, Form, Model, Plan};
use std::path::{Path, PathBuf};

const QUESTION: &str = "Explain in three sentences why the sky is blue.";

#[derive(Args)]
pub struct Demo {
    /// Train the adapter's first layers in front of you instead.
    #[arg(long)]
    distill: bool,
    /// Where the plot (or the trained adapter) goes.
    #[arg(long, default_value = "target/demo")]
    out: PathBuf,
    /// Texts to measure on and to make prompts from; default: this project's own documents.
    #[arg(long, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Model to show.
    #[arg(long, default_value = "smollm2-135m-instruct")]
    model: String,
    /// Adapter; default: the shipped one.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Prompts in the burst.
    #[arg(long, default_value_t = 8)]
    prompts: usize,
    /// Tokens per prompt.
    #[arg(long, default_value_t = 4096)]
    length: usize,
    /// Threads (0: one per core).
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl Demo {
    pub fn run(self) -> Result<()> {
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("{}: cannot create", self.out.display()))?;
        let args = ModelArgs {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            device: "auto".into(),
            dtype: "bf16".into(),
            kv: "model".into(),
            threads: self.threads,
        };
        let start = std::time::Instant::now();
        let model = args.load()?;
        let c = model.config();
        println!(
            "{}: {} layers, {} of bf16 weights, loaded in {:.1} s",
            self.model,
            c.num_layers,
            out::bytes(model.bytes()),
            start.elapsed().as_secs_f64()
        );
        let text = self.own_text()?;
        let tokens = model.tokenizer()?.encode(&text, false)?;
        if self.distill {
            return self.train(&model, &tokens);
        }
        if model.adapter().is_none() {
            bail!("demo: got no adapter for {}, want --adapter DIR", self.model);
        }
        self.side_by_side(&model, &tokens)?;
        burst::run(&model, &tokens, self.prompts, self.length, &self.out)
    }

    fn own_text(&self) -> Result<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = self.text.clone();
        if files.is_empty() {
            files = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|f| root.join(f)).into();
        }
        let mut all = String::new();
        for f in files {
            all += &std::fs::read_to_string(&f)
                .with_context(|| format!("{}: cannot read as text", f.display()))?;
            all.push('\n');
        }
        Ok(all)
    }

    /// One answer and the perplexity at each rate.
    fn side_by_side(&self, model: &Model, tokens: &[u32]) -> Result<()> {
        println!("\n> {QUESTION}\n");
        let prompt = chat_ids(model, QUESTION)?;
        let options = Options {
            max_tokens: 96,
            params: Params { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 },
            ignore_eos: false,
            logprobs: None,
        };
        for rate in [0.0, 0.5] {
            let plan = plan_at(model, rate)?;
            let done = generate(model, &plan, &prompt, &options, |_| true)?;
            let who = if rate == 0.0 {
                "teacher".to_owned()
            } else {
                format!("{} of {} layers converted", plan.count(), model.config().num_layers)
            };
            println!("[{who}]\n{}\n", model.tokenizer()?.decode(&done.ids, true)?.trim());
        }
        let w = windows(tokens, 1024, Some(3))?;
        println!(
            "perplexity on this project's own documents, {} tokens:",
            w.iter().map(|w| w.len()).sum::<usize>()
        );
        let mut base = 0.0;
        for rate in [0.0, 0.25, 0.5, 0.75] {
            let plan = plan_at(model, rate)?;
            let mut progress = Progress::new("perplexity");
            let ppl = perplexity(model, &plan, &w, |a, b| progress.at(a, b))?.ppl();
            drop(progress);
            if rate == 0.0 {
                base = ppl;
            }
            println!("  {:2} layers converted: {ppl:.2} ({:.3} x teacher)", plan.count(), ppl / base);
        }
        Ok(())
    }

    /// The first layers of the shipped order, from their untrained start.
    fn train(&self, model: &Model, tokens: &[u32]) -> Result<()> {
        let order =
            model.adapter().map_or_else(|| (0..model.config().num_layers).collect(), |a| a.order.clone());
        let layers: Vec<usize> = order.into_iter().take(3).collect();
        let mut corpus = Corpus::default();
        corpus.add(tokens.to_vec());
        let mut config = Config::new(Form::native(), 20_000);
        config.stages = vec![Stage::Align];
        (config.align.lengths, config.align.batch_tokens) = (vec![256], 512);
        config.layers = Some(layers.clone());
        let plan = Plan::of_layers(model.config().num_layers, &layers);
        let w = windows(&tokens[tokens.len().saturating_sub(1024)..], 1024, Some(1))?;
        let start = model.clone().with_adapter_value(Adapter::init(model, &config.form)?)?;
        let before = divergence(&start, std::slice::from_ref(&plan), &w, |_, _| {})?.remove(0);
        println!("training layers {layers:?} to stand in for the teacher's attention");
        let dir = self.out.join("adapter");
        let adapter = distill::run(model, &corpus, &config, None, &dir, false)?;
        let after =
            divergence(&model.clone().with_adapter_value(adapter)?, &[plan], &w, |_, _| {})?.remove(0);
        println!(
            "divergence from the teacher with these {} layers converted (nats per token):",
            layers.len()
        );
        println!("  untrained {:.4}, arg max agrees {:.1}%", before.kl, 100.0 * before.top1_agreement);
        println!("  trained   {:.4}, arg max agrees {:.1}%", after.kl, 100.0 * after.top1_agreement);
        println!("adapter, metrics and report: {}", dir.display());
        Ok(())
    }
}
