//! The form of a DSLA layer: data in the checkpoint, not code paths scattered about.

use serde::{Deserialize, Serialize};

/// phi.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMap {
    /// phi(u) = u, queries scaled by head_dim^-1/2 (the paper).
    None,
    /// phi(u) = [softmax(u W), softmax(-u W)], W per head: positive, F = 2 D (Hedgehog).
    SoftmaxPm,
    /// phi(u) = softmax(u W), its first half: F = D. Two states of it are as large as one of [`FeatureMap::SoftmaxPm`].
    Softmax,
}

/// Decays per state and kv head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// One per feature (the paper; gated linear attention).
    Vector,
    /// One.
    Scalar,
}

/// What the gates see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateInput {
    /// The layer's input (the paper).
    Hidden,
    /// The head's own un-rotated key and value: all of it is in a KV cache, so a running sequence can be folded.
    Kv,
}

/// How num becomes the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// As it is (the paper).
    None,
    /// Divided by the sum of weights.
    Sum,
    /// Divided by its root mean square, per head.
    Rms,
}

/// Weights of the two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gamma {
    /// One pair per layer (the paper's alpha_list).
    Layer,
    /// One pair per query head.
    Head,
    /// (1, 0), not trained: the history state alone.
    History,
    /// (0, 1), not trained: the recency state alone.
    Recency,
}

/// What a converted layer changes of its teacher's q and o projections. Keys and values stay the teacher's, so that a
/// KV cache can be folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projections {
    /// Nothing.
    #[default]
    Frozen,
    /// W + B A with A [rank, in] and B [out, rank] (LoRA: Hu et al. 2021, at scale 1).
    Lora {
        /// Rows of A.
        rank: usize,
    },
    /// W + B with B [out, in].
    Full,
}

/// What kind of DSLA layer this is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// phi.
    pub feature_map: FeatureMap,
    /// Decays per state and kv head.
    pub gate: Gate,
    /// What the gates see.
    pub gate_input: GateInput,
    /// log d = logsigmoid(logit) / gate_scale.
    pub gate_scale: f32,
    /// How num becomes the output.
    pub normalizer: Normalizer,
    /// Rotate q and k before phi.
    pub rope: bool,
    /// Exact softmax over the last `window` tokens, states for everything older; 0 = off.
    pub window: usize,
    /// Exact softmax also over the first `sinks` tokens of the sequence, which never enter the states.
    #[serde(default)]
    pub sinks: usize,
    /// Weights of the two states.
    pub gamma: Gamma,
    /// Let the states' weight follow the window's peak (a learned slope per head, 0 at the start).
    #[serde(default)]
    pub peak_slope: bool,
    /// What it changes of the teacher's q and o projections.
    #[serde(default)]
    pub projections: Projections,
}

impl Form {
    /// Our default: everything a pretrained layer needs to be matched, foldable.
    pub fn native() -> Form {
        Form {
            feature_map: FeatureMap::SoftmaxPm,
            gate: Gate::Scalar,
            gate_input: GateInput::Kv,
            gate_scale: 1.0,
            normalizer: Normalizer::Sum,
            rope: true,
            window: 64,
            sinks: 4,
            gamma: Gamma::Head,
            peak_slope: true,
            projections: Projections::Frozen,
        }
    }

    /// The layer of the paper and its code (arXiv 2506.09316).
    pub fn paper() -> Form {
        Form {
            feature_map: FeatureMap::None,
            gate: Gate::Vector,
            gate_input: GateInput::Hidden,
            gate_scale: 16.0,
            normalizer: Normalizer::None,
            rope: false,
            window: 0,
            sinks: 0,
            gamma: Gamma::Layer,
            peak_slope: false,
            projections: Projections::Frozen,
        }
    }

    /// Why this form cannot be, if it cannot.
    pub fn check(&self) -> std::result::Result<(), String> {
        if !(self.gate_scale.is_finite() && self.gate_scale > 0.0) {
            return Err(format!("gate_scale: got {}, want a positive number", self.gate_scale));
        }
        if self.window > 0 && self.normalizer != Normalizer::Sum {
            return Err(
                format!("normalizer: got {:?}, want sum with a window", self.normalizer).to_lowercase()
            );
        }
        if self.window > 0 && !self.rope {
            return Err("rope: got false, want true with a window (its keys are rotated)".into());
        }
        if self.window > 4096 {
            return Err(format!("window: got {}, want at most 4096", self.window));
        }
        if self.sinks > 0 && self.window == 0 || self.sinks > 256 {
            return Err(format!("sinks: got {}, want at most 256, and 0 without a window", self.sinks));
        }
        if self.normalizer == Normalizer::Sum && self.feature_map == FeatureMap::None {
            return Err("normalizer: got sum, want none or rms without a positive feature map".into());
        }
        if self.peak_slope && self.window == 0 {
            return Err("peak_slope: got true, want false without a window".into());
        }
        if let Projections::Lora { rank } = self.projections
            && !(1..=1024).contains(&rank)
        {
            return Err(format!("projections: got rank {rank}, want 1 to 1024"));
        }
        Ok(())
    }

    /// Whether a running sequence's KV cache holds all that the states are made of.
    pub fn foldable(&self) -> bool {
        self.gate_input == GateInput::Kv
    }

    /// Whether the layer reads its normalised input beside q, k and v.
    pub fn reads_hidden(&self) -> bool {
        self.gate_input == GateInput::Hidden || self.projections != Projections::Frozen
    }

    /// Feature size for heads of `head_dim`.
    pub fn features(&self, head_dim: usize) -> usize {
        match self.feature_map {
            FeatureMap::None | FeatureMap::Softmax => head_dim,
            FeatureMap::SoftmaxPm => 2 * head_dim,
        }
    }
}
