//! The two kinds of attention a layer can run, over the same projections.

mod delta;
mod dsla;
mod pages;
mod pool;
mod softmax;

pub use dsla::{DslaAttention, DslaState, InputGrads, Saved};
pub use pages::{KvPages, PAGE, PagePool, softmax_attention_pages};
pub use pool::{DslaPool, KvPool, Places};
pub use softmax::{KvCache, softmax_attention};

use crate::Linear;
use dsla_kernels::ops::rope::{self, Table};
use dsla_kernels::{DType, Result, Tensor, View};
use std::borrow::Cow;

/// Head counts and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads G.
    pub kv_heads: usize,
    /// Head size D.
    pub head_dim: usize,
}

/// What one sequence's new tokens bring to an attention layer.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Un-rotated queries [T, H, D].
    pub q: Tensor,
    /// Un-rotated keys [T, G, D].
    pub k: Tensor,
    /// Values [T, G, D].
    pub v: Tensor,
    /// The layer's normalised input [T, C], f32 or as its projections read it, kept only for forms that [read it](crate::Form::reads_hidden).
    pub hidden: Option<Tensor>,
}

impl Projected {
    /// By a fused projection to q, k, v [(H + 2 G) D, C] of the layer's input h [T, C].
    pub fn of(qkv: &Linear, h: View, n: Heads, hidden: Option<Tensor>) -> Result<Projected> {
        let (heads, d) = ([n.heads, n.kv_heads, n.kv_heads], n.head_dim);
        let [q, k, v] = qkv.forward_parts(h, heads.map(|heads| heads * d))?;
        let t = q.dims()[0];
        let apart = |x: Tensor, heads| x.reshape([t, heads, d]);
        Ok(Projected { q: apart(q, heads[0]), k: apart(k, heads[1]), v: apart(v, heads[2]), hidden })
    }

    /// A copy of tokens `from..to`, without their input.
    pub fn rows(&self, from: usize, to: usize) -> Result<Projected> {
        let of = |x: &Tensor| x.rows(from, to).to_tensor();
        Ok(Projected { q: of(&self.q)?, k: of(&self.k)?, v: of(&self.v)?, hidden: None })
    }

    /// New tokens.
    pub fn len(&self) -> usize {
        self.q.dims()[0]
    }

    /// No tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A rotated copy of x [T, heads, D] at positions `first..first + T`.
pub fn rotated(x: &Tensor, first: usize, table: &Table) -> Result<Tensor> {
    rotated_as(x, positions(first, x.dims()[0]).view(), table, DType::F32)
}

/// A rotated copy in another dtype, that of a cache: one pass.
fn rotated_as(x: &Tensor, positions: View, table: &Table, dtype: DType) -> Result<Tensor> {
    let mut y = Tensor::empty_on(x.device(), x.shape(), dtype)?;
    rope::forward_cache(x.view(), positions, table, y.view_mut(), 0)?;
    Ok(y)
}

/// The tensor itself, or a copy in this dtype.
fn in_dtype(x: &Tensor, dtype: DType) -> Result<Cow<'_, Tensor>> {
    if x.dtype() == dtype { Ok(Cow::Borrowed(x)) } else { Ok(Cow::Owned(x.to_dtype(dtype)?)) }
}

/// On the host whatever is rotated: the op checks them there and takes them along.
fn positions(first: usize, t: usize) -> Tensor {
    Tensor::ids(t, first as u32..)
}

/// The gradient of [`rotated`] from position 0 on, in place: dy [T, heads, D] becomes dx.
pub fn rotated_backward(dy: &mut Tensor, table: &Table) -> Result<()> {
    let positions = positions(0, dy.dims()[0]);
    rope::backward(dy.view_mut(), positions.view(), table)
}

/// Rotate (or un-rotate) x [T, heads, D] in place at positions `first..first + T`.
pub fn turn(x: &mut Tensor, first: usize, table: &Table, inverse: bool) -> Result<()> {
    let positions = positions(first, x.dims()[0]);
    rope::forward(x.view_mut(), positions.view(), table, inverse)
}
