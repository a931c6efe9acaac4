//! The frozen weights the other way round: dx = dy W for every projection of the model.

use crate::Result;
use dsla_core::{Linear, Tensor};
use dsla_model::Model;

/// One layer's projections, transposed.
pub struct TransposedLayer {
    pub qkv: Linear,
    pub o: Linear,
    pub gate_up: Linear,
    pub down: Linear,
}

/// Every layer's, and the output layer's.
pub struct Transposed {
    pub layers: Vec<TransposedLayer>,
    pub head: Linear,
}

impl Transposed {
    /// As many bytes as the model's weights again, in its dtype.
    pub fn of(model: &Model) -> Result<Transposed> {
        let linear = |names: &[String]| -> Result<Linear> {
            let read = |name: &String| -> Result<Tensor> {
                Ok(model.weights().read(name)?.to_dtype(model.dtype())?)
            };
            let mut all = read(&names[0])?;
            for name in &names[1..] {
                all.extend(read(name)?.view())?;
            }
            Ok(Linear::transposed(&all.to_device(model.device())?)?)
        };
        let layers = (0..model.config().num_layers)
            .map(|l| {
                let of = |parts: &[&str]| -> Result<Linear> {
                    let names: Vec<_> =
                        parts.iter().map(|p| format!("model.layers.{l}.{p}.weight")).collect();
                    linear(&names)
                };
                Ok(TransposedLayer {
                    qkv: of(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
                    o: of(&["self_attn.o_proj"])?,
                    gate_up: of(&["mlp.gate_proj", "mlp.up_proj"])?,
                    down: of(&["mlp.down_proj"])?,
                })
            })
            .collect::<Result<_>>()?;
        let output =
            if model.config().tie_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        Ok(Transposed { layers, head: linear(&[output.into()])? })
    }
}
