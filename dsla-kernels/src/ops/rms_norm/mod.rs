//! RMSNorm (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * w, row by row.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;

use super::copy;
use crate::view::PlaceMut;
use crate::{DType, Device, Result, SliceMut, View, ViewMut};

const OP: &str = "rms_norm";

/// `y = x / sqrt(mean(x^2) + eps) * w`. x: [T, C] f32; w: [C] f32; y: [T, C] f32, or bf16 or f16, rounded once.
///
/// Errors: a shape, dtype or device that does not fit.
pub fn forward(x: View, w: View, eps: f32, mut y: ViewMut) -> Result<()> {
    let [t, c] = x.dims(OP, "x")?;
    if x.device() != Device::Cpu {
        return cuda::forward(x, w, eps, &mut y, [t, c]);
    }
    if y.dtype() == DType::F16 {
        return copy::through_f32(y, |y| forward(x, w, eps, y));
    }
    let (xs, ws) = (x.expect_f32(OP, "x", &[t, c])?, w.expect_f32(OP, "w", &[c])?);
    if y.dtype() == DType::BF16 {
        y.as_view().expect_on(OP, "y", Device::Cpu, DType::BF16, &[t, c])?;
        if let PlaceMut::Host(SliceMut::BF16(ys)) = &mut y.place {
            cpu::forward_bf16(xs, ws, eps, ys, c);
        }
        return Ok(());
    }
    let ys = y.expect_f32(OP, "y", &[t, c])?;
    cpu::forward(xs, ws, eps, ys, c);
    Ok(())
}

/// `x = x + r`, then [`forward`] of x: the end of one residual branch and the start of the next, in one pass.
/// x, r: [T, C] f32; w: [C] f32; y: [T, C] f32, bf16 or f16; x and y are written.
///
/// Errors: a shape, dtype or device that does not fit.
pub fn add_forward(mut x: ViewMut, r: View, w: View, eps: f32, mut y: ViewMut) -> Result<()> {
    let [t, c] = x.as_view().dims(OP, "x")?;
    if x.device() != Device::Cpu {
        return cuda::add_forward(&mut x, r, w, eps, &mut y, [t, c]);
    }
    if y.dtype() != DType::F32 {
        return copy::through_f32(y, |y| add_forward(x, r, w, eps, y));
    }
    let xs = x.expect_f32(OP, "x", &[t, c])?;
    let (rs, ws) = (r.expect_f32(OP, "r", &[t, c])?, w.expect_f32(OP, "w", &[c])?);
    let ys = y.expect_f32(OP, "y", &[t, c])?;
    cpu::add(xs, rs);
    cpu::forward(xs, ws, eps, ys, c);
    Ok(())
}

/// Gradients of [`forward`]: `dx` is written, `dw` (if asked for) is added to. dy, dx: [T, C]; dw: [C].
///
/// Errors: as [`forward`]; on a device dw wants C of at most 24000.
pub fn backward(x: View, w: View, eps: f32, dy: View, mut dx: ViewMut, dw: Option<ViewMut>) -> Result<()> {
    let [t, c] = x.dims(OP, "x")?;
    if x.device() != Device::Cpu {
        return cuda::backward(x, w, eps, dy, &mut dx, dw, [t, c]);
    }
    let (xs, ws) = (x.expect_f32(OP, "x", &[t, c])?, w.expect_f32(OP, "w", &[c])?);
    let dys = dy.expect_f32(OP, "dy", &[t, c])?;
    let dxs = dx.expect_f32(OP, "dx", &[t, c])?;
    let dws = dw.map(|d| d.expect_f32(OP, "dw", &[c])).transpose()?;
    cpu::backward(xs, ws, eps, dys, dxs, dws, c);
    Ok(())
}
