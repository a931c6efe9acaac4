//! The run: stages in order, events out, checkpoints and metrics on disk.

use crate::align::{Inputs, Projection, layer_loss, teacher_pass};
use crate::checkpoint::{self, Place};
use crate::optimizer::{self, Moments};
use crate::{Config, Corpus, Error, Result, Stage, calibrate, cosine, rank, report};
use dsla_core::attention::DslaAttention;
use dsla_core::{DType, Device, DslaParams, Tensor};
use dsla_kernels::bf16;
use dsla_kernels::ops::adamw::AdamW;
use dsla_model::adapter::write_atomic;
use dsla_model::{Adapter, Model};
use std::path::Path;
use std::time::Instant;

/// What a run tells as it goes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A stage begins.
    Stage(Stage),
    /// A stage that counts something other than training steps is under way.
    Progress {
        /// The stage.
        stage: Stage,
        /// Done so far.
        done: usize,
        /// In all.
        of: usize,
    },
    /// One step of alignment.
    Step {
        /// Steps done.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Tokens of this run's data seen.
        tokens: u64,
        /// Tokens per second over this step.
        tokens_per_second: f64,
        /// Normalised error, mean over layers.
        loss: f64,
        /// Per trained layer.
        losses: Vec<f64>,
        /// Learning rate.
        lr: f64,
        /// Seconds left at this pace.
        seconds_left: f64,
    },
    /// Masters, moments and place were written.
    Checkpoint {
        /// After this many steps.
        step: u64,
    },
}

/// One line per step of alignment in this file of the run's directory.
pub const METRICS: &str = "metrics.jsonl";

/// Distil `model` on `corpus` into `out`: the adapter, its metrics and checkpoints. With `resume`, continue from the
/// checkpoint in `out`, if the run got that far.
pub fn distill(
    model: &Model,
    corpus: &Corpus,
    config: &Config,
    out: &Path,
    resume: bool,
    mut on: impl FnMut(Event),
) -> Result<Adapter> {
    let n = model.config().num_layers;
    config.check(n, model.table().positions())?;
    let mut adapter = Adapter::init(model, &config.form)?;
    let trained = config.trained(n);
    for (l, layer) in adapter.layers.iter_mut().enumerate() {
        if !trained.contains(&l) {
            *layer = None;
        }
    }
    adapter.order.retain(|l| trained.contains(l));
    std::fs::create_dir_all(out).map_err(|e| file_error(out, &e))?;
    let mut moments: Vec<Option<Moments>> = adapter
        .layers
        .iter()
        .map(|l| l.as_ref().map(|l| Moments::new(&l.params)).transpose())
        .collect::<Result<_>>()?;
    let mut place = Place {
        config: config.clone(),
        base: model.weights().fingerprint()?,
        data: corpus.fingerprint(),
        stage: Stage::Calibrate,
        step: 0,
    };
    let path = out.join(checkpoint::FILE);
    let mut metrics = String::new();
    // Killed before its first checkpoint, a run has nothing to continue: from the start is the same run.
    if resume && path.exists() {
        place = checkpoint::load(&path, &place, &mut adapter.layers, &mut moments)?;
        metrics = kept_metrics(&out.join(METRICS), place.step)?;
    }
    let seed = config.seed;
    let longest = config.lengths.iter().copied().max().unwrap_or(0);
    if config.stages.contains(&Stage::Calibrate) && place.stage == Stage::Calibrate {
        on(Event::Stage(Stage::Calibrate));
        let batch = corpus.batch(seed ^ 1, u64::MAX, 1, &[longest.min(1024)])?;
        calibrate::calibrate(model, batch[0], &mut adapter.layers, |l| {
            on(Event::Progress { stage: Stage::Calibrate, done: l + 1, of: n })
        })?;
    }
    if place.stage == Stage::Calibrate {
        place.stage = Stage::Align;
        checkpoint::save(&path, &place, &adapter.layers, &moments)?;
    }
    if config.stages.contains(&Stage::Align) && place.stage == Stage::Align {
        on(Event::Stage(Stage::Align));
        align(model, corpus, config, out, &mut adapter, &mut moments, &mut place, &mut metrics, &mut on)?;
    }
    place.stage = Stage::Rank;
    checkpoint::save(&path, &place, &adapter.layers, &moments)?;
    // What ships is bf16: rank and measure exactly that.
    round_params(&mut adapter);
    adapter.training = serde_json::json!({
        "config": config, "tokens": tokens_at(corpus, config, steps(config))?, "steps": steps(config), "model_dtype": model.format().to_string(),
    });
    if config.stages.contains(&Stage::Rank) {
        on(Event::Stage(Stage::Rank));
        let windows = corpus.held_out(config.rank_context, config.rank_windows)?;
        let hybrid = model.clone().with_adapter_value(adapter.clone())?;
        let progress = |done, of| on(Event::Progress { stage: Stage::Rank, done, of });
        let (order, _) = rank::greedy(&hybrid, &trained, &windows, progress)?;
        let windows = corpus.held_out(config.rank_context, 2 * config.rank_windows)?;
        let progress = |done, of| on(Event::Progress { stage: Stage::Rank, done, of });
        adapter.quality = rank::quality(&hybrid, &order, &windows, progress)?;
        adapter.order = order;
    }
    adapter.save(out, DType::BF16)?;
    write_atomic(&out.join(report::FILE), report::html(&metrics, &adapter).as_bytes())?;
    Ok(adapter)
}

fn steps(config: &Config) -> u64 {
    config.tokens.div_ceil(config.batch_tokens as u64).max(1)
}

