//! Token embedding: a row of the table per id, and the scatter-add that is its gradient.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;
#[cfg(test)]
mod tests;

use crate::{Device, Error, Result, Slice, View, ViewMut};

const OP: &str = "embedding";

/// `y[t] = table[ids[t]]`. table: [V, C] f32, bf16 or f16; ids: [T] u32, on the host or with the table; y: [T, C] f32,
/// written.
///
/// Errors: a shape, dtype or device that does not fit; an id of V or more (`Error::Argument`). Ids on a device are not
/// checked: one of V or more gives a row of NaN.
pub fn forward(table: View, ids: View, mut y: ViewMut) -> Result<()> {
    let [v, c] = table.dims(OP, "table")?;
    let [t] = ids.dims(OP, "ids")?;
    if table.device() != Device::Cpu {
        return cuda::forward(table, ids, &mut y, [v, c, t]);
    }
    let ids = ids.expect_u32(OP, "ids", &[t])?;
    let ys = y.expect_f32(OP, "y", &[t, c])?;
    check_below(OP, "ids", ids, v)?;
    match table.slice() {
        Slice::F32(table) => cpu::forward_f32(table, ids, ys, c),
        Slice::BF16(table) => cpu::forward_bf16(table, ids, ys, c),
        Slice::F16(table) => cpu::forward_f16(table, ids, ys, c),
        Slice::U32(_) => {
            return Err(Error::DType { op: OP, arg: "table", got: table.dtype(), want: "f32, bf16 or f16" });
        }
    }
    Ok(())
}

/// Gradient of [`forward`]: `dtable[ids[t]] += dy[t]`, in the order of t.
/// ids: [T] u32; dy: [T, C] f32; dtable: [V, C] f32, added to.
///
/// Errors: as [`forward`]. Ids on a device that are V or more are left out.
pub fn backward(ids: View, dy: View, mut dtable: ViewMut) -> Result<()> {
    let [t, c] = dy.dims(OP, "dy")?;
    if dy.device() != Device::Cpu {
        let v = dtable.shape().dims().first().copied().unwrap_or(0);
        return cuda::backward(ids, dy, &mut dtable, [v, c, t]);
    }
    let ids = ids.expect_u32(OP, "ids", &[t])?;
    let dys = dy.expect_f32(OP, "dy", &[t, c])?;
    let v = dtable.shape().dims().first().copied().unwrap_or(0);
    let dtables = dtable.expect_f32(OP, "dtable", &[v, c])?;
    check_below(OP, "ids", ids, v)?;
    cpu::backward(ids, dys, dtables, v, c);
    Ok(())
}

/// Refuses the first index that is not below `n`: what every op that looks up rows by index must do.
pub(crate) fn check_below(op: &'static str, arg: &'static str, indices: &[u32], n: usize) -> Result<()> {
    match indices.iter().position(|&i| i as usize >= n) {
        None => Ok(()),
        Some(at) => Err(Error::Argument {
            op,
            arg,
            got: format!("{} at {at}", indices[at]),
            want: format!("less than {n}"),
        }),
    }
}
