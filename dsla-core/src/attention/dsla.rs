//! Dual-state linear attention over its parameters, in every form; the fold of a running KV cache.

mod train;

pub use train::{InputGrads, Saved};

use super::delta::{Delta, Side};
use super::{KvCache, Projected, in_dtype, positions, turn};
use crate::{DslaParams, FeatureMap, Form, Gate, GateInput, Heads, Normalizer, Projections};
use dsla_kernels::ops::rope::{self, Table};
use dsla_kernels::ops::{axpby, copy, dsla as op, feature_map, gate};
use dsla_kernels::{DType, Device, Result, Tensor, View, ViewMut};
use std::borrow::Cow;
use std::sync::Arc;

/// What one sequence keeps of its past in one DSLA layer: fixed size, however long the past.
#[derive(Clone, Debug)]
pub struct DslaState {
    /// S [2, G, F, D]: history, recency.
    pub s: Tensor,
    /// z [2, G, F].
    pub z: Tensor,
    /// The window ring, oldest first: rotated keys and values [R, G, D] in model dtype, R <= window.
    pub ring: KvCache,
    /// Keys and values of the sequence's first tokens, at most `sinks` of them.
    pub sinks: KvCache,
    /// Log decays of the ring's tokens [R, 2, G, E].
    pub ring_decay: Tensor,
    /// Tokens seen.
    pub len: usize,
}

impl DslaState {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.s.bytes() + self.z.bytes() + self.ring.bytes() + self.sinks.bytes() + self.ring_decay.bytes()
    }

    /// The first `leaving` tokens of the window are in the states now, and `t` more were seen.
    fn pass(&mut self, leaving: usize, t: usize) -> Result<()> {
        self.ring.k.drop_front(leaving)?;
        self.ring.v.drop_front(leaving)?;
        self.ring_decay.drop_front(leaving)?;
        self.len += t;
        Ok(())
    }
}

/// What follows from a layer's parameters, computed once for a layer that no longer trains.
#[derive(Debug)]
struct Ready {
    /// The states' weights [2, H].
    gamma: Tensor,
    q: Option<Delta>,
    o: Option<Delta>,
}

/// One DSLA layer: form, parameters, and what follows from them.
#[derive(Clone, Debug)]
pub struct DslaAttention {
    /// What kind of layer.
    pub form: Form,
    /// Trained. Those of a layer from [`DslaAttention::new`] may change; those of one that is
    /// [ready](DslaAttention::ready) must not.
    pub params: DslaParams,
    /// Sizes.
    pub heads: Heads,
    ready: Option<Arc<Ready>>,
}

impl DslaAttention {
    /// A layer over parameters on the host.
    pub fn new(form: Form, params: DslaParams, heads: Heads) -> DslaAttention {
        DslaAttention { form, params, heads, ready: None }
    }

    /// Where its parameters are.
    pub fn device(&self) -> Device {
        self.params.gate_w.device()
    }

    /// A copy to run, with its parameters on a device and what follows from them computed once; what it changes of its
    /// projections is multiplied in `dtype`, the model's (or f32, where it trains).
    ///
    /// Errors: no such device, no memory left there.
    pub fn ready(&self, device: Device, dtype: DType) -> Result<DslaAttention> {
        let params = self.params.to_device(device)?;
        let host = self.params.to_device(Device::Cpu)?;
        let ready = Ready {
            gamma: host.gamma_weights(self.heads.heads).to_device(device)?,
            q: Delta::of(&params, Side::Q, dtype)?,
            o: Delta::of(&params, Side::O, dtype)?,
        };
        Ok(DslaAttention { form: self.form, params, heads: self.heads, ready: Some(Arc::new(ready)) })
    }