/// Tokens seen by the first `steps` steps: sequences longer than a step's budget count in full.
fn tokens_at(corpus: &Corpus, config: &Config, steps: u64) -> Result<u64> {
    if !config.stages.contains(&Stage::Align) {
        return Ok(0);
    }
    let mut sum = 0;
    for step in 0..steps {
        sum += corpus
            .batch(config.seed, step, config.batch_tokens, &config.lengths)?
            .iter()
            .map(|s| s.len() as u64)
            .sum::<u64>();
    }
    Ok(sum)
}

fn align(
    model: &Model,
    corpus: &Corpus,
    config: &Config,
    out: &Path,
    adapter: &mut Adapter,
    moments: &mut [Option<Moments>],
    place: &mut Place,
    metrics: &mut String,
    on: &mut impl FnMut(Event),
) -> Result<()> {
    let trained = config.trained(model.config().num_layers);
    let last = trained.iter().copied().max().unwrap_or(0);
    let projections = trained
        .iter()
        .map(|&l| Ok((l, Projection::of(model, l)?)))
        .collect::<Result<std::collections::BTreeMap<_, _>>>()?;
    let steps = steps(config);
    let begun = Instant::now();
    let first = place.step;
    let mut tokens = tokens_at(corpus, config, first)?;
    let path = out.join(checkpoint::FILE);
    while place.step < steps {
        let start = Instant::now();
        let batch = corpus.batch(config.seed, place.step, config.batch_tokens, &config.lengths)?;
        let lr = cosine(config.lr, config.warmup, place.step as f64 / steps as f64);
        let options = AdamW {
            lr,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-10,
            weight_decay: config.weight_decay,
            step: place.step + 1,
        };
        let mut losses = vec![];
        teacher_pass(model, &batch, last, |l, inputs| {
            let (Some(layer), Some(moments), Some(projection)) =
                (&mut adapter.layers[l], &mut moments[l], projections.get(&l))
            else {
                return Ok(());
            };
            let (loss, mut grads) = gradients(model, layer, projection, inputs)?;
            if !loss.is_finite() {
                let checkpoint = if path.exists() { path.display().to_string() } else { "none".into() };
                return Err(Error::Diverged { step: place.step, layer: l, loss, checkpoint });
            }
            optimizer::step(&mut layer.params, &mut grads, moments, config.clip, &options)?;
            losses.push(loss);
            Ok(())
        })?;
        let seen: usize = batch.iter().map(|s| s.len()).sum();
        tokens += seen as u64;
        place.step += 1;
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let line = serde_json::json!({"step": place.step, "tokens": tokens, "length": batch[0].len(), "lr": lr, "loss": loss, "losses": losses});
        metrics.push_str(&line.to_string());
        metrics.push('\n');
        on(Event::Step {
            step: place.step,
            steps,
            tokens,
            tokens_per_second: seen as f64 / start.elapsed().as_secs_f64(),
            loss,
            losses,
            lr,
            seconds_left: begun.elapsed().as_secs_f64() / (place.step - first) as f64
                * (steps - place.step) as f64,
        });
        if place.step.is_multiple_of(config.checkpoint_every) || place.step == steps {
            write_atomic(&out.join(METRICS), metrics.as_bytes())?;
            checkpoint::save(&path, place, &adapter.layers, moments)?;
            on(Event::Checkpoint { step: place.step });
        }
    }
    Ok(())
}

/// One step of alignment without its update: loss (normalised error, no unit) and gradients (on the host) of each layer
/// of `adapter` on a batch of sequences of one length; None for layers it does not have.
///
/// Errors: what the model or a kernel refuses.
pub fn align_gradients(
    model: &Model,
    adapter: &Adapter,
    batch: &[&[u32]],
) -> Result<Vec<Option<(f64, DslaParams)>>> {
    let mut out: Vec<_> = adapter.layers.iter().map(|_| None).collect();
    let Some(last) = adapter.layers.iter().rposition(Option::is_some) else { return Ok(out) };
    teacher_pass(model, batch, last, |l, inputs| {
        if let Some(layer) = &adapter.layers[l] {
            out[l] = Some(gradients(model, layer, &Projection::of(model, l)?, inputs)?);
        }
        Ok(())
    })?;
    Ok(out)
}

/// Loss and gradients of one layer, computed on the model's device; the masters and their gradients are on the host.
fn gradients(
    model: &Model,
    layer: &DslaAttention,
    projection: &Projection,
    inputs: Vec<Inputs>,
) -> Result<(f64, DslaParams)> {
    if model.device() == Device::Cpu {
        let mut grads = layer.params.zeros_like()?;
        let loss = layer_loss(layer, projection, inputs, &mut grads)?;
        return Ok((loss, grads));
    }
    let student = layer.to_device(model.device())?;
    let mut grads = student.params.zeros_like()?;
    let loss = layer_loss(&student, projection, inputs, &mut grads)?;
    Ok((loss, grads.to_device(Device::Cpu)?))
}

/// Metrics up to the checkpoint: later lines belong to steps that will be run again.
fn kept_metrics(path: &Path, step: u64) -> Result<String> {
    if step == 0 {
        return Ok(String::new());
    }
    let text = std::fs::read_to_string(path).map_err(|e| file_error(path, &e))?;
    Ok(text.lines().take(step as usize).flat_map(|l| [l, "\n"]).collect())
}

fn round_params(adapter: &mut Adapter) {
    for layer in adapter.layers.iter_mut().flatten() {
        for (_, t) in layer.params.tensors_mut() {
            *t = Tensor::from_f32(t.shape(), t.f32().iter().map(|&v| bf16::from_f32(v).to_f32()).collect());
        }
    }
}

fn file_error(path: &Path, e: &std::io::Error) -> Error {
    Error::Checkpoint {
        file: path.display().to_string(),
        at: "file".into(),
        got: e.to_string(),
        want: "to read and write there".into(),
    }
}
