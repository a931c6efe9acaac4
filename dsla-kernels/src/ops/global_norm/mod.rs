//! Euclidean norm of a gradient, for clipping.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;

use crate::{Device, Result, View, ViewMut};

const OP: &str = "global_norm";

/// `out = sqrt(sum(x^2))`, summed in f64: the squares of large gradients do not overflow. x: [N] f32; out: [1] f32,
/// written. The norm over several tensors is the norm of their norms.
///
/// Errors: a shape or dtype that does not fit.
pub fn forward(x: View, mut out: ViewMut) -> Result<()> {
    let [n] = x.dims(OP, "x")?;
    if x.device() != Device::Cpu {
        return cuda::forward(x, &mut out, n);
    }
    let xs = x.expect_f32(OP, "x", &[n])?;
    let outs = out.expect_f32(OP, "out", &[1])?;
    outs[0] = cpu::forward(xs);
    Ok(())
}
