//! Normalised mean squared error, the loss of layer-wise alignment: the squared error over the target's variance, that
//! is 1 - R^2. 0 is a perfect copy, 1 is as good as each column's mean.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
#[cfg(test)]
mod tests;

use crate::{Device, Result, View, ViewMut};

const OP: &str = "mse";

/// `loss = sum((y - target)^2) / sum((target - mean)^2)`, the mean per column over the rows; a denominator of 0 counts
/// as 1e-12. No unit. y, target: [T, C] f32; loss: [1] f32, written.
///
/// Errors: a shape or dtype that does not fit.
pub fn forward(y: View, target: View, mut loss: ViewMut) -> Result<()> {
    let [t, c] = y.dims(OP, "y")?;
    if y.device() != Device::Cpu {
        return cuda::forward(y, target, &mut loss, [t, c]);
    }
    let ys = y.expect_f32(OP, "y", &[t, c])?;
    let targets = target.expect_f32(OP, "target", &[t, c])?;
    let losses = loss.expect_f32(OP, "loss", &[1])?;
    losses[0] = cpu::forward(ys, targets, c);
    Ok(())
}

/// Gradient of [`forward`] with respect to y: `dy = dloss * 2 (y - target) / sum((target - mean)^2)`.
/// dloss: [1] f32; dy: [T, C] f32, written.
///
/// Errors: as [`forward`].
pub fn backward(y: View, target: View, dloss: View, mut dy: ViewMut) -> Result<()> {
    let [t, c] = y.dims(OP, "y")?;
    if y.device() != Device::Cpu {
        return cuda::backward(y, target, dloss, &mut dy, [t, c]);
    }
    let ys = y.expect_f32(OP, "y", &[t, c])?;
    let targets = target.expect_f32(OP, "target", &[t, c])?;
    let dlosses = dloss.expect_f32(OP, "dloss", &[1])?;
    let dys = dy.expect_f32(OP, "dy", &[t, c])?;
    cpu::backward(ys, targets, dlosses[0], dys, c);
    Ok(())
}
