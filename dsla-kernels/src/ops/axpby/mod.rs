//! y = a x + b y: scaling, differences and sums of whole tensors.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;

use crate::{Device, Result, View, ViewMut};

const OP: &str = "axpby";

/// `y = a x + b y`, elementwise. x, y: one shape, f32. With b = 0 the old y is not read.
///
/// Errors: a shape, dtype or device that does not fit.
pub fn forward(a: f32, x: View, b: f32, mut y: ViewMut) -> Result<()> {
    let shape = x.shape();
    if x.device() != Device::Cpu {
        return cuda::forward(a, x, b, &mut y);
    }
    cpu::forward(a, x.expect_f32(OP, "x", shape.dims())?, b, y.expect_f32(OP, "y", shape.dims())?);
    Ok(())
}

/// `y = a y` in place.
///
/// Errors: as [`forward`].
pub fn scale(a: f32, mut y: ViewMut) -> Result<()> {
    let shape = y.shape();
    if y.device() != Device::Cpu {
        return cuda::scale(a, &mut y);
    }
    cpu::scale(a, y.expect_f32(OP, "y", shape.dims())?);
    Ok(())
}
