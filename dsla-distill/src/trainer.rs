//! The run: stages in order, events out, checkpoints and metrics on disk.

use crate::align::Layers;
use crate::chain::{self, Sample};
use crate::session::Session;
use crate::transposed::Transposed;
use crate::{Config, Corpus, Result, Stage, calibrate, rank, report};
use dsla_core::attention::DslaAttention;
use dsla_core::{DType, DslaParams, Tensor};
use dsla_kernels::bf16;
use dsla_model::adapter::write_atomic;
use dsla_model::{Adapter, Model};
use std::path::Path;

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
    /// One step of training.
    Step {
        /// Alignment or the chain.
        stage: Stage,
        /// Steps done.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Tokens trained on so far, in all stages.
        tokens: u64,
        /// Tokens per second over this step.
        tokens_per_second: f64,
        /// Alignment: normalised error, mean over layers. The chain: KL from the teacher, nats per token.
        loss: f64,
        /// Alignment: per trained layer.
        losses: Vec<f64>,
        /// Learning rate.
        lr: f64,
        /// Seconds left of the stage at this pace.
        seconds_left: f64,
    },
    /// Masters, moments and place were written.
    Checkpoint {
        /// After this many steps of the stage.
        step: u64,
    },
}

/// One line per step of training in this file of the run's directory.
pub const METRICS: &str = "metrics.jsonl";

/// Distil `model` on `corpus` into `out`: the adapter, its metrics and checkpoints. `start`: go on from the parameters
/// and the order of an adapter of the same form (projections, window and sinks apart). With `resume`, continue from the
/// checkpoint in `out`, if the run got that far.
///
/// Errors: settings, a form, texts or a checkpoint that do not fit; a loss that is no number any more (the last good
/// checkpoint stays); what the model or a kernel refuses; a file that cannot be written.
pub fn distill(
    model: &Model,
    corpus: &Corpus,
    config: &Config,
    start: Option<&Adapter>,
    out: &Path,
    resume: bool,
    mut on: impl FnMut(Event),
) -> Result<Adapter> {
    let n = model.config().num_layers;
    config.check(n, model.table().positions())?;
    let mut s = Session::open(model, corpus, config, start, out, resume)?;
    let has = |stage| config.stages.contains(&stage);
    if s.place.stage == Stage::Calibrate {
        if has(Stage::Calibrate) {
            on(Event::Stage(Stage::Calibrate));
            let longest = config.align.lengths.iter().copied().max().unwrap_or(0);
            let batch = corpus.batch(config.seed ^ 1, u64::MAX, 1, &[longest.min(1024)])?;
            calibrate::calibrate(model, batch[0], &mut s.adapter.layers, |l| {
                on(Event::Progress { stage: Stage::Calibrate, done: l + 1, of: n })
            })?;
        }
        s.enter(Stage::Align)?;
    }
    if s.place.stage == Stage::Align {
        if has(Stage::Align) {
            on(Event::Stage(Stage::Align));
            s.align(&mut on)?;
        }
        s.enter(Stage::Rank)?;
    }
    if s.place.stage == Stage::Rank {
        if has(Stage::Rank) {
            on(Event::Stage(Stage::Rank));
            let windows = corpus.held_out(config.rank_context, config.rank_windows)?;
            let hybrid = model.clone().with_adapter_value(shipped(&s.adapter))?;
            let progress = |done, of| on(Event::Progress { stage: Stage::Rank, done, of });
            let keep = &s.adapter.order[..config.rank_keep.min(s.adapter.order.len())];
            let (candidates, recall) = (&config.trained(n), config.rank_recall);
            let ranking = rank::Ranking { candidates, keep, windows: &windows, recall };
            s.adapter.order = rank::greedy(&hybrid, &ranking, progress)?.0;
        }
        s.enter(Stage::Chain)?;
    }
    if has(Stage::Chain) {
        on(Event::Stage(Stage::Chain));
        s.chain(&mut on)?;
    }
    let mut adapter = shipped(&s.adapter);
    adapter.training = serde_json::json!({
        "config": config, "tokens": s.place.tokens, "model_dtype": model.format().to_string(),
        "after": start.map(|a| &a.training),
    });
    if has(Stage::Rank) || has(Stage::Chain) {
        on(Event::Stage(Stage::Rank));
        let windows = corpus.held_out(config.rank_context, 2 * config.rank_windows)?;
        let hybrid = model.clone().with_adapter_value(adapter.clone())?;
        let progress = |done, of| on(Event::Progress { stage: Stage::Rank, done, of });
        adapter.quality = rank::quality(&hybrid, &adapter.order, &windows, progress)?;
    }
    adapter.save(out, DType::BF16)?;
    write_atomic(&out.join(report::FILE), report::html(&s.metrics, &adapter).as_bytes())?;
    Ok(adapter)
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
    Layers::of(model, adapter)?.gradients(model, adapter, batch)
}

/// One step of the chain without its update, with every layer of `adapter` converted: KL from the teacher in nats per
/// token, the alignment error (which enters the loss with `aligned`), and gradients (on the host) by layer.
///
/// Errors: what the model or a kernel refuses.
pub fn chain_gradients(
    model: &Model,
    adapter: &Adapter,
    batch: &[&[u32]],
    aligned: f64,
    recompute: bool,
) -> Result<(f64, f64, Vec<Option<DslaParams>>)> {
    let layers: Vec<Option<&DslaAttention>> = adapter.layers.iter().map(Option::as_ref).collect();
    let weights = Transposed::of(model)?;
    let batch = Sample::whole(batch);
    let (loss, grads) = chain::gradients(model, &weights, &layers, &batch, aligned, recompute)?;
    Ok((loss.kl, loss.aligned, grads))
}

/// What ships is bf16: rank and measure exactly that.
fn shipped(adapter: &Adapter) -> Adapter {
    let mut adapter = adapter.clone();
    for layer in adapter.layers.iter_mut().flatten() {
        for (_, t) in layer.params.tensors_mut() {
            *t = Tensor::from_f32(t.shape(), t.f32().iter().map(|&v| bf16::from_f32(v).to_f32()).collect());
        }
    }
    adapter
}
