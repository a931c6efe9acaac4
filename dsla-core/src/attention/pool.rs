//! Memory of a batch of sequences at fixed addresses, and one decode step over it: what a CUDA graph can replay. What
//! changes from step to step (which token, at which position, in which row) is read from device memory.

use super::{DslaAttention, DslaState, KvCache, Projected, in_dtype, rotated_as};
use crate::{Heads, activation};
use dsla_kernels::ops::rope::{self, Table};
use dsla_kernels::ops::{copy, dsla, softmax_attention as op};
use dsla_kernels::{DType, Device, Result, Tensor, View};
use std::borrow::Cow;

/// Where each sequence of the batch stands in this step: [B] u32 on the device, but `table`.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Position of the new token.
    pub position: View<'a>,
    /// Tokens with the new one.
    pub len: View<'a>,
    /// Row of the pool [P * page, G, D] that the new token's key and value go to.
    pub row: View<'a>,
    /// Pages of each sequence [B, pages].
    pub table: View<'a>,
    /// Slot in the pools of states.
    pub slot: View<'a>,
    /// Row of its window ring that holds the oldest key.
    pub head: View<'a>,
    /// That row among all rings [SLOTS * window].
    pub leaving: View<'a>,
    /// The row of all rings that the new token takes.
    pub entering: View<'a>,
    /// b, or B where the key that leaves is a sink: those have no features.
    pub features: View<'a>,
}

/// Paged keys and values of one softmax layer: [P, page, G, D] in model dtype.
#[derive(Debug)]
pub struct KvPool {
    /// Rotated keys.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
}

impl KvPool {
    /// Zeroed pages.
    ///
    /// Errors: no memory left on the device.
    pub fn new(n: Heads, pages: usize, page: usize, dtype: DType, device: Device) -> Result<KvPool> {
        let make = || Tensor::zeros_on(device, [pages, page, n.kv_heads, n.head_dim], dtype);
        Ok(KvPool { k: make()?, v: make()? })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.k.bytes() + self.v.bytes()
    }

    /// Copy a cache to the start of page `first` and the pages after it.
    ///
    /// Errors: a failed copy. Panics when it does not fit there.
    pub fn load(&mut self, first: usize, cache: &KvCache) -> Result<()> {
        let &[pages, page, g, d] = self.k.dims() else { unreachable!("pools have four dimensions") };
        for (from, to) in [(&cache.k, &mut self.k), (&cache.v, &mut self.v)] {
            let rows = to.view_mut().reshape([pages * page, g * d]);
            let (at, len) = (first * page, cache.len());
            copy::cast(from.view().reshape([len, g * d]), rows.rows(at, at + len))?;
        }
        Ok(())
    }

    /// Take in one token of each sequence and attend: x.q [B, H, D] -> [B, H, D] in the pool's dtype on a GPU.
    ///
    /// Errors: a shape, dtype or device that does not fit; no memory left.
    pub fn decode(&mut self, mut x: Projected, table: &Table, at: &Places) -> Result<Tensor> {
        let (b, dtype) = (x.len(), self.k.dtype());
        rope::forward(x.q.view_mut(), at.position, table, false)?;
        let (k, v) = (rotated_as(&x.k, at.position, table, dtype)?, in_dtype(&x.v, dtype)?);
        let row = k.len() / b.max(1);
        for (new, pool) in [(&k, &mut self.k), (&*v, &mut self.v)] {
            let rows = pool.len() / row.max(1);
            copy::scatter(new.view().reshape([b, row]), at.row, pool.view_mut().reshape([rows, row]))?;
        }
        let mut out = Tensor::empty_on(x.q.device(), x.q.shape(), activation(x.q.device(), dtype))?;
        op::paged_decode(x.q.view(), self.k.view(), self.v.view(), at.table, at.len, out.view_mut())?;
        Ok(out)
    }
}

/// States, rings and sinks of one converted layer, a slot per sequence.
#[derive(Debug)]
pub struct DslaPool {
    /// S [SLOTS, 2 G, F, D].
    pub s: Tensor,
    /// z [SLOTS, 2, G, F].
    pub z: Tensor,
    /// Keys and values of the windows [SLOTS, W, G, D].
    pub ring: KvPool,
    /// Their log decays [SLOTS * W, 2 G E].
    pub ring_decay: Tensor,
    /// Keys and values of the first positions [SLOTS, N, G, D].
    pub sinks: KvPool,
}

impl DslaPool {
    /// Zeroed slots.
    ///
    /// Errors: no memory left on the device; a form whose rings have no window.
    pub fn new(layer: &DslaAttention, slots: usize, dtype: DType) -> Result<DslaPool> {
        let (n, device, w) = (layer.heads, layer.device(), layer.form.window);
        let (g, d, f) = (n.kv_heads, n.head_dim, layer.form.features(n.head_dim));
        if w == 0 {
            let (got, want) = ("no window".into(), "a form with one".into());
            return Err(dsla_kernels::Error::Argument { op: "pool", arg: "form", got, want });
        }
        Ok(DslaPool {
            s: Tensor::zeros_on(device, [slots, 2 * g, f, d], DType::F32)?,
            z: Tensor::zeros_on(device, [slots, 2, g, f], DType::F32)?,
            ring: KvPool::new(n, slots, w, dtype, device)?,
            ring_decay: Tensor::zeros_on(device, [slots * w, 2 * g * layer.decays()], DType::F32)?,
            sinks: KvPool::new(n, slots, layer.form.sinks, dtype, device)?,
        })
    }

