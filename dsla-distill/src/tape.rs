//! One layer over one sequence: forward with what the backward pass needs, and backward to the layer's input, to the
//! parameters of its converted attention, and, where the layer itself is trained, to its weights.

use crate::Result;
use crate::transposed::TransposedLayer;
use dsla_core::attention::{DslaAttention, Saved, rotated, rotated_backward};
use dsla_core::kernels::ops::linear::{self, Into};
use dsla_core::kernels::ops::rope::Table;
use dsla_core::kernels::ops::{axpby, copy, softmax_attention, swiglu};
use dsla_core::{DType, Device, DslaParams, Heads, Projected, Tensor};
use dsla_model::{Layer, Model};

/// What all layers of a model share.
pub struct Net<'a> {
    pub heads: Heads,
    pub table: &'a Table,
    /// Of keys and values.
    pub dtype: DType,
    pub device: Device,
}

impl Net<'_> {
    pub fn of(model: &Model) -> Net<'_> {
        Net { heads: model.heads(), table: model.table(), dtype: model.dtype(), device: model.device() }
    }

    fn empty(&self, dims: &[usize]) -> Result<Tensor> {
        Ok(Tensor::empty_on(self.device, dims, DType::F32)?)
    }
}

/// The weights of one layer, or their gradients, moments: all f32. Biases are not among them.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// [C]
    pub attn_norm: Tensor,
    /// [(H + 2 G) D, C]
    pub qkv: Tensor,
    /// [C, H D]
    pub o: Tensor,
    /// [C]
    pub mlp_norm: Tensor,
    /// [2 F, C]
    pub gate_up: Tensor,
    /// [C, F]
    pub down: Tensor,
}

/// Where a backward pass adds gradients.
#[derive(Default)]
pub struct Grads<'g> {
    /// Of the converted attention; wanted wherever there is one.
    pub dsla: Option<&'g mut DslaParams>,
    /// Of the layer's own weights.
    pub base: Option<&'g mut LayerWeights>,
}

/// What a layer's backward pass wants of its forward pass.
pub struct Tape {
    /// The layer's input [T, C].
    x: Tensor,
    mixer: Mixer,
    /// After attention [T, C].
    mid: Tensor,
    /// The attention's output behind its projection [T, C].
    pub projected: Tensor,
    /// [T, 2 F], before the activation.
    gate_up: Tensor,
}

enum Mixer {
    Softmax(Box<Exact>),
    Dsla(Box<Saved>),
}

/// What softmax attention saw, rotated, and said: [T, heads, D] each.
struct Exact {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
}

impl Mixer {
    fn out(&self) -> &Tensor {
        match self {
            Mixer::Softmax(exact) => &exact.out,
            Mixer::Dsla(saved) => saved.out(),
        }
    }
}

/// One layer, converted or not.
pub struct Block<'a> {
    pub net: &'a Net<'a>,
    pub layer: &'a Layer,
    /// None: softmax.
    pub dsla: Option<&'a DslaAttention>,
}

