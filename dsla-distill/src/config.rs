//! What a distillation run is made of.

use crate::chain::Prefixes;
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
    /// Gradient descent on the model's logits through all converted layers at once, any prefix of the order.
    Chain,
}

impl std::str::FromStr for Stage {
    type Err = Error;

    fn from_str(s: &str) -> Result<Stage> {
        match s {
            "calibrate" => Ok(Stage::Calibrate),
            "align" => Ok(Stage::Align),
            "rank" => Ok(Stage::Rank),
            "chain" => Ok(Stage::Chain),
            _ => {
                let want = "calibrate, align, rank or chain".into();
                Err(Error::Argument { arg: "stage", got: s.into(), want })
            }
        }
    }
}

/// Settings of a stage that trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Tokens to train on.
    pub tokens: u64,
    /// Tokens per step, made of sequences of one of `lengths`.
    pub batch_tokens: usize,
    /// Sequence lengths, drawn anew each step.
    pub lengths: Vec<usize>,
    /// Peak learning rate.
    pub lr: f64,
}

/// Settings of the chain beside those of its training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// Tokens, lengths, learning rate.
    pub training: Training,
    /// Which layers a step trains.
    pub prefixes: Prefixes,
    /// Weight of the converted layers' alignment error beside the KL.
    pub aligned: f64,
    /// Keep only each layer's input for the backward pass and compute the rest again: less memory, more time.
    pub recompute: bool,
}

/// Settings of a run; with the texts and the model they determine the result to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What to distil into.
    pub form: Form,
    /// Stages to run.
    pub stages: Vec<Stage>,
    /// Alignment.
    pub align: Training,
    /// The chain.
    pub chain: Chain,
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
    /// Passkey texts that tell which layers retrieval hangs on: these come last in the order. 0: by divergence alone.
    #[serde(default)]
    pub rank_recall: usize,
    /// Layers at the start of the order that ranking leaves where they are.
    #[serde(default)]
    pub rank_keep: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl Config {
    /// Good settings for `tokens` tokens of alignment, and of the chain if it is among the stages, into `form`.
    pub fn new(form: Form, tokens: u64) -> Config {
        Config {
            form,
            stages: vec![Stage::Align, Stage::Rank],
            align: Training { tokens, batch_tokens: 1024, lengths: vec![512, 512, 1024, 2048], lr: 6e-3 },
            chain: Chain {
                training: Training { tokens, batch_tokens: 2048, lengths: vec![2048], lr: 2e-3 },
                prefixes: Prefixes::Random,
                aligned: 0.1,
                recompute: false,
            },
            warmup: 0.03,
            weight_decay: 0.0,
            clip: 1.0,
            seed: 0,
            layers: None,
            rank_windows: 2,
            rank_context: 1024,
            rank_recall: 10,
            rank_keep: 0,
            checkpoint_every: 10,
        }
    }

    pub(crate) fn check(&self, num_layers: usize, positions: usize) -> Result<()> {
        let bad = |arg, got: String, want: &str| Err(Error::Argument { arg, got, want: want.into() });
        if let Err(e) = self.form.check() {
            return bad("form", e, "a form that can be");
        }
        if self.stages.is_empty() {
            return bad("stages", "none".into(), "calibrate, align, rank or chain");
        }
        if !(self.clip > 0.0 && (0.0..1.0).contains(&self.warmup) && self.chain.aligned >= 0.0) {
            let got = format!("{}, {} and {}", self.clip, self.warmup, self.chain.aligned);
            return bad("clip, warmup and aligned", got, "positive, below 1, and 0 or more");
        }
        for (stage, t) in [(Stage::Align, &self.align), (Stage::Chain, &self.chain.training)] {
            if !self.stages.contains(&stage) {
                continue;
            }
            if t.batch_tokens < 2 || t.lengths.is_empty() || t.lengths.iter().any(|&l| l < 2 || l > positions)
            {
                let got = format!("{:?}", t.lengths);
                return bad("lengths", got, &format!("sequences of 2 to {positions} tokens"));
            }
            if !(t.lr.is_finite() && t.lr > 0.0) {
                return bad("lr", t.lr.to_string(), "a positive number");
            }
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
