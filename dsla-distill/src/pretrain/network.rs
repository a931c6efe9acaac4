//! A network over weights that still change: packed anew for every step, forward and backward over a batch.

use super::tasks::Example;
use super::weights::{BaseWeights, DTYPE, Sizes};
use crate::Result;
use crate::tape::{Block, Grads, Net};
use crate::transposed::TransposedLayer;
use dsla_core::kernels::ops::{cross_entropy, embedding, linear, rope::Table};
use dsla_core::{Device, Linear, Mlp, RmsNorm, Tensor};
use dsla_model::Layer;

/// Of every norm, as [`Sizes`] write it into `config.json`.
const EPS: f32 = 1e-5;

/// Packed weights, both ways round.
struct Network {
    layers: Vec<(Layer, TransposedLayer)>,
    norm: RmsNorm,
    head: Linear,
    head_back: Linear,
}

impl Network {
    fn of(w: &BaseWeights) -> Result<Network> {
        let norm = |t: &Tensor| RmsNorm::new(t.clone(), EPS);
        let both = |t: &Tensor| Ok::<_, dsla_core::Error>((Linear::new(t, None)?, Linear::transposed(t)?));
        let layers = w
            .layers
            .iter()
            .map(|l| {
                let ((qkv, qkv_t), (o, o_t)) = (both(&l.qkv)?, both(&l.o)?);
                let ((gate_up, gate_up_t), (down, down_t)) = (both(&l.gate_up)?, both(&l.down)?);
                let (attn_norm, mlp_norm) = (norm(&l.attn_norm)?, norm(&l.mlp_norm)?);
                let layer = Layer { attn_norm, qkv, o, mlp_norm, mlp: Mlp { gate_up, down } };
                Ok((layer, TransposedLayer { qkv: qkv_t, o: o_t, gate_up: gate_up_t, down: down_t }))
            })
            .collect::<Result<_>>()?;
        let (head, head_back) = both(&w.embedding)?;
        Ok(Network { layers, norm: norm(&w.norm)?, head, head_back })
    }
}

/// The sizes as layers want them, and the rotary table.
pub struct Context {
    sizes: Sizes,
    table: Table,
}

impl Context {
    /// Errors: sizes that do not fit each other.
    pub fn new(sizes: &Sizes) -> Result<Context> {
        let config = sizes.config()?;
        let table = Table::new(&config.rope.inv_freq(config.head_dim), config.max_position, 1.0);
        Ok(Context { sizes: *sizes, table })
    }

    /// Cross entropy of the answers, nats, mean over the batch's questions, and its gradients.
    ///
    /// Errors: a sequence that is too long, a token that the vocabulary does not have.
    pub fn gradients(&self, w: &BaseWeights, batch: &[Example]) -> Result<(f64, BaseWeights)> {
        let n = &self.sizes;
        let heads = dsla_core::Heads { heads: n.heads, kv_heads: n.kv_heads, head_dim: n.head_dim };
        let net = Net { heads, table: &self.table, dtype: DTYPE, device: Device::Cpu };
        let (network, mut grads) = (Network::of(w)?, w.zeros_like());
        let questions = batch.iter().map(|e| e.queries.len()).sum::<usize>().max(1);
        let mut loss = 0.0;
        for e in batch {
            let t = e.tokens.len();
            let ids = Tensor::from_u32([t], e.tokens.clone());
            let mut x = Tensor::empty([t, n.hidden], DTYPE);
            embedding::forward(w.embedding.view(), ids.view(), x.view_mut())?;
            let mut tapes = vec![];
            for (layer, _) in &network.layers {
                let (tape, y) = Block { net: &net, layer, dsla: None }.forward(x)?;
                tapes.push(tape);
                x = y;
            }
            let (sum, mut dx) = answers(&network, &x, e, 1.0 / questions as f32, &mut grads)?;
            loss += sum / questions as f64;
            for (((layer, back), g), tape) in network.layers.iter().zip(&mut grads.layers).zip(tapes).rev() {
                let grads = Grads { dsla: None, base: Some(g) };
                dx = Block { net: &net, layer, dsla: None }.backward(back, tape, dx, None, grads, true)?;
            }
            embedding::backward(ids.view(), dx.view(), grads.embedding.view_mut())?;
        }
        Ok((loss, grads))
    }
}

/// Sum of the answers' cross entropies over final hidden states [T, C], and `share` times its gradient.
fn answers(
    network: &Network,
    hidden: &Tensor,
    e: &Example,
    share: f32,
    grads: &mut BaseWeights,
) -> Result<(f64, Tensor)> {
    let (q, c) = (e.queries.len(), hidden.dims()[1]);
    let mut dx = Tensor::zeros(hidden.shape(), DTYPE);
    if q == 0 {
        return Ok((0.0, dx));
    }
    let rows = e.queries.iter().flat_map(|q| &hidden.f32()[q.at * c..(q.at + 1) * c]).copied().collect();
    let x = Tensor::from_f32([q, c], rows);
    let h = network.norm.forward(x.view())?;
    let logits = network.head.forward(h.view())?;
    let targets = Tensor::from_u32([q], e.queries.iter().map(|q| q.answer).collect());
    let mut losses = Tensor::empty([q], DTYPE);
    cross_entropy::forward(logits.view(), targets.view(), losses.view_mut())?;
    let each = Tensor::from_f32([q], vec![share; q]);
    let mut d_logits = Tensor::empty(logits.shape(), DTYPE);
    cross_entropy::backward(logits.view(), targets.view(), each.view(), d_logits.view_mut())?;
    linear::backward_weight(h.view(), d_logits.view(), grads.embedding.view_mut())?;
    let dh = network.head_back.forward(d_logits.view())?;
    let d = network.norm.backward_weight(x.view(), dh.view(), grads.norm.view_mut())?;
    for (q, d) in e.queries.iter().zip(d.f32().chunks_exact(c)) {
        dx.f32_mut()[q.at * c..(q.at + 1) * c].copy_from_slice(d);
    }
    Ok((losses.f32().iter().map(|&l| l as f64).sum(), dx))
}
