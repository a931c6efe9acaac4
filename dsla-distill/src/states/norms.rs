//! Norms of the states over a long text.

use crate::{Error, Result};
use dsla_core::Device;
use dsla_model::generate::PREFILL_CHUNK;
use dsla_model::{Model, Plan, Step, Want};

/// All converted layers at one place of a text.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NormPoint {
    /// Tokens taken in.
    pub tokens: usize,
    /// Frobenius norm of S by state (history, recency) and converted layer, root mean square over kv heads.
    pub s: [Vec<f64>; 2],
    /// The same of z.
    pub z: [Vec<f64>; 2],
}

/// Run the hybrid with all layers of its adapter converted over `text` and look at its states after 512, 1024, 2048 and
/// so on tokens, and at the end.
///
/// Errors: no adapter, a text that is too long for the model's positions.
pub fn norms(model: &Model, text: &[u32], mut progress: impl FnMut(usize, usize)) -> Result<Vec<NormPoint>> {
    let Some(adapter) = model.adapter() else {
        return Err(Error::Argument {
            arg: "model",
            got: "no adapter".into(),
            want: "one with states".into(),
        });
    };
    let mut layers = adapter.order.clone();
    layers.sort();
    let mut seq = model.new_sequence(&Plan::of_layers(model.config().num_layers, &layers))?;
    let mut found = vec![];
    for tokens in text.chunks(PREFILL_CHUNK) {
        model.hidden(&mut [Step { seq: &mut seq, tokens, logits: Want::None }])?;
        let at = seq.len();
        if at.is_power_of_two() || at == text.len() {
            let mut point = NormPoint { tokens: at, s: [vec![], vec![]], z: [vec![], vec![]] };
            for state in layers.iter().filter_map(|&l| seq.state(l)) {
                for (into, tensor) in [(&mut point.s, &state.s), (&mut point.z, &state.z)] {
                    let host = tensor.to_device(Device::Cpu)?;
                    let (heads, half) = (tensor.dims()[1] as f64, host.len() / 2);
                    for (into, part) in into.iter_mut().zip(host.f32().chunks_exact(half)) {
                        let squares: f64 = part.iter().map(|&v| (v as f64).powi(2)).sum();
                        into.push((squares / heads).sqrt());
                    }
                }
            }
            found.push(point);
        }
        progress(at, text.len());
    }
    Ok(found)
}
