//! Cross-entropy of a softmax, per row, in nats: loss = ln(sum_v e^x_v) - x_target.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use super::embedding::check_below;
use crate::{Device, Result, View, ViewMut};

const OP: &str = "cross_entropy";

/// `loss[t] = ln(sum_v exp(logits[t, v])) - logits[t, targets[t]]`, in nats.
/// logits: [T, V] f32; targets: [T] u32, on the host or with the logits; loss: [T] f32, written.
///
/// Safe for logits of any finite size and for masked ones (minus infinity); NaN gives NaN.
/// Errors: a shape, dtype or device that does not fit; a target of V or more (`Error::Argument`). Targets on a device
/// are not checked: one of V or more makes the loss, or its row of the gradient, NaN.
pub fn forward(logits: View, targets: View, mut loss: ViewMut) -> Result<()> {
    let [t, v] = logits.dims(OP, "logits")?;
    if logits.device() != Device::Cpu {
        return cuda::forward(logits, targets, &mut loss, [t, v]);
    }
    let xs = logits.expect_f32(OP, "logits", &[t, v])?;
    let targets = targets.expect_u32(OP, "targets", &[t])?;
    let losses = loss.expect_f32(OP, "loss", &[t])?;
    check_below(OP, "targets", targets, v)?;
    cpu::forward(xs, targets, losses, v);
    Ok(())
}

/// Gradient of [`forward`]: `dlogits = dloss * (softmax(logits) - onehot(target))`.
/// dloss: [T] f32, 0 for a row that does not count; dlogits: [T, V] f32, written.
///
/// Errors: as [`forward`].
pub fn backward(logits: View, targets: View, dloss: View, mut dlogits: ViewMut) -> Result<()> {
    let [t, v] = logits.dims(OP, "logits")?;
    if logits.device() != Device::Cpu {
        return cuda::backward(logits, targets, dloss, &mut dlogits, [t, v]);
    }
    let xs = logits.expect_f32(OP, "logits", &[t, v])?;
    let targets = targets.expect_u32(OP, "targets", &[t])?;
    let dlosses = dloss.expect_f32(OP, "dloss", &[t])?;
    let ds = dlogits.expect_f32(OP, "dlogits", &[t, v])?;
    check_below(OP, "targets", targets, v)?;
    cpu::backward(xs, targets, dlosses, ds, v);
    Ok(())
}
