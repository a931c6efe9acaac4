//! Alignment: every layer learns its teacher's attention output from the teacher's own inputs. One teacher pass
//! serves all layers; the teacher's output flows on, so layers do not see each other's errors.

use crate::Result;
use dsla_core::attention::{DslaAttention, rotated};
use dsla_core::kernels::ops::softmax_attention;
use dsla_core::{DType, DslaParams, Linear, Projected, Tensor};
use dsla_model::Model;

/// One sequence's attention inputs in one layer, as the student gets them.
pub struct Inputs {
    /// Rotated queries [T, H, D].
    pub q: Tensor,
    /// Rotated keys [T, G, D] in model dtype.
    pub k: Tensor,
    /// Un-rotated projections.
    pub plain: Projected,
    /// The teacher's attention output [T, H, D].
    pub teacher: Tensor,
}

/// Walk the teacher over a batch of sequences of one length. `visit(layer, inputs per sequence)` is called for every
/// layer up to `last`.
pub fn teacher_pass(
    model: &Model,
    batch: &[&[u32]],
    last: usize,
    mut visit: impl FnMut(usize, Vec<Inputs>) -> Result<()>,
) -> Result<()> {
    let tokens: Vec<u32> = batch.concat();
    let mut x = model.embed(&tokens)?;
    let heads = model.heads();
    for (l, layer) in model.layers().iter().enumerate().take(last + 1) {
        let h = layer.attn_norm.forward(x.view())?;
        let qkv = layer.qkv.forward(h.view())?;
        let c = h.dims()[1];
        let mut inputs = Vec::with_capacity(batch.len());
        let mut mixed = Tensor::zeros([0, heads.heads * heads.head_dim], DType::F32);
        let mut at = 0;
        for seq in batch {
            let t = seq.len();
            let hidden = Tensor::from_f32([t, c], h.f32()[at * c..(at + t) * c].to_vec());
            let plain = Projected::split(qkv.rows(at, at + t), heads, Some(hidden))?;
            let q = rotated(&plain.q, 0, model.table())?;
            let k = rotated(&plain.k, 0, model.table())?.to_dtype(model.dtype());
            let v = plain.v.to_dtype(model.dtype());
            let mut teacher = Tensor::empty(q.shape(), DType::F32);
            softmax_attention::forward(q.view(), k.view(), v.view(), teacher.view_mut())?;
            mixed.extend(teacher.view());
            inputs.push(Inputs { q, k, plain, teacher });
            at += t;
        }
        visit(l, inputs)?;
        if l == last {
            break;
        }
        layer.o.forward_into(mixed.view(), dsla_core::kernels::ops::linear::Into::Add, x.view_mut())?;
        let h = layer.mlp_norm.forward(x.view())?;
        layer.mlp.add_to(h.view(), x.view_mut())?;
    }
    Ok(())
}

/// The output projection of one layer, both ways and without bias: the loss is measured behind it.
pub struct Projection {
    forward: Linear,
    backward: Linear,
}

impl Projection {
    pub fn of(model: &Model, layer: usize) -> Result<Projection> {
        let w = model
            .weights()
            .read(&format!("model.layers.{layer}.self_attn.o_proj.weight"))?
            .to_dtype(model.dtype());
        Ok(Projection { forward: Linear::new(&w, None)?, backward: Linear::transposed(&w)? })
    }
}

/// Loss of one layer on a batch, with the gradient added to `grads`: squared error of the attention output behind
/// the output projection, over the teacher's variance there.
pub fn layer_loss(
    student: &DslaAttention,
    projection: &Projection,
    inputs: Vec<Inputs>,
    grads: &mut DslaParams,
) -> Result<f64> {
    let mut saved = Vec::with_capacity(inputs.len());
    let (mut error, mut variance) = (0.0f64, 0.0f64);
    for x in inputs {
        let (t, width) = (x.q.dims()[0], x.q.len() / x.q.dims()[0].max(1));
        let target = projection.forward.forward(x.teacher.view().reshape([t, width]))?;
        variance += spread(&target);
        let keys = if student.form.rope { x.k } else { x.plain.k.clone() };
        let queries = if student.form.rope { x.q } else { x.plain.q.clone() };
        let s = student.forward_train(queries, keys, x.plain.v, &x.plain.k, x.plain.hidden.as_ref())?;
        let mut delta = s.out().clone();
        delta.f32_mut().iter_mut().zip(x.teacher.f32()).for_each(|(s, t)| *s -= t);
        let delta = projection.forward.forward(delta.view().reshape([t, width]))?;
        error += delta.f32().iter().map(|&d| (d as f64).powi(2)).sum::<f64>();
        saved.push((s, delta));
    }
    let variance = variance.max(1e-12);
    let scale = (2.0 / variance) as f32;
    for (s, mut delta) in saved {
        delta.f32_mut().iter_mut().for_each(|d| *d *= scale);
        let d_out = projection.backward.forward(delta.view())?;
        student.backward(&s, d_out.view().reshape(s.out().shape()), grads)?;
    }
    Ok(error / variance)
}

/// Sum of squared distances from the column means.
fn spread(x: &Tensor) -> f64 {
    let (rows, cols) = (x.dims()[0], x.dims()[1]);
    let mut mean = vec![0.0f64; cols];
    for row in x.f32().chunks_exact(cols) {
        mean.iter_mut().zip(row).for_each(|(m, &v)| *m += v as f64);
    }
    mean.iter_mut().for_each(|m| *m /= rows as f64);
    x.f32().chunks_exact(cols).flat_map(|r| r.iter().zip(&mean)).map(|(&v, m)| (v as f64 - m).powi(2)).sum()
}
