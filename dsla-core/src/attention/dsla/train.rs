//! A DSLA layer over a whole sequence, forward with what the backward pass needs, and backward.

use super::DslaAttention;
use crate::attention::delta::{self, Side};
use crate::attention::rotated_backward;
use crate::{DslaParams, FeatureMap, GateInput};
use dsla_kernels::ops::rope::Table;
use dsla_kernels::ops::{axpby, copy, dsla as op, feature_map, gate};
use dsla_kernels::{DType, Device, Result, Tensor, View};
use std::borrow::Cow;

/// What the backward pass wants of a forward pass over a whole sequence.
pub struct Saved {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    leaving: usize,
    gate_x: Tensor,
    log_decay: Tensor,
    phi_q: Tensor,
    phi_k: Tensor,
    gamma: Tensor,
    den: Tensor,
    peak: Tensor,
    out: Tensor,
}

/// Gradients of what a layer was given: the projections of its input, before any rotation.
pub struct InputGrads {
    /// Of the queries [T, H, D].
    pub q: Tensor,
    /// Of the keys [T, G, D].
    pub k: Tensor,
    /// Of the values [T, G, D].
    pub v: Tensor,
    /// Of the layer's normalised input [T, C], through gates that read it.
    pub hidden: Option<Tensor>,
}

impl DslaAttention {
    /// Attend over a whole sequence from nothing, keeping what [`DslaAttention::backward`] needs. `q`, `k`: rotated
    /// if the form rotates, keys in model dtype; `plain_k`, `v` (and `hidden`): what the gates see.
    pub fn forward_train(
        &self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plain_k: &Tensor,
        hidden: Option<&Tensor>,
    ) -> Result<Saved> {
        let (t, h) = (q.dims()[0], self.heads.heads);
        let p = &self.params;
        let gate_x = self.gate_input(plain_k, &v, hidden)?;
        // On a GPU keys and values have one dtype, as in a cache; the host takes exact values beside rounded keys.
        let v = if v.device() == Device::Cpu { v } else { v.to_dtype(k.dtype())? };
        let log_decay = self.log_decays(&gate_x)?;
        let leaving = t.saturating_sub(self.form.window);
        let phi_q = self.features(q.view(), &p.map_q, self.query_scale())?;
        let phi_k = self.key_features(k.rows(0, leaving), 0, DType::F32)?;
        let device = q.device();
        let mut saved = Saved {
            out: Tensor::empty_on(device, q.shape(), DType::F32)?,
            den: Tensor::empty_on(device, [t, h], DType::F32)?,
            peak: Tensor::empty_on(device, [t, h], DType::F32)?,
            gamma: self.gamma_weights().into_owned(),
            q,
            k,
            v,
            leaving,
            gate_x,
            log_decay,
            phi_q,
            phi_k,
        };
        let mut state = self.state(DType::F32)?;
        let (mix, slope) = (self.per_head(&p.mix)?, self.per_head(&p.slope)?);
        let mut out = Tensor::empty_on(device, saved.q.shape(), DType::F32)?;
        let mut den = Tensor::empty_on(device, [t, h], DType::F32)?;
        let mut peak = Tensor::empty_on(device, [t, h], DType::F32)?;
        let into = op::State { s: state.s.view_mut(), z: state.z.view_mut() };
        let keep = op::Saved { den: den.view_mut(), peak: peak.view_mut() };
        op::forward(&self.args(&saved, &mix, &slope), into, Some(keep), out.view_mut())?;
        (saved.out, saved.den, saved.peak) = (out, den, peak);
        Ok(saved)
    }

