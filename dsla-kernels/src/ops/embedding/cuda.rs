//! Launches of the PTX kernels.

use super::{OP, check_below};
use crate::cuda::tiles::{Tiles, axis, rows, vector};
use crate::cuda::{Source, launch};
use crate::{DType, DType::F32, DType::U32, Device, Error, Result, Tensor, View, ViewMut};

const LENGTHS: &[&str] = &["1", "4"];

static FORWARD: Source =
    Source::new("embedding_fwd", rows!("embedding.ptx"), &[("T", &["f32", "bf16", "f16"]), ("V", LENGTHS)]);
static BACKWARD: Source = Source::new("embedding_bwd", rows!("embedding_bwd.ptx"), &[("V", LENGTHS)]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&FORWARD, &BACKWARD];

/// Indices below `n` on the device: those on the host are checked and brought there, into `hold`; those on the device
/// cannot be checked without waiting for them.
pub(crate) fn indices<'a>(
    op: &'static str,
    arg: &'static str,
    ids: View<'a>,
    n: usize,
    device: Device,
    hold: &'a mut Option<Tensor>,
) -> Result<View<'a>> {
    if ids.device() != Device::Cpu {
        return Ok(ids);
    }
    let host = ids.expect_u32(op, arg, ids.shape().dims())?;
    check_below(op, arg, host, n)?;
    let there = Tensor::from_u32(ids.shape(), host.to_vec()).to_device(device)?;
    Ok(hold.insert(there).view())
}

pub fn forward(table: View, ids: View, y: &mut ViewMut, [n, c, t]: [usize; 3]) -> Result<()> {
    let (dtype, mut hold) = (table.dtype(), None);
    if dtype == DType::U32 {
        return Err(Error::DType { op: OP, arg: "table", got: dtype, want: "f32, bf16 or f16" });
    }
    let ids = indices(OP, "ids", ids, n, table.device(), &mut hold)?;
    let v = vector(c, &[table], &[y]);
    launch(OP, table.device(), &FORWARD, &[dtype.name(), axis(v)], "embedding_fwd")?
        .input_aligned("table", table, dtype, &[n, c], (v * dtype.size()) as u64)
        .input_aligned("ids", ids, U32, &[t], 4)
        .output_aligned("y", y, F32, &[t, c], 4 * v as u64)
        .u32("limit", n)
        .run_tiles(Tiles::new(t, c / v))
}

pub fn backward(ids: View, dy: View, dtable: &mut ViewMut, [n, c, t]: [usize; 3]) -> Result<()> {
    let mut hold = None;
    let ids = indices(OP, "ids", ids, n, dy.device(), &mut hold)?;
    let v = vector(c, &[dy], &[dtable]);
    let tiles = (c / v).div_ceil(256);
    launch(OP, dy.device(), &BACKWARD, &[axis(v)], "embedding_bwd")?
        .input_aligned("ids", ids, U32, &[t], 4)
        .input_aligned("dy", dy, F32, &[t, c], 4 * v as u64)
        .output_aligned("dtable", dtable, F32, &[n, c], 4 * v as u64)
        .u32("limit", n)
        .u32("rows", t)
        .u32("units", c / v)
        .u32("tiles", tiles)
        .run(t * tiles, 256, 0)
}
