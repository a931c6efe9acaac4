//! What a distillation run is made of.

use crate::{Error, Result};
use dsla_core::Form;
use serde::{Deserialize, Serialize};

/// A stage of distillation, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Closed form: gate half-lives, state weights and mix from the teacher's own attention.
    Calibrate,
    /// Gradient descent on the attention output of every layer, teacher-forced.
    Align,
    /// The order of conversion, and the quality of each of its prefixes, on held-out text.
    Rank,
}

impl std::str::FromStr for Stage {
    type Err = Error;

    fn from_str(s: &str) -> Result<Stage> {
        match s {
            "calibrate" => Ok(Stage::Calibrate),
            "align" => Ok(Stage::Align),
            "rank" => Ok(Stage::Rank),
            _ => {
                Err(Error::Argument { arg: "stage", got: s.into(), want: "calibrate, align or rank".into() })
            }
        }
    }
}

/// Settings of a run; with the texts and the model they determine the result to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What to distil into.
    pub form: Form,
    /// Stages to run.
    pub stages: Vec<Stage>,
    /// Tokens to align on.
    pub tokens: u64,
    /// Tokens per step, made of sequences of one of `lengths`.
    pub batch_tokens: usize,
    /// Sequence lengths, drawn anew each step.
    pub lengths: Vec<usize>,
    /// Peak learning rate.
    pub lr: f64,
    /// Share of the steps that warm up.
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm per layer.
    pub clip: f64,
    /// Of data order.
    pub seed: u64,
    /// Layers to train; None: all.
    pub layers: Option<Vec<usize>>,
    /// Windows of held-out text and their length for ranking.
    pub rank_windows: usize,
    /// Tokens per ranking window.
    pub rank_context: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl Config {
    /// Good settings for `tokens` tokens into `form`.
    pub fn new(form: Form, tokens: u64) -> Config {
        Config {
            form,
            stages: vec![Stage::Calibrate, Stage::Align, Stage::Rank],
            tokens,
            batch_tokens: 1024,
            lengths: vec![512, 512, 1024, 2048],
            lr: 1e-2,
            warmup: 0.03,
            weight_decay: 0.0,
            clip: 1.0,
            seed: 0,
            layers: None,
            rank_windows: 2,
            rank_context: 1024,
            checkpoint_every: 10,
        }
    }

    pub(crate) fn check(&self, num_layers: usize, positions: usize) -> Result<()> {
        let bad = |arg, got: String, want: &str| Err(Error::Argument { arg, got, want: want.into() });
        if let Err(e) = self.form.check() {
            return bad("form", e, "a form that can be");
        }
        if self.stages.is_empty() {
            return bad("stages", "none".into(), "calibrate, align or rank");
        }
        if self.batch_tokens < 2
            || self.lengths.is_empty()
            || self.lengths.iter().any(|&l| l < 2 || l > positions)
        {
            return bad(
                "lengths",
                format!("{:?}", self.lengths),
                "sequence lengths that the model has room for",
            );
        }
        if !(self.lr.is_finite() && self.lr > 0.0 && self.clip > 0.0 && (0.0..1.0).contains(&self.warmup)) {
            return bad(
                "lr",
                format!("lr {}, clip {}, warmup {}", self.lr, self.clip, self.warmup),
                "positive numbers, warmup below 1",
            );
        }
        if let Some(l) = self.layers.iter().flatten().find(|l| **l >= num_layers) {
            return bad("layers", format!("layer {l}"), &format!("layers below {num_layers}"));
        }
        Ok(())
    }

    /// Layers to train, in order.
    pub(crate) fn trained(&self, num_layers: usize) -> Vec<usize> {
        self.layers.clone().unwrap_or_else(|| (0..num_layers).collect())
    }
}
