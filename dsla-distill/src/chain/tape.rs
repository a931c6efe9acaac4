//! One sequence through the whole model, forward with what the backward pass needs, and backward to the converted
//! layers' parameters.

use super::transposed::Transposed;
use crate::Result;
use dsla_core::attention::{DslaAttention, Saved, rotated, rotated_backward};
use dsla_core::kernels::ops::linear::Into;
use dsla_core::kernels::ops::{axpby, copy, softmax_attention, swiglu};
use dsla_core::{DType, DslaParams, Projected, Tensor};
use dsla_model::Model;

/// What a layer's backward pass wants of its forward pass.
struct Tape {
    /// The layer's input [T, C].
    x: Tensor,
    mixer: Mixer,
    /// After attention [T, C].
    mid: Tensor,
    /// The attention's output behind its projection [T, C].
    projected: Tensor,
    /// [T, 2 F], before the activation.
    gate_up: Tensor,
}

enum Mixer {
    Softmax { q: Tensor, k: Tensor, v: Tensor, out: Tensor },
    Dsla(Box<Saved>),
}

/// One layer of a sequence that begins here; the tape and the layer's output [T, C].
fn forward(model: &Model, l: usize, x: Tensor, dsla: Option<&DslaAttention>) -> Result<(Tape, Tensor)> {
    let (layer, heads) = (&model.layers()[l], model.heads());
    let (t, width) = (x.dims()[0], heads.heads * heads.head_dim);
    let h = layer.attn_norm.forward(x.view())?;
    let qkv = layer.qkv.forward(h.view())?;
    let mut plain = Projected::split(qkv.view(), heads, None)?;
    drop(qkv);
    if let Some(dsla) = dsla {
        dsla.adapt_q(Some(&h), &mut plain.q)?;
    }
    let rotate = dsla.is_none_or(|d| d.form.rope);
    let turned = |x: &Tensor| if rotate { rotated(x, 0, model.table()) } else { x.try_clone() };
    let (q, k) = (turned(&plain.q)?, turned(&plain.k)?.to_dtype(model.dtype())?);
    let mixer = match dsla {
        Some(dsla) => {
            let hidden = dsla.form.reads_hidden().then_some(&h);
            Mixer::Dsla(Box::new(dsla.forward_train(q, k, plain.v, &plain.k, hidden)?))
        }
        None => {
            let v = plain.v.to_dtype(model.dtype())?;
            let mut out = Tensor::empty_on(model.device(), q.shape(), DType::F32)?;
            softmax_attention::forward(q.view(), k.view(), v.view(), out.view_mut())?;
            Mixer::Softmax { q, k, v, out }
        }
    };
    let mixed = mixer.out().view().reshape([t, width]);
    let mut projected = layer.o.forward(mixed)?;
    if let Some(dsla) = dsla {
        dsla.adapt_o(mixed, projected.view_mut())?;
    }
    let mut mid = x.try_clone()?;
    axpby::forward(1.0, projected.view(), 1.0, mid.view_mut())?;
    let h = layer.mlp_norm.forward(mid.view())?;
    let gate_up = layer.mlp.gate_up.forward(h.view())?;
    let mut act = Tensor::empty_on(model.device(), [t, gate_up.dims()[1] / 2], DType::F32)?;
    swiglu::forward(gate_up.view(), act.view_mut())?;
    let mut y = mid.try_clone()?;
    layer.mlp.down.forward_into(act.view(), Into::Add, y.view_mut())?;
    Ok((Tape { x, mixer, mid, projected, gate_up }, y))
}

impl Mixer {
    fn out(&self) -> &Tensor {
        match self {
            Mixer::Softmax { out, .. } => out,
            Mixer::Dsla(saved) => saved.out(),
        }
    }
}

/// What is kept of a layer until its backward pass.
enum Kept {
    Tape(Box<Tape>),
    /// The layer's input alone: the rest is computed again.
    Input(Tensor),
}

