//! What the two states of converted layers do: where each one's share of attention lies, how long its gate remembers,
//! and how its norm grows with the text.

mod mass;
mod norms;
pub mod page;

pub use norms::{NormPoint, norms};

use crate::align::teacher_pass;
use crate::probe::BINS;
use crate::{Error, Result};
use dsla_core::attention::DslaAttention;
use dsla_core::{FeatureMap, Gate, Normalizer};
use dsla_model::{Adapter, Model};

/// Parts of a converted layer's attention, in the order of [`LayerStates::mass`].
pub const PARTS: [&str; 5] = ["teacher", "history", "recency", "window", "sinks"];

/// One layer on one text, on the teacher's own inputs.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LayerStates {
    /// Its number.
    pub layer: usize,
    /// Shares of attention by part ([`PARTS`]) and log2 of the distance, means over heads and queries: bin 0 is the token
    /// itself, bin b the distances in [2^(b-1), 2^b). The teacher's sum to 1, and so do the other four together.
    pub mass: [[f64; BINS]; 5],
    /// Shares of the gates (over tokens and kv heads) by log2 of their half-life in tokens, history and recency: bin b
    /// holds half-lives in [2^(b-1), 2^b), the first and the last all beyond.
    pub half_lives: [[f64; BINS]; 2],
    /// Geometric mean of those half-lives, tokens.
    pub mean_half_life: [f64; 2],
    /// Weights of the two states, means over heads.
    pub gamma: [f64; 2],
}

/// Measure every layer of `adapter` on `text` (one sequence; every 7th query counts).
///
/// Errors: a form without scalar gates, a positive feature map, rotated keys and the sum normaliser (its shares are not
/// attention weights); a text that is too short or too long; what the model refuses.
pub fn layer_states(
    model: &Model,
    adapter: &Adapter,
    text: &[u32],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<LayerStates>> {
    let form = &adapter.form;
    let fits = form.gate == Gate::Scalar
        && form.normalizer == Normalizer::Sum
        && form.rope
        && form.feature_map != FeatureMap::None;
    if !fits {
        return Err(Error::Argument {
            arg: "form",
            got: format!("{form:?}"),
            want: "scalar gates, a positive feature map, rotated keys and the sum normaliser".into(),
        });
    }
    if text.len() < 16 || text.len() > model.table().positions() {
        let want = format!("16 to {} tokens", model.table().positions());
        return Err(Error::Argument { arg: "text", got: format!("{} tokens", text.len()), want });
    }
    let Some(last) = adapter.layers.iter().rposition(Option::is_some) else { return Ok(vec![]) };
    let mut found = vec![];
    teacher_pass(model, &[text], last, |l, inputs| {
        if let (Some(layer), Some(x)) = (&adapter.layers[l], inputs.first()) {
            found.push(one_layer(l, layer, &x.to_host()?)?);
        }
        progress(l + 1, last + 1);
        Ok(())
    })?;
    Ok(found)
}

fn one_layer(l: usize, layer: &DslaAttention, x: &crate::align::Inputs) -> Result<LayerStates> {
    let decays = mass::decays(layer, x)?;
    let n = layer.heads;
    let mut half_lives = [[0.0; BINS]; 2];
    let mut logs = [0.0; 2];
    let count = (decays.len() / 2) as f64;
    for (i, &log_d) in decays.iter().enumerate() {
        let state = i / n.kv_heads % 2;
        // A gate of exactly 1 has no half-life: as long as anything here.
        let life = (-std::f64::consts::LN_2 / log_d as f64).abs().clamp(1e-3, 1e9);
        half_lives[state][((life.log2().floor() + 1.0).max(0.0) as usize).min(BINS - 1)] += 1.0 / count;
        logs[state] += life.ln() / count;
    }
    let weights = layer.params.gamma_weights(n.heads);
    let mean = |w: &[f32]| w.iter().map(|&v| v as f64).sum::<f64>() / n.heads as f64;
    Ok(LayerStates {
        layer: l,
        mass: mass::by_distance(layer, x)?,
        half_lives,
        mean_half_life: logs.map(f64::exp),
        gamma: [mean(&weights.f32()[..n.heads]), mean(&weights.f32()[n.heads..])],
    })
}
