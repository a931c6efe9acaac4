//! SwiGLU (Shazeer 2020), the gated activation of the Llama MLP: y = silu(gate) * up, silu(g) = g / (1 + e^-g).

pub mod cases;
pub(super) mod cpu;
pub(crate) mod cuda;
pub mod naive;

use super::copy;
use crate::{DType, Device, Error, Result, View, ViewMut};

const OP: &str = "swiglu";

/// `y = silu(gate) * up`. gate_up: [T, 2F] f32, each row the gate's F values and then the up's; y: [T, F] f32, or bf16
/// or f16, rounded once; written.
///
/// Errors: a shape or dtype that does not fit, an odd row length among them.
pub fn forward(gate_up: View, mut y: ViewMut) -> Result<()> {
    let (t, f) = halves(&gate_up)?;
    if gate_up.device() != Device::Cpu {
        return cuda::forward(gate_up, &mut y, [t, f]);
    }
    if y.dtype() != DType::F32 {
        return copy::through_f32(y, |y| forward(gate_up, y));
    }
    let gs = gate_up.expect_f32(OP, "gate_up", &[t, 2 * f])?;
    let ys = y.expect_f32(OP, "y", &[t, f])?;
    cpu::forward(gs, ys, f);
    Ok(())
}

/// Gradient of [`forward`]. dy: [T, F] f32; d_gate_up: [T, 2F] f32, written.
///
/// Errors: as [`forward`].
pub fn backward(gate_up: View, dy: View, mut d_gate_up: ViewMut) -> Result<()> {
    let (t, f) = halves(&gate_up)?;
    if gate_up.device() != Device::Cpu {
        return cuda::backward(gate_up, dy, &mut d_gate_up, [t, f]);
    }
    let gs = gate_up.expect_f32(OP, "gate_up", &[t, 2 * f])?;
    let dys = dy.expect_f32(OP, "dy", &[t, f])?;
    let ds = d_gate_up.expect_f32(OP, "d_gate_up", &[t, 2 * f])?;
    cpu::backward(gs, dys, ds, f);
    Ok(())
}

fn halves(gate_up: &View) -> Result<(usize, usize)> {
    let [t, f2] = gate_up.dims(OP, "gate_up")?;
    if f2 % 2 != 0 {
        return Err(Error::Shape { op: OP, arg: "gate_up", got: gate_up.shape(), want: "[T, 2F]".into() });
    }
    Ok((t, f2 / 2))
}