/// A student's forward pass over one sequence, from its first converted layer on.
pub struct Run<'a> {
    model: &'a Model,
    /// Per layer of the model; None: softmax.
    layers: &'a [Option<&'a DslaAttention>],
    first: usize,
    kept: Vec<Kept>,
    /// Per layer from `first` on: the gradient of the alignment error, where the layer is converted.
    d_projected: Vec<Option<Tensor>>,
    /// The last layer's output [T, C].
    pub hidden: Tensor,
    /// Squared error of the converted layers' projected attention outputs over the teacher's spread, mean over layers.
    pub aligned: f64,
}

/// What the teacher gives: its last layer's output, the input of the student's first converted layer, and the attention
/// outputs behind their projections that alignment compares with.
pub struct Teacher {
    /// [T, C]
    pub hidden: Tensor,
    /// Input of layer `first` [T, C]: up to there the student is the teacher.
    shared: Tensor,
    /// Per layer: [T, C] where it is converted in the student.
    projected: Vec<Option<Tensor>>,
}

impl Teacher {
    /// Run the teacher over one sequence; `converted` says which layers the student converts.
    pub fn run(model: &Model, tokens: &[u32], converted: &[bool], aligned: bool) -> Result<Teacher> {
        let first = converted.iter().position(|c| *c).unwrap_or(converted.len());
        let mut x = model.embed(tokens)?;
        let mut shared = x.try_clone()?;
        let mut projected = Vec::with_capacity(converted.len());
        for (l, &c) in converted.iter().enumerate() {
            if l == first {
                shared = x.try_clone()?;
            }
            let (tape, y) = forward(model, l, x, None)?;
            projected.push(if aligned && c { Some(tape.projected) } else { None });
            x = y;
        }
        Ok(Teacher { hidden: x, shared, projected })
    }
}

