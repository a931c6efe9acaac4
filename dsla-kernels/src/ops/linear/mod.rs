//! Linear layers: y = x W^T (+ bias), with W packed once at load.
//!
//! A bf16 weight makes a bf16 product: x is rounded to bf16, products are summed in f32.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
mod pack;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use pack::Packed;

use crate::{Error, Result, View, ViewMut};

const OP: &str = "linear";

/// What happens to the old content of y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// y = x W^T + bias
    Store,
    /// y += x W^T + bias: the residual connection.
    Add,
}

/// y = x W^T + bias. x: [M, K] f32; w: [N, K] packed; bias: [N] f32; y: [M, N] f32.
pub fn forward(x: View, w: &Packed, bias: Option<View>, into: Into, y: ViewMut) -> Result<()> {
    let [m, k] = x.dims(OP, "x")?;
    if k != w.k() {
        return Err(Error::Shape { op: OP, arg: "x", got: x.shape(), want: format!("[M, {}]", w.k()) });
    }
    let xs = x.expect_f32(OP, "x", &[m, k])?;
    let bias = bias.map(|b| b.expect_f32(OP, "bias", &[w.n()])).transpose()?;
    let ys = y.expect_f32(OP, "y", &[m, w.n()])?;
    cpu::forward(xs, m, w, bias, into, ys);
    Ok(())
}

/// dW += dy^T x for a trainable weight. x: [M, K]; dy: [M, N]; dw: [N, K], all f32.
/// (dx = dy W is [`forward`] with the transposed weight packed.)
pub fn backward_weight(x: View, dy: View, dw: ViewMut) -> Result<()> {
    let ([m, k], [_, n]) = (x.dims(OP, "x")?, dy.dims(OP, "dy")?);
    let (xs, dys) = (x.expect_f32(OP, "x", &[m, k])?, dy.expect_f32(OP, "dy", &[m, n])?);
    let dws = dw.expect_f32(OP, "dw", &[n, k])?;
    cpu::backward_weight(xs, dys, m, n, k, dws);
    Ok(())
}
