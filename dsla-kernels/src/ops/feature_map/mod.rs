//! The positive feature map phi(u) = [softmax(u W), softmax(-u W)], W per head (Hedgehog: Zhang et al. 2024).

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
mod pairs;

use super::copy;
use crate::simd;
use crate::vec::expect_float;
use crate::view::PlaceMut;
use crate::{DType, Device, Result, SliceMut, View, ViewMut};

const OP: &str = "feature_map";

/// y = [softmax(u W_h), softmax(-u W_h)]. u: [T, H, D] f32, bf16 or f16; w: [H, D, D] f32 (input by output); y: [T, H, 2 D] f32, or
/// bf16 on the host: then u and w are rounded to it, too, where the machine multiplies it.
pub fn forward(u: View, w: View, mut y: ViewMut) -> Result<()> {
    let [t, h, d] = u.dims(OP, "u")?;
    expect_float(&u, OP, "u")?;
    if u.device() != Device::Cpu {
        return cuda::forward(u, w, &mut y, [t, h, d]);
    }
    let ws = w.expect_f32(OP, "w", &[h, d, d])?;
    if y.dtype() == DType::BF16 {
        y.as_view().expect_on(OP, "y", Device::Cpu, DType::BF16, &[t, h, 2 * d])?;
        if !simd::pairs() || !d.is_multiple_of(32) {
            return copy::through_f32(y, |y| forward(u, w, y));
        }
        if let PlaceMut::Host(SliceMut::BF16(ys)) = &mut y.place {
            pairs::forward(u, ws, ys, [t, h, d]);
        }
        return Ok(());
    }
    let ys = y.expect_f32(OP, "y", &[t, h, 2 * d])?;
    cpu::forward(u, ws, ys, [t, h, d]);
    Ok(())
}

/// Gradients of [`forward`] from its output y and dy [T, H, 2 D]: `dw` [H, D, D] is added to, `du` [T, H, D] written.
pub fn backward(u: View, w: View, y: View, dy: View, mut dw: ViewMut, du: Option<ViewMut>) -> Result<()> {
    let [t, h, d] = u.dims(OP, "u")?;
    expect_float(&u, OP, "u")?;
    if u.device() != Device::Cpu {
        return cuda::backward(u, w, cuda::Outputs { y, dy }, &mut dw, du, [t, h, d]);
    }
    let ws = w.expect_f32(OP, "w", &[h, d, d])?;
    let (ys, dys) = (y.expect_f32(OP, "y", &[t, h, 2 * d])?, dy.expect_f32(OP, "dy", &[t, h, 2 * d])?);
    let dws = dw.expect_f32(OP, "dw", &[h, d, d])?;
    let dus = du.map(|x| x.expect_f32(OP, "du", &[t, h, d])).transpose()?;
    cpu::backward(u, ws, ys, dys, dws, dus, [t, h, d]);
    Ok(())
}
