//! RMSNorm (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * w, row by row.

pub mod cases;
mod cpu;
pub mod naive;

use crate::{Device, Result, View, ViewMut};

const OP: &str = "rms_norm";

/// `y = x / sqrt(mean(x^2) + eps) * w`. x, y: [T, C] f32; w: [C] f32.
pub fn forward(x: View, w: View, eps: f32, y: ViewMut) -> Result<()> {
    let [t, c] = x.dims(OP, "x")?;
    let (xs, ws) = (x.expect_f32(OP, "x", &[t, c])?, w.expect_f32(OP, "w", &[c])?);
    let ys = y.expect_f32(OP, "y", &[t, c])?;
    match x.device() {
        Device::Cpu => cpu::forward(xs, ws, eps, ys, c),
    }
    Ok(())
}

/// Gradients of [`forward`]: `dx` is written, `dw` (if asked for) is added to. dy, dx: [T, C]; dw: [C].
pub fn backward(x: View, w: View, eps: f32, dy: View, dx: ViewMut, dw: Option<ViewMut>) -> Result<()> {
    let [t, c] = x.dims(OP, "x")?;
    let (xs, ws) = (x.expect_f32(OP, "x", &[t, c])?, w.expect_f32(OP, "w", &[c])?);
    let dys = dy.expect_f32(OP, "dy", &[t, c])?;
    let dxs = dx.expect_f32(OP, "dx", &[t, c])?;
    let dws = dw.map(|d| d.expect_f32(OP, "dw", &[c])).transpose()?;
    match x.device() {
        Device::Cpu => cpu::backward(xs, ws, eps, dys, dxs, dws, c),
    }
    Ok(())
}
