//! Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face's Llama: a head's first half a
//! and second half b turn together, a' = a cos - b sin, b' = b cos + a sin.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
mod table;
#[cfg(test)]
mod tests;

pub use table::Table;

use super::embedding::check_below;
use crate::{Device, Error, Result, View, ViewMut};

const OP: &str = "rope";

/// Rotate every head of every token in place, or rotate it back.
///
/// x: [T, H, D] f32; positions: [T] u32; table: for heads of D. `inverse` undoes the rotation exactly up to rounding,
/// the table's scale too. With a scale of 1 that is also the gradient; in general the gradient is [`backward`].
///
/// Errors: a shape or dtype that does not fit; a position that the table does not hold (`Error::Argument`).
pub fn forward(x: ViewMut, positions: View, table: &Table, inverse: bool) -> Result<()> {
    let turn = if inverse { cpu::Turn::Inverse } else { cpu::Turn::Forward };
    rotate("x", x, positions, table, turn)
}

/// Gradient of [`forward`] (not inverse), in place: dy becomes dx, by the transposed rotation. dx: [T, H, D] f32.
///
/// Errors: as [`forward`].
pub fn backward(dx: ViewMut, positions: View, table: &Table) -> Result<()> {
    rotate("dx", dx, positions, table, cpu::Turn::Transposed)
}

fn rotate(arg: &'static str, x: ViewMut, positions: View, table: &Table, turn: cpu::Turn) -> Result<()> {
    let shape = x.shape();
    let d = 2 * table.pairs();
    let &[t, h, _] = shape.dims() else {
        return Err(Error::Shape { op: OP, arg, got: shape, want: format!("[T, H, {d}]") });
    };
    let xs = x.expect_f32(OP, arg, &[t, h, d])?;
        let positions = positions.expect_u32(OP, "positions", &[t])?;
    check_below(OP, "positions", positions, table.positions())?;
    cpu::rotate(xs, positions, table, h, turn);
    Ok(())
}
