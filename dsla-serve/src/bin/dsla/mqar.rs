//! `dsla mqar`

use crate::out::{self, Progress};
use anyhow::{Context, Result, bail};
use clap::Args;
use dsla_distill::mqar::page::{self, TaskResult};
use dsla_distill::mqar::{Conversion, accuracy, recall, row, variants};
use dsla_distill::pretrain::tasks::{Task, Vocabulary};
use dsla_distill::pretrain::{Pretraining, Sizes, pretrain};
use dsla_model::adapter::write_atomic;
use dsla_model::core::kernels::par;
use dsla_model::{DType, Device, Model, Plan};
use std::path::PathBuf;

/// Train a small Llama on recall tasks, convert it into several forms, and ask each at every distance.
#[derive(Args)]
pub struct Mqar {
    /// Directory of mqar.json, mqar.html and the trained models.
    #[arg(long)]
    out: PathBuf,
    /// Models per task.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Steps of training a model.
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// mqar: every key is bound once; forgetting: twice, and a question says which value it wants.
    #[arg(long, value_delimiter = ',', default_value = "mqar,forgetting")]
    tasks: Vec<Task>,
    /// Windows of the converted layers.
    #[arg(long, value_delimiter = ',', default_value = "0,16")]
    windows: Vec<usize>,
    /// Longest sequence of training, and the length of conversion and test.
    #[arg(long, default_value_t = 256)]
    length: usize,
    /// Keys in a sequence of that length.
    #[arg(long, default_value_t = 16)]
    pairs: usize,
    /// Different keys, and as many different values.
    #[arg(long, default_value_t = 16)]
    vocabulary: usize,
    /// Bindings and questions of two tokens, as in the literature, instead of one: much slower to learn.
    #[arg(long)]
    two_tokens: bool,
    /// Layers of the model.
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// Its width; two heads of 32 whatever it is.
    #[arg(long, default_value_t = 64)]
    hidden: usize,
    /// Peak learning rate of training.
    #[arg(long, default_value_t = 5e-3)]
    lr: f64,
    /// Tokens per step, of training and of conversion.
    #[arg(long, default_value_t = 2048)]
    batch_tokens: usize,
    /// Steps of alignment.
    #[arg(long, default_value_t = 100)]
    align_steps: u64,
    /// Steps of the chain.
    #[arg(long, default_value_t = 300)]
    chain_steps: u64,
    /// Peak learning rate of both.
    #[arg(long, default_value_t = 1e-2)]
    convert_lr: f64,
    /// Sequences under test.
    #[arg(long, default_value_t = 128)]
    count: usize,
    /// Take models that an earlier run left in --out instead of training them again.
    #[arg(long)]
    reuse: bool,
    /// Threads (0: one per core). Layers this small gain little from a second.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// One JSON object on stdout.
    #[arg(long)]
    json: bool,
}

impl Mqar {
    pub fn run(self) -> Result<()> {
        par::set_threads(self.threads);
        if self.seeds == 0 || self.tasks.is_empty() {
            bail!("--seeds and --tasks: got {} and {}, want one at least", self.seeds, self.tasks.len());
        }
        if self.length < 64 || !self.length.is_power_of_two() {
            bail!("--length: got {}, want a power of two, 64 or more", self.length);
        }
        let mut results = vec![];
        for &task in &self.tasks {
            results.push(self.task(task)?);
        }
        let about = format!(
            "{} layers, width {}, {} keys in {} tokens; {} steps of training, {} of alignment, {} of the chain; {} sequences under test.",
            self.layers,
            self.hidden,
            self.pairs,
            self.length,
            self.steps,
            self.align_steps,
            self.chain_steps,
            self.count
        );
        let json = serde_json::json!({"about": about, "conversion": self.conversion(), "tasks": results});
        let write = |name: &str, bytes: &[u8]| {
            let path = self.out.join(name);
            write_atomic(&path, bytes).with_context(|| format!("{}: cannot write", path.display()))
        };
        write("mqar.json", serde_json::to_string_pretty(&json)?.as_bytes())?;
        write("mqar.html", page::html(&about, &results).as_bytes())?;
        if self.json {
            out::json(&json);
            return Ok(());
        }
        for r in &results {
            println!("{:?}, {} tokens, right answers in %\n{}", r.task, r.length, page::table(r));
        }
        Ok(())
    }

    fn conversion(&self) -> Conversion {
        Conversion {
            align_steps: self.align_steps,
            align_lr: self.convert_lr,
            chain_steps: self.chain_steps,
            chain_lr: self.convert_lr,
        }
    }

    fn settings(&self, task: Task, seed: u64) -> (Sizes, Pretraining) {
        let vocab = Vocabulary { keys: self.vocabulary, values: self.vocabulary, fused: !self.two_tokens };
        let sizes = Sizes {
            layers: self.layers,
            hidden: self.hidden,
            intermediate: 2 * self.hidden,
            heads: 2,
            kv_heads: 2,
            head_dim: 32,
            vocab: vocab.size(),
            positions: self.length,
            rope_theta: 10_000.0,
        };
        let lengths =
            std::iter::successors(Some(32), |l| Some(l * 2)).take_while(|l| *l <= self.length).collect();
        let training = Pretraining {
            task,
            vocab,
            pairs: self.pairs,
            lengths,
            batch_tokens: self.batch_tokens,
            steps: self.steps,
            lr: self.lr,
            seed,
        };
        (sizes, training)
    }

    fn task(&self, task: Task) -> Result<TaskResult> {
        let mut result = TaskResult { task, length: self.length, teachers: vec![], rows: vec![] };
        for seed in 0..self.seeds {
            let (sizes, training) = self.settings(task, seed);
            let dir = self.out.join(format!("{task:?}-{seed}").to_lowercase());
            if !(self.reuse && dir.join("config.json").is_file()) {
                let mut progress = Progress::new("training");
                let weights = pretrain(&sizes, &training, |step, length, loss| {
                    let note = format!("{task:?} {seed}, {length} tokens: {loss:.3} nats");
                    progress.note(step as usize, self.steps as usize, &note)
                })?;
                weights.save(&sizes, &dir)?;
            }
            let model = Model::load(&dir, &Device::Cpu, DType::F32)?;
            // Sequences that neither training nor conversion saw.
            let test = Pretraining { batch_tokens: self.length * self.count.max(1), ..training.clone() };
            let examples = test.batch(u64::MAX ^ seed, 0, self.length)?;
            let teacher = recall(&model, &Plan::teacher(self.layers), &examples)?;
            eprintln!("{task:?} {seed}: the trained model answers {:.1}%", 100.0 * accuracy(&teacher, None));
            result.teachers.push(teacher);
            for &window in &self.windows {
                for variant in variants(window) {
                    let mut progress = Progress::new("converting");
                    let found =
                        row(&model, &training, &variant, &self.conversion(), &examples, |step, of, loss| {
                            let note =
                                format!("{task:?} {seed}, window {window}, {}: {loss:.4}", variant.name);
                            progress.note(step as usize, of as usize, &note)
                        })?;
                    drop(progress);
                    let whole = 100.0 * accuracy(&found.whole, None);
                    eprintln!("{task:?} {seed}, window {window}, {}: {whole:.1}%", variant.name);
                    result.rows.push(found);
                }
            }
        }
        Ok(result)
    }
}
