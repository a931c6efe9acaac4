//! A small Llama trained from nothing on a task: AdamW on the cross entropy of the answers. Small enough for minutes on
//! a CPU; the tasks are made for questions that a pretrained model cannot answer.

mod network;
pub mod tasks;
mod weights;

pub use weights::{BaseWeights, Sizes};

use crate::schedule::adamw as schedule;
use crate::{Error, Result};
use dsla_kernels::ops::adamw;
use network::Context;
use tasks::{Example, Task, Vocabulary};

/// Settings of a training run; they determine its result to the bit.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Pretraining {
    /// What to learn.
    pub task: Task,
    /// Its tokens.
    pub vocab: Vocabulary,
    /// Keys in a sequence of the longest length; shorter ones have fewer, in proportion.
    pub pairs: usize,
    /// Lengths of sequences; a step draws one. The short ones are where recall is learned first.
    pub lengths: Vec<usize>,
    /// Tokens per step.
    pub batch_tokens: usize,
    /// Steps at most.
    pub steps: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// Of the start and the data.
    pub seed: u64,
}

impl Pretraining {
    fn check(&self, sizes: &Sizes) -> Result<()> {
        let bad = |arg, got: String, want: String| Err(Error::Argument { arg, got, want });
        if self.vocab.size() > sizes.vocab {
            let want = format!("at most the model's {}", sizes.vocab);
            return bad("vocabulary", format!("{} ids", self.vocab.size()), want);
        }
        if self.lengths.is_empty() || self.lengths.iter().any(|l| *l > sizes.positions) {
            let want = format!("at least one, up to {} tokens", sizes.positions);
            return bad("lengths", format!("{:?}", self.lengths), want);
        }
        if self.steps == 0 || !(self.lr.is_finite() && self.lr > 0.0) {
            return bad("steps and lr", format!("{} and {}", self.steps, self.lr), "both positive".into());
        }
        Ok(())
    }

    /// The longest length.
    pub fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Sequences of `length` for `step` of a run whose data has this seed.
    ///
    /// Errors: as [`tasks::example`].
    pub fn batch(&self, seed: u64, step: u64, length: usize) -> Result<Vec<Example>> {
        let pairs = (self.pairs * length).div_ceil(self.longest().max(1));
        (0..(self.batch_tokens / length).max(1) as u64)
            .map(|i| {
                let seed =
                    seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ (step << 20) ^ i ^ ((length as u64) << 48);
                tasks::example(self.task, self.vocab, length, pairs, seed)
            })
            .collect()
    }

    /// The length that a step draws.
    pub fn length_of(&self, step: u64) -> usize {
        let drawn = dsla_kernels::case::Rng::new(self.seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15)).bits();
        self.lengths[drawn as usize % self.lengths.len()]
    }
}

/// Train from a random start. `on` sees every step: its number, its length and its loss in nats per answer.
///
/// Errors: settings that do not fit; a loss that is no number.
pub fn pretrain(
    sizes: &Sizes,
    settings: &Pretraining,
    mut on: impl FnMut(u64, usize, f64),
) -> Result<BaseWeights> {
    settings.check(sizes)?;
    let context = Context::new(sizes)?;
    let mut weights = BaseWeights::random(sizes, settings.seed);
    let (mut m, mut v) = (weights.zeros_like(), weights.zeros_like());
    for step in 0..settings.steps {
        let length = settings.length_of(step);
        let batch = settings.batch(settings.seed, step, length)?;
        let (loss, mut grads) = context.gradients(&weights, &batch)?;
        if !loss.is_finite() {
            return Err(Error::Argument {
                arg: "lr",
                got: format!("{} and a loss of {loss} at step {step}", settings.lr),
                want: "a rate at which it stays finite".into(),
            });
        }
        clip(&mut grads, 1.0);
        let options = schedule(settings.lr, 0.05, 0.01, step, settings.steps);
        let moments = m.tensors_mut().into_iter().zip(v.tensors_mut());
        for (((p, g), m), v) in weights
            .tensors_mut()
            .into_iter()
            .zip(grads.tensors())
            .zip(moments)
            .map(|((p, g), (m, v))| (((p, g), m), v))
        {
            let n = [p.len()];
            let [p, m, v] = [p, m, v].map(|t| t.view_mut().reshape(n));
            adamw::step(p, g.view().reshape(n), m, v, &options)?;
        }
        on(step + 1, length, loss);
    }
    Ok(weights)
}

/// Scale gradients whose norm over all weights is above `most`.
fn clip(grads: &mut BaseWeights, most: f64) {
    let squares: f64 = grads.tensors().iter().flat_map(|t| t.f32()).map(|&g| (g as f64).powi(2)).sum();
    let scale = (most / squares.sqrt()).min(1.0) as f32;
    if scale < 1.0 {
        grads.tensors_mut().into_iter().for_each(|t| t.f32_mut().iter_mut().for_each(|g| *g *= scale));
    }
}

/// The loss of [`pretrain`] on one batch, nats per answer, and its gradients.
///
/// Errors: sizes that do not fit each other or the batch.
pub fn pretrain_gradients(sizes: &Sizes, w: &BaseWeights, batch: &[Example]) -> Result<(f64, BaseWeights)> {
    Context::new(sizes)?.gradients(w, batch)
}
