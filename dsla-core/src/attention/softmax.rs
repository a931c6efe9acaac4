//! Exact attention over a growing cache.

use super::{Projected, rotated};
use crate::Heads;
use dsla_kernels::ops::rope::Table;
use dsla_kernels::ops::softmax_attention as op;
use dsla_kernels::{DType, Device, Result, Tensor};

/// Rotated keys and values of one sequence in one layer, in model dtype.
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

/// Append the new tokens to the cache and attend: [T, H, D].
pub fn softmax_attention(x: &Projected, table: &Table, cache: &mut KvCache) -> Result<Tensor> {
    let first = cache.len();
    let q = rotated(&x.q, first, table)?;
    cache.k.extend(rotated(&x.k, first, table)?.view())?;
    cache.v.extend(x.v.view())?;
    let mut out = Tensor::empty_on(x.q.device(), x.q.shape(), DType::F32)?;
    op::forward(q.view(), cache.k.view(), cache.v.view(), out.view_mut())?;
    Ok(out)
}
