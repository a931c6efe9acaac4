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
use crate::{DType, Device, Error, Result, View, ViewMut};

const OP: &str = "rope";

/// Which of the three maps that share the rotation.
#[derive(Clone, Copy)]
enum Turn {
    Forward,
    Inverse,
    Transposed,
}

impl Turn {
    /// What the table's sine is multiplied with, and what both are: the table holds s cos and s sin, its transpose is s
    /// times the rotation back, the inverse 1 / s times that.
    fn scalars(self, table: &Table) -> (f32, f32) {
        match self {
            Turn::Forward => (1.0, 1.0),
            Turn::Transposed => (-1.0, 1.0),
            Turn::Inverse => (-1.0, (1.0 / (table.scale() as f64).powi(2)) as f32),
        }
    }
}

/// Rotate every head of every token in place, or rotate it back.
///
/// x: [T, H, D] f32; positions: [T] u32, on the host or with x; table: for heads of D, with x. `inverse` undoes the
/// rotation exactly up to rounding, the table's scale too. With a scale of 1 that is also the gradient; in general the
/// gradient is [`backward`].
///
/// Errors: a shape, dtype or device that does not fit; a position that the table does not hold (`Error::Argument`).
/// Positions on a device are not checked: one that the table does not hold gives NaN.
pub fn forward(x: ViewMut, positions: View, table: &Table, inverse: bool) -> Result<()> {
    let turn = if inverse { Turn::Inverse } else { Turn::Forward };
    rotate("x", x, positions, table, turn)
}

/// Gradient of [`forward`] (not inverse), in place: dy becomes dx, by the transposed rotation. dx: [T, H, D] f32.
///
/// Errors: as [`forward`].
pub fn backward(dx: ViewMut, positions: View, table: &Table) -> Result<()> {
    rotate("dx", dx, positions, table, Turn::Transposed)
}

/// Rotate keys into a KV cache: rows `at..at + T` of the cache become [`forward`] of x in the cache's dtype.
///
/// x: [T, H, D] f32, kept; positions and table as in [`forward`]; cache: [S, H, D] f32, bf16 or f16, the other rows
/// keep what they hold.
///
/// Errors: as [`forward`]; rows past the end of the cache (`Error::Argument`).
pub fn forward_cache(x: View, positions: View, table: &Table, cache: ViewMut, at: usize) -> Result<()> {
    let shape @ [t, h, d] = dims("x", &x, table)?;
    let cached = cache.shape();
    match cached.dims() {
        &[_, ch, cd] if (ch, cd) == (h, d) => {}
        _ => return Err(Error::Shape { op: OP, arg: "cache", got: cached, want: format!("[S, {h}, {d}]") }),
    }
    if at + t > cached.dims()[0] {
        let got = format!("rows {at}..{}", at + t);
        return Err(Error::Argument { op: OP, arg: "at", got, want: format!("at most {}", cached.dims()[0]) });
    }
    if cache.dtype() == DType::U32 {
        return Err(Error::DType { op: OP, arg: "cache", got: DType::U32, want: "f32, bf16 or f16" });
    }
    if cache.device() != x.device() {
        return Err(Error::Device { op: OP, arg: "cache", got: cache.device(), want: x.device() });
    }
    let mut rows = cache.rows(at, at + t);
    if x.device() != Device::Cpu {
        return cuda::into(x, positions, table, &mut rows, shape);
    }
    if table.device() != Device::Cpu {
        return Err(Error::Device { op: OP, arg: "table", got: table.device(), want: Device::Cpu });
    }
    let xs = x.expect_f32(OP, "x", &shape)?;
    let positions = positions.expect_u32(OP, "positions", &[t])?;
    check_below(OP, "positions", positions, table.positions())?;
    cpu::into(xs, positions, table, h, rows.into_host());
    Ok(())
}

/// The shape of x, of heads that fit the table.
fn dims(arg: &'static str, x: &View, table: &Table) -> Result<[usize; 3]> {
    let d = 2 * table.pairs();
    match *x.shape().dims() {
        [t, h, last] if last == d => Ok([t, h, d]),
        _ => Err(Error::Shape { op: OP, arg, got: x.shape(), want: format!("[T, H, {d}]") }),
    }
}

fn rotate(arg: &'static str, mut x: ViewMut, positions: View, table: &Table, turn: Turn) -> Result<()> {
    let shape @ [t, h, d] = dims(arg, &x.as_view(), table)?;
    if x.device() != Device::Cpu {
        return cuda::rotate(arg, &mut x, positions, table, turn, shape);
    }
    if table.device() != Device::Cpu {
        return Err(Error::Device { op: OP, arg: "table", got: table.device(), want: Device::Cpu });
    }
    let xs = x.expect_f32(OP, arg, &[t, h, d])?;
    let positions = positions.expect_u32(OP, "positions", &[t])?;
    check_below(OP, "positions", positions, table.positions())?;
    cpu::rotate(xs, positions, table, h, turn);
    Ok(())
}
