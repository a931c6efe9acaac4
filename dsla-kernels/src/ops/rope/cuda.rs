//! Launches of the PTX kernels.

use super::{OP, Table, Turn};
use crate::cuda::tiles::{Tiles, axis, rows, vector};
use crate::cuda::{Launch, Source, launch};
use crate::ops::embedding::cuda::indices;
use crate::{DType, DType::F32, DType::U32, Error, Result, View, ViewMut};

static ROPE: Source =
    Source::new("rope", rows!("rope.ptx"), &[("OUT", &["f32", "bf16", "f16"]), ("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&ROPE];

/// In place.
pub(super) fn rotate(arg: &'static str, x: &mut ViewMut, positions: View, table: &Table, turn: Turn, [t, h, d]: [usize; 3]) -> Result<()> {
    let v = vector(d / 2, &[], &[x]);
    let mut hold = None;
    let positions = indices(OP, "positions", positions, table.positions(), x.device(), &mut hold)?;
    check(arg, x.dtype())?;
    let shape = [t, h, d];
    begin(x.as_view(), positions, table, F32, v, shape)?
        .output_aligned("y", x, F32, &shape, 4 * v as u64)
        .finish(table, turn, v, shape)
}

/// Into rows of a cache.
pub(super) fn into(x: View, positions: View, table: &Table, y: &mut ViewMut, shape: [usize; 3]) -> Result<()> {
    let v = vector(shape[2] / 2, &[x], &[y]);
    let mut hold = None;
    let positions = indices(OP, "positions", positions, table.positions(), x.device(), &mut hold)?;
    let out = y.dtype();
    begin(x, positions, table, out, v, shape)?
        .output_aligned("y", y, out, &shape, (v * out.size()) as u64)
        .finish(table, Turn::Forward, v, shape)
}

fn check(arg: &'static str, dtype: DType) -> Result<()> {
    if dtype == F32 { Ok(()) } else { Err(Error::DType { op: OP, arg, got: dtype, want: "f32" }) }
}

fn begin(x: View, positions: View, table: &Table, out: DType, v: usize, [t, h, d]: [usize; 3]) -> Result<Launch> {
    let rows = [table.positions(), table.pairs()];
    let align = 4 * v as u64;
    if table.device() != x.device() {
        return Err(Error::Device { op: OP, arg: "table", got: table.device(), want: x.device() });
    }
    Ok(launch(OP, x.device(), &ROPE, &[out.name(), axis(v)], "rope_turn")?
        .input_aligned("x", x, F32, &[t, h, d], align)
        .input_aligned("positions", positions, U32, &[t], 4)
        .input_aligned("cos", table.cos.view(), F32, &rows, align)
        .input_aligned("sin", table.sin.view(), F32, &rows, align))
}

impl Launch {
    fn finish(self, table: &Table, turn: Turn, v: usize, [t, h, d]: [usize; 3]) -> Result<()> {
        let (sign, factor) = turn.scalars(table);
        self.u32("heads", h)
            .u32("limit", table.positions())
            .f32("sign", sign)
            .f32("factor", factor)
            .run_tiles(Tiles::new(t * h, d / 2 / v))
    }
}
