//! What a converted layer changes of its teacher's q or o projection: y += B A x (LoRA: Hu et al. 2021), or y += B x.

use super::in_dtype;
use crate::{DslaParams, Linear};
use dsla_kernels::ops::linear::{Into, backward_weight};
use dsla_kernels::{DType, Result, Tensor, View, ViewMut};
use std::sync::Arc;

/// Which projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Hidden to queries.
    Q,
    /// Heads to the residual stream.
    O,
}

/// A change, packed.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    a: Option<Arc<Linear>>,
    b: Arc<Linear>,
}

fn of(params: &DslaParams, side: Side) -> (&Option<Tensor>, &Option<Tensor>) {
    match side {
        Side::Q => (&params.q_a, &params.q_b),
        Side::O => (&params.o_a, &params.o_b),
    }
}

impl Delta {
    /// In `dtype`; none where the parameters change nothing.
    pub fn of(params: &DslaParams, side: Side, dtype: DType) -> Result<Option<Delta>> {
        let (a, b) = of(params, side);
        let Some(b) = b else { return Ok(None) };
        let pack =
            |w: &Tensor| Ok::<_, dsla_kernels::Error>(Arc::new(Linear::new(&*in_dtype(w, dtype)?, None)?));
        Ok(Some(Delta { a: a.as_ref().map(pack).transpose()?, b: pack(b)? }))
    }

    /// y [T, out] += B A x for x [T, in].
    pub fn add_to(&self, x: View, y: ViewMut) -> Result<()> {
        match &self.a {
            Some(a) => self.b.forward_into(a.forward(x)?.view(), Into::Add, y),
            None => self.b.forward_into(x, Into::Add, y),
        }
    }
}

/// Gradients of a change at input x [T, in] from dy [T, out]: those of A and B are added to `grads`, that of x is
/// returned [T, in]; None where the parameters change nothing.
pub(super) fn backward(
    params: &DslaParams,
    side: Side,
    x: View,
    dy: View,
    grads: &mut DslaParams,
) -> Result<Option<Tensor>> {
    let (a, b) = of(params, side);
    let (da, db) = match side {
        Side::Q => (&mut grads.q_a, &mut grads.q_b),
        Side::O => (&mut grads.o_a, &mut grads.o_b),
    };
    let (Some(b), Some(db)) = (b, db) else { return Ok(None) };
    let d_inner = Linear::transposed(b)?.forward(dy)?;
    match (a, da) {
        (Some(a), Some(da)) => {
            let inner = Linear::new(a, None)?.forward(x)?;
            backward_weight(inner.view(), dy, db.view_mut())?;
            backward_weight(x, d_inner.view(), da.view_mut())?;
            let mut dx = Tensor::empty_on(x.device(), x.shape(), DType::F32)?;
            Linear::transposed(a)?.forward_into(d_inner.view(), Into::Store, dx.view_mut())?;
            Ok(Some(dx))
        }
        _ => {
            backward_weight(x, dy, db.view_mut())?;
            Ok(Some(d_inner))
        }
    }
}