    fn args<'a>(&self, s: &'a Saved, mix: &'a Tensor, slope: &'a Tensor) -> op::Args<'a> {
        op::Args {
            q: s.q.view(),
            k: s.k.view(),
            v: s.v.view(),
            sink_k: s.k.rows(0, self.form.sinks.min(s.k.dims()[0])),
            sink_v: s.v.rows(0, self.form.sinks.min(s.k.dims()[0])),
            position: 0,
            phi_q: s.phi_q.view(),
            phi_k: s.phi_k.view(),
            log_decay: s.log_decay.rows(0, s.leaving),
            gamma: s.gamma.view(),
            mix: mix.view(),
            slope: slope.view(),
            window: self.form.window,
            normalizer: self.normalizer(),
        }
    }

    /// Gradients of the parameters, added to `grads`, from d_out [T, H, D].
    pub fn backward(&self, saved: &Saved, d_out: View, grads: &mut DslaParams) -> Result<()> {
        self.both_backward(saved, d_out, grads, None).map(|_| ())
    }

    /// [`DslaAttention::backward`], and the gradients of q, k, v and the gates' input. `table`: what rotated q and k
    /// at positions 0..T.
    pub fn backward_inputs(
        &self,
        saved: &Saved,
        d_out: View,
        table: &Table,
        grads: &mut DslaParams,
    ) -> Result<InputGrads> {
        let n = self.form.sinks.min(saved.k.dims()[0]);
        let like =
            |x: &Tensor, rows| Tensor::empty_on(self.device(), [rows, x.dims()[1], x.dims()[2]], DType::F32);
        let t = saved.q.dims()[0];
        let mut into = Inputs {
            q: like(&saved.q, t)?,
            k: like(&saved.k, t)?,
            v: like(&saved.v, t)?,
            sink_k: like(&saved.k, n)?,
            sink_v: like(&saved.v, n)?,
        };
        let d_gate = self.both_backward(saved, d_out, grads, Some(&mut into))?;
        let Inputs { mut q, mut k, mut v, sink_k, sink_v } = into;
        // The sinks are the first keys seen once more.
        axpby::forward(1.0, sink_k.view(), 1.0, k.view_mut().rows(0, n))?;
        axpby::forward(1.0, sink_v.view(), 1.0, v.view_mut().rows(0, n))?;
        if self.form.rope {
            rotated_backward(&mut q, table)?;
            rotated_backward(&mut k, table)?;
        }
        let Some(d_gate) = d_gate else { return Ok(InputGrads { q, k, v, hidden: None }) };
        if self.form.gate_input == GateInput::Hidden {
            let c = d_gate.dims()[2];
            return Ok(InputGrads { q, k, v, hidden: Some(d_gate.reshape([t, c])) });
        }
        let (rows, d) = (t * self.heads.kv_heads, self.heads.head_dim);
        let d_gate = d_gate.reshape([rows, 2 * d]);
        let mut part = Tensor::empty_on(self.device(), [rows, d], DType::F32)?;
        for (x, from) in [(&mut k, 0), (&mut v, d)] {
            copy::columns(d_gate.view(), from, d, part.view_mut(), 0)?;
            axpby::forward(1.0, part.view(), 1.0, x.view_mut().reshape([rows, d]))?;
        }
        Ok(InputGrads { q, k, v, hidden: None })
    }

    /// [`adapt_q`](DslaAttention::adapt_q) backward, from the gradient of the un-rotated queries: the gradient of
    /// `hidden` [T, C].
    pub fn backward_q(&self, hidden: View, d_q: View, grads: &mut DslaParams) -> Result<Option<Tensor>> {
        let t = hidden.shape().dims()[0];
        let width = self.heads.heads * self.heads.head_dim;
        delta::backward(&self.params, Side::Q, hidden, d_q.reshape([t, width]), grads)
    }

    /// [`adapt_o`](DslaAttention::adapt_o) backward, from d_y [T, C]: the gradient of `mixed` [T, H D].
    pub fn backward_o(&self, mixed: View, d_y: View, grads: &mut DslaParams) -> Result<Option<Tensor>> {
        delta::backward(&self.params, Side::O, mixed, d_y, grads)
    }

    /// Features of both signs [T, n, 2 D], which the map's backward pass reads: kept, or made again for the map that
    /// drops one.
    fn both_signs<'a>(&self, x: View, w: &Tensor, kept: &'a Tensor) -> Result<Cow<'a, Tensor>> {
        if self.form.feature_map != FeatureMap::Softmax {
            return Ok(Cow::Borrowed(kept));
        }
        let [t, n, d] = x.dims("dsla", "features")?;
        let mut both = Tensor::empty_on(x.device(), [t, n, 2 * d], DType::F32)?;
        feature_map::forward(x, w.view(), both.view_mut())?;
        Ok(Cow::Owned(both))
    }

    /// Their gradients: nothing for the dropped sign.
    fn padded(&self, d_phi: Tensor) -> Result<Tensor> {
        if self.form.feature_map != FeatureMap::Softmax {
            return Ok(d_phi);
        }
        let [t, n, d] = d_phi.view().dims("dsla", "d_features")?;
        let mut both = Tensor::zeros_on(d_phi.device(), [t * n, 2 * d], DType::F32)?;
        copy::columns(d_phi.view().reshape([t * n, d]), 0, d, both.view_mut(), 0)?;
        Ok(both.reshape([t, n, 2 * d]))
    }

    /// Parameters always; with `inputs`, the gradients of q and k as rotated, of v, and (returned) of the gates'
    /// input.
    fn both_backward(
        &self,
        saved: &Saved,
        d_out: View,
        grads: &mut DslaParams,
        mut inputs: Option<&mut Inputs>,
    ) -> Result<Option<Tensor>> {
        let (h, leaving) = (self.heads.heads, saved.leaving);
        let p = &self.params;
        let (mix, slope) = (self.per_head(&p.mix)?, self.per_head(&p.slope)?);
        let zero = self.state(DType::F32)?;
        let device = self.device();
        let like = |t: &Tensor| Tensor::empty_on(device, t.shape(), DType::F32);
        let (mut d_phi_q, mut d_phi_k) = (like(&saved.phi_q)?, like(&saved.phi_k)?);
        let mut d_decay = Tensor::zeros_on(device, saved.log_decay.shape(), DType::F32)?;
        let mut d_gamma = Tensor::zeros_on(device, [2, h], DType::F32)?;
        let mut d_mix = Tensor::zeros_on(device, [h], DType::F32)?;
        let mut d_slope = Tensor::zeros_on(device, [h], DType::F32)?;
        let (mut d_s, mut d_z) = (zero.s.try_clone()?, zero.z.try_clone()?);
        let into = op::Grads {
            phi_q: d_phi_q.view_mut(),
            phi_k: d_phi_k.view_mut(),
            log_decay: d_decay.view_mut().rows(0, leaving),
            gamma: d_gamma.view_mut(),
            mix: d_mix.view_mut(),
            slope: d_slope.view_mut(),
            s: d_s.view_mut(),
            z: d_z.view_mut(),
            qkv: inputs
                .as_deref_mut()
                .map(|i| [&mut i.q, &mut i.k, &mut i.v, &mut i.sink_k, &mut i.sink_v].map(Tensor::view_mut)),
        };
        op::backward(
            &self.args(saved, &mix, &slope),
            zero.s.view(),
            zero.z.view(),
            saved.den.view(),
            saved.peak.view(),
            saved.out.view(),
            d_out,
            into,
        )?;
        self.zero_sinks(&mut d_phi_k, 0)?;
        let mut d_x: [Option<&mut Tensor>; 2] = match inputs.as_deref_mut() {
            Some(i) => [Some(&mut i.q), Some(&mut i.k)],
            None => [None, None],
        };
        for (i, (map, grad, x, phi, d_phi, scale)) in [
            (&p.map_q, &mut grads.map_q, saved.q.view(), &saved.phi_q, d_phi_q, self.query_scale()),
            (&p.map_k, &mut grads.map_k, saved.k.rows(0, leaving), &saved.phi_k, d_phi_k, 1.0),
        ]
        .into_iter()
        .enumerate()
        {
            let rows = x.shape().dims()[0];
            let through = match (map, grad) {
                (Some(w), Some(dw)) => {
                    let (phi, d_phi) = (self.both_signs(x, w, phi)?, self.padded(d_phi)?);
                    let mut du = match d_x[i] {
                        Some(_) => Some(Tensor::empty_on(device, x.shape(), DType::F32)?),
                        None => None,
                    };
                    let du_view = du.as_mut().map(Tensor::view_mut);
                    feature_map::backward(x, w.view(), phi.view(), d_phi.view(), dw.view_mut(), du_view)?;
                    du
                }
                _ => Some(d_phi),
            };
            if let (Some(d_x), Some(du)) = (&mut d_x[i], through) {
                let a = if self.form.feature_map == FeatureMap::None { scale } else { 1.0 };
                axpby::forward(a, du.view(), 1.0, d_x.view_mut().rows(0, rows))?;
            }
        }
        let mut d_gate = match inputs {
            Some(_) => Some(like(&saved.gate_x)?),
            None => None,
        };
        gate::backward(
            saved.gate_x.view(),
            p.gate_w.view(),
            self.form.gate_scale,
            saved.log_decay.view(),
            d_decay.view(),
            grads.gate_w.view_mut(),
            grads.gate_b.view_mut(),
            d_gate.as_mut().map(Tensor::view_mut),
        )?;
        grads.add_gamma_gradient(&saved.gamma, &d_gamma)?;
        for (grad, d) in [(&mut grads.mix, &d_mix), (&mut grads.slope, &d_slope)] {
            if let Some(grad) = grad {
                axpby::forward(1.0, d.view(), 1.0, grad.view_mut())?;
            }
        }
        Ok(d_gate)
    }
}

/// Gradients as the op gives them.
struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink_k: Tensor,
    sink_v: Tensor,
}

impl Saved {
    /// The layer's output [T, H, D].
    pub fn out(&self) -> &Tensor {
        &self.out
    }

    /// Query features [T, H, F].
    pub fn phi_q(&self) -> &Tensor {
        &self.phi_q
    }

    /// Features of the keys that left the window [L, G, F].
    pub fn phi_k(&self) -> &Tensor {
        &self.phi_k
    }

    /// Log decays of all tokens [T, 2, G, E].
    pub fn log_decay(&self) -> &Tensor {
        &self.log_decay
    }
}