    /// The two states' weights per query head [2, H].
    pub(super) fn gamma_weights(&self) -> Cow<'_, Tensor> {
        match &self.ready {
            Some(r) => Cow::Borrowed(&r.gamma),
            None => Cow::Owned(self.params.gamma_weights(self.heads.heads)),
        }
    }

    /// The layer's own change to its queries q [T, H, D] of the normalised input `hidden` [T, C]: added.
    ///
    /// Errors: a shape, dtype or device that does not fit; no memory left.
    pub fn adapt_q(&self, hidden: Option<&Tensor>, q: &mut Tensor) -> Result<()> {
        let delta = match &self.ready {
            Some(r) => r.q.as_ref().map(Cow::Borrowed),
            None => Delta::of(&self.params, Side::Q, DType::F32)?.map(Cow::Owned),
        };
        let Some(delta) = delta else { return Ok(()) };
        let (t, width) = (q.dims()[0], self.heads.heads * self.heads.head_dim);
        delta.add_to(self.hidden(hidden)?.view(), q.view_mut().reshape([t, width]))
    }

    /// The layer's own change to its output y [T, C] (the projection of its heads, `mixed` [T, H D]): added.
    ///
    /// Errors: a shape, dtype or device that does not fit; no memory left.
    pub fn adapt_o(&self, mixed: View, y: ViewMut) -> Result<()> {
        let delta = match &self.ready {
            Some(r) => r.o.as_ref().map(Cow::Borrowed),
            None => Delta::of(&self.params, Side::O, DType::F32)?.map(Cow::Owned),
        };
        delta.map_or(Ok(()), |d| d.add_to(mixed, y))
    }

    fn hidden<'a>(&self, hidden: Option<&'a Tensor>) -> Result<&'a Tensor> {
        hidden.ok_or_else(|| dsla_kernels::Error::Argument {
            op: "dsla",
            arg: "hidden",
            got: "none".into(),
            want: "the layer's input: this form reads it".into(),
        })
    }

    /// Decays per state and kv head.
    pub(super) fn decays(&self) -> usize {
        match self.form.gate {
            Gate::Scalar => 1,
            Gate::Vector => self.form.features(self.heads.head_dim),
        }
    }

    /// The state of a sequence that has seen nothing, on this layer's device.
    ///
    /// Errors: no memory left there.
    pub fn state(&self, dtype: DType) -> Result<DslaState> {
        let (g, d, f) = (self.heads.kv_heads, self.heads.head_dim, self.form.features(self.heads.head_dim));
        let device = self.device();
        Ok(DslaState {
            s: Tensor::zeros_on(device, [2, g, f, d], DType::F32)?,
            z: Tensor::zeros_on(device, [2, g, f], DType::F32)?,
            ring: KvCache::new(self.heads, dtype, device)?,
            sinks: KvCache::new(self.heads, dtype, device)?,
            ring_decay: Tensor::zeros_on(device, [0, 2, g, self.decays()], DType::F32)?,
            len: 0,
        })
    }

    /// Bytes of a sequence's state once its ring is full.
    pub fn state_bytes(&self, dtype: DType) -> usize {
        let (g, d, f) = (self.heads.kv_heads, self.heads.head_dim, self.form.features(self.heads.head_dim));
        8 * g * f * (d + 1)
            + self.form.window * g * (2 * d * dtype.size() + 8 * self.decays())
            + self.form.sinks * g * 2 * d * dtype.size()
    }

    /// What the gates see: [T, G, 2 D] of un-rotated keys and values, or [T, 1, C].
    pub(super) fn gate_input(&self, k: &Tensor, v: &Tensor, hidden: Option<&Tensor>) -> Result<Tensor> {
        let (t, g, d) = (k.dims()[0], self.heads.kv_heads, self.heads.head_dim);
        match self.form.gate_input {
            GateInput::Kv => {
                let mut x = Tensor::empty_on(k.device(), [t * g, 2 * d], DType::F32)?;
                for (part, at) in [(k, 0), (v, d)] {
                    let part = in_dtype(part, DType::F32)?;
                    copy::columns(part.view().reshape([t * g, d]), 0, d, x.view_mut(), at)?;
                }
                Ok(x.reshape([t, g, 2 * d]))
            }
            GateInput::Hidden => {
                let hidden = self.hidden(hidden)?;
                Ok(hidden.to_dtype(DType::F32)?.reshape([t, 1, hidden.len() / t.max(1)]))
            }
        }
    }

    pub(super) fn log_decays(&self, gate_x: &Tensor) -> Result<Tensor> {
        let t = gate_x.dims()[0];
        let shape = [t, 2, self.heads.kv_heads, self.decays()];
        let mut y = Tensor::empty_on(gate_x.device(), shape, DType::F32)?;
        let p = &self.params;
        gate::forward(gate_x.view(), p.gate_w.view(), p.gate_b.view(), self.form.gate_scale, y.view_mut())?;
        Ok(y)
    }

    pub(super) fn features(&self, x: dsla_kernels::View, map: &Option<Tensor>, scale: f32) -> Result<Tensor> {
        self.features_as(x, map, scale, DType::F32)
    }

    /// `dtype` is that of the plain form's features.
    fn features_as(&self, x: View, map: &Option<Tensor>, scale: f32, dtype: DType) -> Result<Tensor> {
        let [t, n, d] = x.dims("dsla", "features")?;
        match (self.form.feature_map, map) {
            (FeatureMap::SoftmaxPm, Some(w)) => {
                let mut y = Tensor::empty_on(x.device(), [t, n, 2 * d], dtype)?;
                feature_map::forward(x, w.view(), y.view_mut())?;
                Ok(y)
            }
            (FeatureMap::Softmax, Some(w)) => {
                let mut both = Tensor::empty_on(x.device(), [t, n, 2 * d], DType::F32)?;
                feature_map::forward(x, w.view(), both.view_mut())?;
                let mut y = Tensor::empty_on(x.device(), [t * n, d], DType::F32)?;
                copy::columns(both.view().reshape([t * n, 2 * d]), 0, d, y.view_mut(), 0)?;
                Ok(y.reshape([t, n, d]))
            }
            _ => {
                let mut y = Tensor::empty_on(x.device(), [t, n, d], DType::F32)?;
                copy::cast(x, y.view_mut())?;
                if scale != 1.0 {
                    axpby::scale(scale, y.view_mut())?;
                }
                Ok(y)
            }
        }
    }

    /// Features of keys that leave the window, the first of them at position `oldest`: sinks have none.
    fn key_features(&self, k: View, oldest: usize, dtype: DType) -> Result<Tensor> {
        let mut phi = self.features_as(k, &self.params.map_k, 1.0, dtype)?;
        self.zero_sinks(&mut phi, oldest)?;
        Ok(phi)
    }

    fn zero_sinks(&self, phi: &mut Tensor, oldest: usize) -> Result<()> {
        let sinks = self.form.sinks.saturating_sub(oldest).min(phi.dims()[0]);
        phi.zero_rows(0, sinks)
    }

    pub(super) fn query_scale(&self) -> f32 {
        1.0 / (self.heads.head_dim as f32).sqrt()
    }

    /// A per-head tensor of the parameters, or zeros: forms without a window have none.
    pub(super) fn per_head<'a>(&self, x: &'a Option<Tensor>) -> Result<Cow<'a, Tensor>> {
        match x {
            Some(x) => Ok(Cow::Borrowed(x)),
            None => Ok(Cow::Owned(Tensor::zeros_on(self.device(), [self.heads.heads], DType::F32)?)),
        }
    }

    pub(super) fn normalizer(&self) -> op::Normalizer {
        match self.form.normalizer {
            Normalizer::None => op::Normalizer::None,
            Normalizer::Sum => op::Normalizer::Sum,
            Normalizer::Rms => op::Normalizer::Rms,
        }
    }

    /// Attend with the sequence's state, which takes the new tokens in: [T, H, D] in `dtype`.
    ///
    /// Errors: a shape, dtype or device that does not fit; no memory left.
    pub fn forward(
        &self,
        mut x: Projected,
        table: &Table,
        state: &mut DslaState,
        dtype: DType,
    ) -> Result<Tensor> {
        let (form, p) = (&self.form, &self.params);
        let first = state.len;
        if form.projections != Projections::Frozen {
            self.adapt_q(x.hidden.as_ref(), &mut x.q)?;
        }
        if form.rope {
            turn(&mut x.q, first, table, false)?;
        }
        let leaving = self.append(&x, table, state)?;
        let features = self.feature_dtype(state, x.len());
        let phi_q = self.features_as(x.q.view(), &p.map_q, self.query_scale(), features)?;
        let oldest = first + x.len() - state.ring.len();
        let phi_k = self.key_features(state.ring.k.rows(0, leaving), oldest, features)?;
        let (gamma, mix, slope) = (self.gamma_weights(), self.per_head(&p.mix)?, self.per_head(&p.slope)?);
        // (Where features are rounded, the output may be, too.)
        let direct = if dtype == features { dtype } else { DType::F32 };
        let mut out = Tensor::empty_on(x.q.device(), x.q.shape(), direct)?;
        let args = op::Args {
            q: x.q.view(),
            k: state.ring.k.view(),
            v: state.ring.v.view(),
            sink_k: state.sinks.k.view(),
            sink_v: state.sinks.v.view(),
            position: first,
            phi_q: phi_q.view(),
            phi_k: phi_k.view(),
            log_decay: state.ring_decay.rows(0, leaving),
            gamma: gamma.view(),
            mix: mix.view(),
            slope: slope.view(),
            window: form.window,
            normalizer: self.normalizer(),
        };
        let into = op::State { s: state.s.view_mut(), z: state.z.view_mut() };
        op::forward(&args, into, None, out.view_mut())?;
        state.pass(leaving, x.len())?;
        if direct == dtype { Ok(out) } else { out.to_dtype(dtype) }
    }

    /// [`DslaAttention::forward`] of tokens whose outputs nobody reads: the state takes them in, with the bits of that.
    ///
    /// Errors: as there.
    pub fn take_in(&self, x: Projected, table: &Table, state: &mut DslaState) -> Result<()> {
        if x.len() == 1 {
            // The recurrent step has bits of its own.
            return self.forward(x, table, state, DType::F32).map(drop);
        }
        let oldest = state.len - state.ring.len();
        let leaving = self.append(&x, table, state)?;
        if leaving > 0 {
            let keys = state.ring.k.rows(0, leaving);
            let phi_k = self.key_features(keys, oldest, self.feature_dtype(state, x.len()))?;
            let into = op::State { s: state.s.view_mut(), z: state.z.view_mut() };
            let (v, decay) = (state.ring.v.rows(0, leaving), state.ring_decay.rows(0, leaving));
            op::fold(phi_k.view(), v, decay, into)?;
        }
        state.pass(leaving, x.len())
    }

    /// New tokens' keys, values and decays behind those of the window, and their first among the sinks. How many of the window
    /// leave it.
    fn append(&self, x: &Projected, table: &Table, state: &mut DslaState) -> Result<usize> {
        let first = state.len;
        let decay = self.log_decays(&self.gate_input(&x.k, &x.v, x.hidden.as_ref())?)?;
        let (fresh, ring) = (self.form.sinks.saturating_sub(first).min(x.len()), state.ring.len());
        match self.form.rope {
            true => {
                state.ring.k.grow(x.len())?;
                let positions = positions(first, x.len());
                rope::forward_cache(x.k.view(), positions.view(), table, state.ring.k.view_mut(), ring)?;
            }
            false => state.ring.k.extend(x.k.view())?,
        }
        state.sinks.k.extend(state.ring.k.rows(ring, ring + fresh))?;
        state.sinks.v.extend(x.v.rows(0, fresh))?;
        state.ring.v.extend(x.v.view())?;
        state.ring_decay.extend(decay.view())?;
        Ok(state.ring.len().saturating_sub(self.form.window))
    }

    /// What features of a call of t tokens are handed over in.
    fn feature_dtype(&self, state: &DslaState, t: usize) -> DType {
        let f = self.form.features(self.heads.head_dim);
        let rounds = op::rounds_features(&state.ring.v.view(), t, f, self.decays());
        match rounds && self.form.feature_map == FeatureMap::SoftmaxPm {
            true => DType::BF16,
            false => DType::F32,
        }
    }

    /// The state this layer would hold had it run from the first token on the same inputs: one pass over the cache.
    /// Only for forms whose gates read keys and values.
    pub fn fold(&self, cache: &KvCache, table: &Table, dtype: DType) -> Result<DslaState> {
        if !self.form.foldable() {
            return Err(dsla_kernels::Error::Argument {
                op: "fold",
                arg: "gate_input",
                got: "hidden".into(),
                want: "kv: a cache does not hold the layer's inputs".into(),
            });
        }
        let mut state = self.state(dtype)?;
        let mut plain = cache.k.to_dtype(DType::F32)?;
        turn(&mut plain, 0, table, true)?;
        let decay = self.log_decays(&self.gate_input(&plain, &cache.v, None)?)?;
        let leaving = cache.len().saturating_sub(self.form.window);
        let keys = if self.form.rope { &cache.k } else { &plain };
        let phi_k = self.key_features(keys.rows(0, leaving), 0, DType::F32)?;
        let into = op::State { s: state.s.view_mut(), z: state.z.view_mut() };
        op::fold(phi_k.view(), cache.v.rows(0, leaving), decay.rows(0, leaving), into)?;
        let sinks = self.form.sinks.min(cache.len());
        state.sinks.k.extend(keys.rows(0, sinks))?;
        state.sinks.v.extend(cache.v.rows(0, sinks))?;
        state.ring.k.extend(keys.rows(leaving, cache.len()))?;
        state.ring.v.extend(cache.v.rows(leaving, cache.len()))?;
        state.ring_decay.extend(decay.rows(leaving, cache.len()))?;
        state.len = cache.len();
        Ok(state)
    }
}
