//! Memory of a batch of sequences at fixed addresses, and one decode step over it: what a CUDA graph can replay. What
//! changes from step to step (which token, at which position, in which row) is read from device memory.

use super::Projected;
use crate::Heads;
use dsla_kernels::ops::rope::{self, Table};
use dsla_kernels::ops::{copy, softmax_attention as op};
use dsla_kernels::{DType, Device, Result, Tensor, View};

/// Where each sequence of the batch stands in this step: all [B] u32.
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

    /// Take in one token of each sequence and attend: x.q [B, H, D] -> [B, H, D].
    ///
    /// Errors: a shape, dtype or device that does not fit; no memory left.
    pub fn decode(&mut self, mut x: Projected, table: &Table, at: &Places) -> Result<Tensor> {
        let b = x.len();
        rope::forward(x.q.view_mut(), at.position, table, false)?;
        rope::forward(x.k.view_mut(), at.position, table, false)?;
        let row = x.k.len() / b.max(1);
        for (new, pool) in [(&x.k, &mut self.k), (&x.v, &mut self.v)] {
            let new = new.to_dtype(pool.dtype())?;
            let rows = pool.len() / row.max(1);
            copy::scatter(new.view().reshape([b, row]), at.row, pool.view_mut().reshape([rows, row]))?;
        }
        let mut out = Tensor::empty_on(x.q.device(), x.q.shape(), DType::F32)?;
        op::paged_decode(x.q.view(), self.k.view(), self.v.view(), at.table, at.len, out.view_mut())?;
        Ok(out)
    }
}
