//! Exact attention over a growing cache in one piece: what GPUs have. On the host a sequence's keys and values are in
//! [pages](super::KvPages); this path is what those are tested against.

use super::{Projected, positions, turn};
use crate::{Heads, activation};
use dsla_kernels::ops::rope::{self, Table};
use dsla_kernels::ops::softmax_attention as op;
use dsla_kernels::{DType, Device, Result, Tensor};

/// Rotated keys and values of one sequence in one layer, in model dtype and in one piece: on a GPU, and of windows and
/// sinks. A clone copies them.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// [S, G, D]
    pub k: Tensor,
    /// [S, G, D]
    pub v: Tensor,
}

impl KvCache {
    /// Empty, on a device.
    ///
    /// Errors: no such device.
    pub fn new(n: Heads, dtype: DType, device: Device) -> Result<KvCache> {
        let none = || Tensor::zeros_on(device, [0, n.kv_heads, n.head_dim], dtype);
        Ok(KvCache { k: none()?, v: none()? })
    }

    /// Append the new tokens' keys, which it rotates, and values.
    ///
    /// Errors: a shape, dtype or device that does not fit; no memory left.
    pub fn take_in(&mut self, x: &Projected, table: &Table) -> Result<()> {
        let first = self.len();
        self.k.grow(x.len())?;
        let positions = positions(first, x.len());
        rope::forward_cache(x.k.view(), positions.view(), table, self.k.view_mut(), first)?;
        self.v.extend(x.v.view())
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.k.dims()[0]
    }

    /// No tokens held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.k.bytes() + self.v.bytes()
    }
}

/// Append the new tokens to the cache and attend: [T, H, D] in the cache's dtype on a GPU, f32 on the host.
pub fn softmax_attention(mut x: Projected, table: &Table, cache: &mut KvCache) -> Result<Tensor> {
    turn(&mut x.q, cache.len(), table, false)?;
    cache.take_in(&x, table)?;
    let mut out = Tensor::empty_on(x.q.device(), x.q.shape(), activation(x.q.device(), cache.k.dtype()))?;
    op::forward(x.q.view(), cache.k.view(), cache.v.view(), out.view_mut())?;
    Ok(out)
}