    /// Copy a sequence's state into a slot; its oldest window key goes to row 0.
    ///
    /// Errors: a failed copy. Panics for a state of another layer.
    pub fn load(&mut self, slot: usize, state: &DslaState) -> Result<()> {
        let flat = |t: &mut Tensor, from: &Tensor, slots: usize| {
            let n = t.len() / slots.max(1);
            copy::cast(
                from.view().reshape([n]),
                t.view_mut().reshape([slots, n]).rows(slot, slot + 1).reshape([n]),
            )
        };
        let slots = self.s.dims()[0];
        flat(&mut self.s, &state.s, slots)?;
        flat(&mut self.z, &state.z, slots)?;
        self.ring.load(slot, &state.ring)?;
        self.sinks.load(slot, &state.sinks)?;
        let (rows, row) = (state.ring.len(), self.ring_decay.dims()[1]);
        let w = self.ring_decay.dims()[0] / slots.max(1);
        let into = self.ring_decay.view_mut().rows(slot * w, slot * w + rows);
        copy::cast(state.ring_decay.view().reshape([rows, row]), into)
    }

    /// Take in one token of each sequence and attend: x.q [B, H, D] -> [B, H, D].
    ///
    /// Errors: gates that read the layer's input; a shape, dtype or device that does not fit; no memory left.
    pub fn decode(
        &mut self,
        layer: &DslaAttention,
        mut x: Projected,
        table: &Table,
        at: &Places,
    ) -> Result<Tensor> {
        let (b, n) = (x.len(), layer.heads);
        let (g, d, e) = (n.kv_heads, n.head_dim, layer.decays());
        let device = layer.device();
        layer.adapt_q(x.hidden.as_ref(), &mut x.q)?;
        let fresh = layer.log_decays(&layer.gate_input(&x.k, &x.v, x.hidden.as_ref())?)?;
        let mut decay = Tensor::empty_on(device, [b, 2 * g * e], DType::F32)?;
        copy::gather(self.ring_decay.view(), at.leaving, decay.view_mut())?;
        copy::scatter(fresh.view().reshape([b, 2 * g * e]), at.entering, self.ring_decay.view_mut())?;
        let dtype = self.ring.k.dtype();
        let k = if layer.form.rope {
            rope::forward(x.q.view_mut(), at.position, table, false)?;
            Cow::Owned(rotated_as(&x.k, at.position, table, dtype)?)
        } else {
            in_dtype(&x.k, dtype)?
        };
        let v = in_dtype(&x.v, dtype)?;
        let phi_q = layer.features(x.q.view(), &layer.params.map_q, layer.query_scale())?;
        let rows = self.ring.k.len() / (g * d);
        let mut oldest = Tensor::empty_on(device, [b, g * d], dtype)?;
        copy::gather(self.ring.k.view().reshape([rows, g * d]), at.leaving, oldest.view_mut())?;
        let phi = layer.features(oldest.view().reshape([b, g, d]), &layer.params.map_k, 1.0)?;
        let f = phi.dims()[2];
        // One more row of zeros, for keys without features.
        let mut known = Tensor::zeros_on(device, [b + 1, g * f], DType::F32)?;
        copy::cast(phi.view().reshape([b, g * f]), known.view_mut().rows(0, b))?;
        let mut phi_k = phi;
        copy::gather(known.view(), at.features, phi_k.view_mut().reshape([b, g * f]))?;
        let (gamma, mix, slope) =
            (layer.gamma_weights(), layer.per_head(&layer.params.mix)?, layer.per_head(&layer.params.slope)?);
        let mut out = Tensor::empty_on(device, x.q.shape(), DType::F32)?;
        let args = dsla::BatchArgs {
            q: x.q.view(),
            k: k.view(),
            v: v.view(),
            sink_k: self.sinks.k.view(),
            sink_v: self.sinks.v.view(),
            slot: at.slot,
            head: at.head,
            position: at.position,
            phi_q: phi_q.view(),
            phi_k: phi_k.view(),
            log_decay: decay.view().reshape([b, 2, g, e]),
            gamma: gamma.view(),
            mix: mix.view(),
            slope: slope.view(),
            window: layer.form.window,
            normalizer: layer.normalizer(),
        };
        let pool = dsla::Pool {
            s: self.s.view_mut(),
            z: self.z.view_mut(),
            ring_k: self.ring.k.view_mut(),
            ring_v: self.ring.v.view_mut(),
        };
        dsla::decode_batch(&args, pool, out.view_mut())?;
        Ok(out)
    }
}
