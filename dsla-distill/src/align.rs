//! Alignment: every layer learns its teacher's attention output from the teacher's own inputs. One teacher pass
//! serves all layers; the teacher's output flows on, so layers do not see each other's errors.

use crate::Result;
use dsla_core::attention::{DslaAttention, rotated};
use dsla_core::kernels::ops::{axpby, global_norm, mse, softmax_attention};
use dsla_core::{DType, Device, DslaParams, Linear, Projected, Tensor};
use dsla_model::{Adapter, Model};
use std::collections::BTreeMap;

/// One sequence's attention inputs in one layer, as the student gets them.
#[derive(Clone)]
pub struct Inputs {
    /// Rotated queries [T, H, D].
    pub q: Tensor,
    /// Rotated keys [T, G, D] in model dtype.
    pub k: Tensor,
    /// Un-rotated projections.
    pub plain: Projected,
    /// The teacher's attention output [T, H, D].
    pub teacher: Tensor,
    /// Its variance behind the output projection, times its size.
    pub spread: f64,
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
        let mut all = Some(Projected::of(&layer.qkv, h.view(), heads, None)?);
        let mut inputs = Vec::with_capacity(batch.len());
        let mut at = 0;
        let mut h = Some(h);
        for seq in batch {
            let t = seq.len();
            // One sequence takes the rows as they are.
            let (rows, hidden) = match (&all, &h) {
                (Some(all), Some(h)) if batch.len() > 1 => {
                    (Some(all.rows(at, at + t)?), Some(h.rows(at, at + t).to_tensor()?))
                }
                _ => (all.take(), h.take()),
            };
            let Some(rows) = rows else { unreachable!("the only sequence takes them") };
            let plain = Projected { hidden, ..rows };
            let q = rotated(&plain.q, 0, model.table())?;
            let k = rotated(&plain.k, 0, model.table())?.to_dtype(model.dtype())?;
            let v = plain.v.to_dtype(model.dtype())?;
            let mut teacher = Tensor::empty_on(model.device(), q.shape(), DType::F32)?;
            softmax_attention::forward(q.view(), k.view(), v.view(), teacher.view_mut())?;
            let projected = layer.o.forward(teacher.view().reshape([t, heads.heads * heads.head_dim]))?;
            let spread = spread(&projected)?;
            axpby::forward(1.0, projected.view(), 1.0, x.view_mut().rows(at, at + t))?;
            inputs.push(Inputs { q, k, plain, teacher, spread });
            at += t;
        }
        visit(l, inputs)?;
        if l == last {
            break;
        }
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

impl Inputs {
    /// Copies on the host: calibration and probes run there.
    pub fn to_host(&self) -> Result<Inputs> {
        let host = |t: &Tensor| t.to_device(Device::Cpu);
        let p = &self.plain;
        let hidden = p.hidden.as_ref().map(host).transpose()?;
        let plain = Projected { q: host(&p.q)?, k: host(&p.k)?, v: host(&p.v)?, hidden };
        let (q, k, teacher) = (host(&self.q)?, host(&self.k)?, host(&self.teacher)?);
        Ok(Inputs { q, k, plain, teacher, spread: self.spread })
    }
}

impl Projection {
    pub fn of(model: &Model, layer: usize) -> Result<Projection> {
        let w = model
            .weights()
            .read(&format!("model.layers.{layer}.self_attn.o_proj.weight"))?
            .to_dtype(model.dtype())?
            .to_device(model.device())?;
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
        variance += x.spread;
        let (queries, keys) = match student.form.rope {
            true => (x.q, x.k),
            false => (x.plain.q.try_clone()?, x.plain.k.try_clone()?),
        };
        let s = student.forward_train(queries, keys, x.plain.v, &x.plain.k, x.plain.hidden.as_ref())?;
        let mut delta = s.out().try_clone()?;
        axpby::forward(-1.0, x.teacher.view(), 1.0, delta.view_mut())?;
        let delta = projection.forward.forward(delta.view().reshape([t, width]))?;
        error += squares(&delta)?;
        saved.push((s, delta));
    }
    let variance = variance.max(1e-12);
    let scale = (2.0 / variance) as f32;
    for (s, mut delta) in saved {
        axpby::scale(scale, delta.view_mut())?;
        let d_out = projection.backward.forward(delta.view())?;
        student.backward(&s, d_out.view().reshape(s.out().shape()), grads)?;
    }
    Ok(error / variance)
}

/// Sum of squares.
pub fn squares(x: &Tensor) -> Result<f64> {
    let mut norm = Tensor::empty_on(x.device(), [1], DType::F32)?;
    global_norm::forward(x.view().reshape([x.len()]), norm.view_mut())?;
    Ok((norm.to_device(Device::Cpu)?.f32()[0] as f64).powi(2))
}

/// Sum of squared distances from the column means: the normalised error of an all-zero prediction is the sum of squares
/// over it.
pub fn spread(x: &Tensor) -> Result<f64> {
    let all = squares(x)?;
    if all == 0.0 {
        return Ok(0.0);
    }
    let zero = Tensor::zeros_on(x.device(), x.shape(), DType::F32)?;
    let mut ratio = Tensor::empty_on(x.device(), [1], DType::F32)?;
    mse::forward(zero.view(), x.view(), ratio.view_mut())?;
    Ok(all / ratio.to_device(Device::Cpu)?.f32()[0] as f64)
}

/// What alignment needs of the model beside its forward pass: the output projections of the layers it trains.
pub struct Layers {
    projections: BTreeMap<usize, Projection>,
    last: usize,
}

impl Layers {
    /// For the layers that an adapter has.
    pub fn of(model: &Model, adapter: &Adapter) -> Result<Layers> {
        let trained = adapter.layers.iter().enumerate().filter(|(_, l)| l.is_some());
        let projections: BTreeMap<_, _> =
            trained.map(|(l, _)| Ok((l, Projection::of(model, l)?))).collect::<Result<_>>()?;
        let last = projections.keys().last().copied().unwrap_or(0);
        Ok(Layers { projections, last })
    }

    /// Loss (normalised error, no unit) and gradients (on the host) of each layer of `adapter` on a batch of sequences
    /// of one length; None for layers it does not have. The masters are on the host, the work is on the model's device.
    pub fn gradients(
        &self,
        model: &Model,
        adapter: &Adapter,
        batch: &[&[u32]],
    ) -> Result<Vec<Option<(f64, DslaParams)>>> {
        let mut out: Vec<_> = adapter.layers.iter().map(|_| None).collect();
        if self.projections.is_empty() {
            return Ok(out);
        }
        teacher_pass(model, batch, self.last, |l, inputs| {
            let (Some(layer), Some(projection)) = (&adapter.layers[l], self.projections.get(&l)) else {
                return Ok(());
            };
            let student = layer.ready(model.device(), DType::F32)?;
            let mut grads = student.params.zeros_like()?;
            let loss = layer_loss(&student, projection, inputs, &mut grads)?;
            out[l] = Some((loss, grads.to_device(Device::Cpu)?));
            Ok(())
        })?;
        Ok(out)
    }
}