impl Block<'_> {
    /// A sequence that begins here; the tape and the layer's output [T, C].
    pub fn forward(&self, x: Tensor) -> Result<(Tape, Tensor)> {
        let Block { net, layer, dsla } = self;
        let (t, width) = (x.dims()[0], net.heads.heads * net.heads.head_dim);
        let h = layer.attn_norm.forward(x.view())?;
        let mut plain = Projected::of(&layer.qkv, h.view(), net.heads, None)?;
        if let Some(dsla) = dsla {
            dsla.adapt_q(Some(&h), &mut plain.q)?;
        }
        let rotate = dsla.is_none_or(|d| d.form.rope);
        let turned = |x: &Tensor| if rotate { rotated(x, 0, net.table) } else { x.try_clone() };
        let (q, k) = (turned(&plain.q)?, turned(&plain.k)?.to_dtype(net.dtype)?);
        let mixer = match dsla {
            Some(dsla) => {
                let hidden = dsla.form.reads_hidden().then_some(&h);
                Mixer::Dsla(Box::new(dsla.forward_train(q, k, plain.v, &plain.k, hidden)?))
            }
            None => {
                let v = plain.v.to_dtype(net.dtype)?;
                let mut out = net.empty(q.dims())?;
                softmax_attention::forward(q.view(), k.view(), v.view(), out.view_mut())?;
                Mixer::Softmax(Box::new(Exact { q, k, v, out }))
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
        let act = self.activated(&gate_up)?;
        let mut y = mid.try_clone()?;
        layer.mlp.down.forward_into(act.view(), Into::Add, y.view_mut())?;
        Ok((Tape { x, mixer, mid, projected, gate_up }, y))
    }

    fn activated(&self, gate_up: &Tensor) -> Result<Tensor> {
        let mut act = self.net.empty(&[gate_up.dims()[0], gate_up.dims()[1] / 2])?;
        swiglu::forward(gate_up.view(), act.view_mut())?;
        Ok(act)
    }

    /// From the gradient of the layer's output [T, C] to that of its input. `aligned`: a further gradient of the
    /// projected attention output, and its factor. Where the input's gradient is not wanted (`input`) what comes back is
    /// of no use.
    pub fn backward(
        &self,
        back: &TransposedLayer,
        tape: Tape,
        dy: Tensor,
        aligned: Option<(Tensor, f32)>,
        mut grads: Grads,
        input: bool,
    ) -> Result<Tensor> {
        let mut dx = self.mlp_backward(back, &tape, dy, grads.base.as_deref_mut())?;
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
        let input = input || grads.base.is_some();
        let Some(d_qkv) = self.attention_backward(back, &tape, d_projected, &mut grads, input)? else {
            return Ok(dx);
        };
        let mut dh = back.qkv.forward(d_qkv.projections.view())?;
        for more in d_qkv.normed.into_iter().flatten() {
            axpby::forward(1.0, more.view(), 1.0, dh.view_mut())?;
        }
        let norm = &self.layer.attn_norm;
        let through = match grads.base {
            Some(g) => {
                let h = norm.forward(tape.x.view())?;
                linear::backward_weight(h.view(), d_qkv.projections.view(), g.qkv.view_mut())?;
                norm.backward_weight(tape.x.view(), dh.view(), g.attn_norm.view_mut())?
            }
            None => norm.backward(tape.x.view(), dh.view())?,
        };
        axpby::forward(1.0, through.view(), 1.0, dx.view_mut())?;
        Ok(dx)
    }

    /// The gradient of the MLP's input, residual path included.
    fn mlp_backward(
        &self,
        back: &TransposedLayer,
        tape: &Tape,
        dy: Tensor,
        grads: Option<&mut LayerWeights>,
    ) -> Result<Tensor> {
        let norm = &self.layer.mlp_norm;
        let d_act = back.down.forward(dy.view())?;
        let mut d_gate_up = self.net.empty(tape.gate_up.dims())?;
        swiglu::backward(tape.gate_up.view(), d_act.view(), d_gate_up.view_mut())?;
        let dh = back.gate_up.forward(d_gate_up.view())?;
        let mut dx = match grads {
            Some(g) => {
                let act = self.activated(&tape.gate_up)?;
                linear::backward_weight(act.view(), dy.view(), g.down.view_mut())?;
                let h = norm.forward(tape.mid.view())?;
                linear::backward_weight(h.view(), d_gate_up.view(), g.gate_up.view_mut())?;
                norm.backward_weight(tape.mid.view(), dh.view(), g.mlp_norm.view_mut())?
            }
            None => norm.backward(tape.mid.view(), dh.view())?,
        };
        axpby::forward(1.0, dy.view(), 1.0, dx.view_mut())?;
        Ok(dx)
    }

    /// From the gradient of the projected attention output to that of the fused projections; None where it is not
    /// wanted.
    fn attention_backward(
        &self,
        back: &TransposedLayer,
        tape: &Tape,
        d_projected: &Tensor,
        grads: &mut Grads,
        input: bool,
    ) -> Result<Option<FromAttention>> {
        let Block { net, layer, dsla } = self;
        let n = net.heads;
        let (t, width) = (tape.x.dims()[0], n.heads * n.head_dim);
        let mixed = tape.mixer.out().view().reshape([t, width]);
        if let Some(g) = grads.base.as_deref_mut() {
            linear::backward_weight(mixed, d_projected.view(), g.o.view_mut())?;
        }
        let mut d_mixed = back.o.forward(d_projected.view())?.reshape([t, n.heads, n.head_dim]);
        let mut normed = [None, None];
        let (dq, dk, dv) = match (&tape.mixer, dsla.zip(grads.dsla.as_deref_mut())) {
            (Mixer::Dsla(saved), Some((dsla, grads))) => {
                if let Some(more) = dsla.backward_o(mixed, d_projected.view(), grads)? {
                    axpby::forward(1.0, more.view().reshape(d_mixed.shape()), 1.0, d_mixed.view_mut())?;
                }
                if !input && !dsla.form.reads_hidden() {
                    dsla.backward(saved, d_mixed.view(), grads)?;
                    return Ok(None);
                }
                let d = dsla.backward_inputs(saved, d_mixed.view(), net.table, grads)?;
                let h = layer.attn_norm.forward(tape.x.view())?;
                normed = [dsla.backward_q(h.view(), d.q.view(), grads)?, d.hidden];
                (d.q, d.k, d.v)
            }
            (Mixer::Softmax(exact), _) => {
                let Exact { q, k, v, out } = exact.as_ref();
                let (mut dq, mut dk, mut dv) =
                    (net.empty(q.dims())?, net.empty(k.dims())?, net.empty(v.dims())?);
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
                rotated_backward(&mut dq, net.table)?;
                rotated_backward(&mut dk, net.table)?;
                (dq, dk, dv)
            }
            (Mixer::Dsla(_), None) => unreachable!("a converted layer has its gradients"),
        };
        if !input {
            return Ok(None);
        }
        let mut projections = net.empty(&[t, width + 2 * n.kv_heads * n.head_dim])?;
        let mut at = 0;
        for d in [&dq, &dk, &dv] {
            let n = d.len() / t.max(1);
            copy::columns(d.view().reshape([t, n]), 0, n, projections.view_mut(), at)?;
            at += n;
        }
        Ok(Some(FromAttention { projections, normed }))
    }
}

/// Gradients that attention sends back.
struct FromAttention {
    /// Of the fused projections [T, (H + 2 G) D].
    projections: Tensor,
    /// Of the normalised input [T, C], where the converted attention reads it.
    normed: [Option<Tensor>; 2],
}