impl<'a> Run<'a> {
    /// The student over the sequence that `teacher` saw. `weight`: of the alignment error in the loss; `recompute`:
    /// keep each layer's input only.
    pub fn forward(
        model: &'a Model,
        layers: &'a [Option<&'a DslaAttention>],
        teacher: &Teacher,
        weight: f64,
        recompute: bool,
    ) -> Result<Run<'a>> {
        let first = layers.iter().position(Option::is_some).unwrap_or(layers.len());
        let converted = layers.iter().flatten().count().max(1) as f64;
        let mut run = Run {
            model,
            layers,
            first,
            kept: vec![],
            d_projected: vec![],
            hidden: teacher.shared.try_clone()?,
            aligned: 0.0,
        };
        for l in first..layers.len() {
            let x = std::mem::replace(&mut run.hidden, Tensor::zeros([0], DType::F32));
            let input = if recompute { Some(x.try_clone()?) } else { None };
            let (tape, y) = forward(model, l, x, layers[l])?;
            run.d_projected.push(match (&teacher.projected[l], layers[l]) {
                (Some(target), Some(_)) => {
                    let spread = crate::align::spread(target)?.max(1e-12);
                    let mut delta = tape.projected.try_clone()?;
                    axpby::forward(-1.0, target.view(), 1.0, delta.view_mut())?;
                    run.aligned += crate::align::squares(&delta)? / spread / converted;
                    axpby::scale((2.0 * weight / spread / converted) as f32, delta.view_mut())?;
                    Some(delta)
                }
                _ => None,
            });
            run.kept.push(match input {
                Some(x) => Kept::Input(x),
                None => Kept::Tape(Box::new(tape)),
            });
            run.hidden = y;
        }
        Ok(run)
    }

    /// Gradients of the converted layers' parameters, added to `grads` (one per layer of the model, Some where it is
    /// converted), from that of the last layer's output [T, C]. `share`: this sequence's part of the step's alignment
    /// error.
    pub fn backward(
        mut self,
        weights: &Transposed,
        d_hidden: Tensor,
        share: f32,
        grads: &mut [Option<DslaParams>],
    ) -> Result<()> {
        let mut dx = d_hidden;
        for l in (self.first..self.layers.len()).rev() {
            let (Some(kept), Some(d_projected)) = (self.kept.pop(), self.d_projected.pop()) else { break };
            let tape = match kept {
                Kept::Tape(tape) => *tape,
                Kept::Input(x) => forward(self.model, l, x, self.layers[l])?.0,
            };
            dx = self.layer_backward(l, tape, weights, dx, d_projected.map(|d| (d, share)), &mut grads[l])?;
        }
        Ok(())
    }

    /// The gradient of the layer's input; at the lowest converted layer nobody asks for it, and what comes back is of no use.
    fn layer_backward(
        &self,
        l: usize,
        tape: Tape,
        weights: &Transposed,
        dy: Tensor,
        aligned: Option<(Tensor, f32)>,
        grads: &mut Option<DslaParams>,
    ) -> Result<Tensor> {
        let (model, layer, back) = (self.model, &self.model.layers()[l], &weights.layers[l]);
        let heads = model.heads();
        let (t, width) = (tape.x.dims()[0], heads.heads * heads.head_dim);
        // The MLP.
        let d_act = back.down.forward(dy.view())?;
        let mut d_gate_up = Tensor::empty_on(model.device(), tape.gate_up.shape(), DType::F32)?;
        swiglu::backward(tape.gate_up.view(), d_act.view(), d_gate_up.view_mut())?;
        let dh = back.gate_up.forward(d_gate_up.view())?;
        let mut dx = layer.mlp_norm.backward(tape.mid.view(), dh.view())?;
        axpby::forward(1.0, dy.view(), 1.0, dx.view_mut())?;
        // The output projection, where the alignment error joins.
        let joined;
        let d_projected = match aligned {
            Some((mut delta, share)) => {
                axpby::forward(1.0, dx.view(), share, delta.view_mut())?;
                joined = delta;
                &joined
            }
            None => &dx,
        };
        let mut d_mixed = back.o.forward(d_projected.view())?.reshape([t, heads.heads, heads.head_dim]);
        let dsla = self.layers[l].zip(grads.as_mut());
        let mut normed = None;
        let (dq, dk, dv, d_hidden) = match (&tape.mixer, dsla) {
            (Mixer::Dsla(saved), Some((dsla, grads))) => {
                let mixed = saved.out().view().reshape([t, width]);
                if let Some(more) = dsla.backward_o(mixed, d_projected.view(), grads)? {
                    axpby::forward(1.0, more.view().reshape(d_mixed.shape()), 1.0, d_mixed.view_mut())?;
                }
                if l == self.first && !dsla.form.reads_hidden() {
                    dsla.backward(saved, d_mixed.view(), grads)?;
                    return Ok(dx);
                }
                let d = dsla.backward_inputs(saved, d_mixed.view(), model.table(), grads)?;
                let h = layer.attn_norm.forward(tape.x.view())?;
                normed = dsla.backward_q(h.view(), d.q.view(), grads)?;
                (d.q, d.k, d.v, d.hidden)
            }
            (Mixer::Softmax { q, k, v, out }, _) => {
                let like = |x: &Tensor| Tensor::empty_on(model.device(), x.shape(), DType::F32);
                let (mut dq, mut dk, mut dv) = (like(q)?, like(k)?, like(v)?);
                softmax_attention::backward(
                    q.view(),
                    k.view(),
                    v.view(),
                    out.view(),
                    d_mixed.view(),
                    dq.view_mut(),
                    dk.view_mut(),
                    dv.view_mut(),
                )?;
                rotated_backward(&mut dq, model.table())?;
                rotated_backward(&mut dk, model.table())?;
                (dq, dk, dv, None)
            }
            (Mixer::Dsla(_), None) => unreachable!("a converted layer has its gradients"),
        };
        if l == self.first {
            return Ok(dx);
        }
        let mut d_qkv =
            Tensor::empty_on(model.device(), [t, width + 2 * heads.kv_heads * heads.head_dim], DType::F32)?;
        let mut at = 0;
        for d in [&dq, &dk, &dv] {
            let n = d.len() / t.max(1);
            copy::columns(d.view().reshape([t, n]), 0, n, d_qkv.view_mut(), at)?;
            at += n;
        }
        let mut dh = back.qkv.forward(d_qkv.view())?;
        for more in [normed, d_hidden].into_iter().flatten() {
            axpby::forward(1.0, more.view(), 1.0, dh.view_mut())?;
        }
        let through = layer.attn_norm.backward(tape.x.view(), dh.view())?;
        axpby::forward(1.0, through.view(), 1.0, dx.view_mut())?;
        Ok(dx)
    }
}
