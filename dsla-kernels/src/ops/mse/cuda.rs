//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::{Tiles, axis, rows, vector};
use crate::cuda::{Source, launch};
use crate::{DType::F32, DType::U32, Result, Tensor, View, ViewMut};

static MSE: Source = Source::new("mse", rows!("mse.ptx"), &[("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&MSE];

/// Rows of a block of the first pass.
const CHUNK: usize = 256;

pub fn forward(y: View, target: View, loss: &mut ViewMut, shape: [usize; 2]) -> Result<()> {
    ratio(y, target, None, loss, shape)
}

pub fn backward(y: View, target: View, dloss: View, dy: &mut ViewMut, shape: [usize; 2]) -> Result<()> {
    let mut k = Tensor::empty_on(y.device(), [1], F32)?;
    ratio(target, target, Some(dloss), &mut k.view_mut(), shape)?;
    let n = shape[0] * shape[1];
    let v = vector(n, &[y, target], &[dy]);
    let align = 4 * v as u64;
    launch(OP, y.device(), &MSE, &[axis(v)], "mse_scale")?
        .input_aligned("y", y, F32, &shape, align)
        .input_aligned("target", target, F32, &shape, align)
        .input("k", k.view(), F32, &[1])
        .output_aligned("dy", dy, F32, &shape, align)
        .run_tiles(Tiles::new(1, n / v))
}

/// The error over the variance, or 2 dloss over it.
fn ratio(y: View, target: View, dloss: Option<View>, out: &mut ViewMut, [t, c]: [usize; 2]) -> Result<()> {
    let device = y.device();
    let (chunks, tiles, blocks) = (t.div_ceil(CHUNK), c.div_ceil(32), c.div_ceil(256));
    // f64, as pairs of words.
    let mut part = Tensor::empty_on(device, [chunks, 3, c, 2], U32)?;
    launch(OP, device, &MSE, &["1"], "mse_sums")?
        .input_aligned("y", y, F32, &[t, c], 4)
        .input_aligned("target", target, F32, &[t, c], 4)
        .output("part", &mut part.view_mut(), U32, &[chunks, 3, c, 2])
        .u32("rows", t)
        .u32("c", c)
        .u32("tiles", tiles)
        .run(chunks * tiles, 256, 0)?;
    let blocks = if chunks == 0 { 0 } else { blocks };
    let mut pair = Tensor::empty_on(device, [blocks, 4], U32)?;
    launch(OP, device, &MSE, &["1"], "mse_columns")?
        .input("part", part.view(), U32, &[chunks, 3, c, 2])
        .output("pair", &mut pair.view_mut(), U32, &[blocks, 4])
        .u32("rows", t)
        .u32("c", c)
        .u32("chunks", chunks)
        .run(blocks, 256, 0)?;
    let last = launch(OP, device, &MSE, &["1"], "mse_ratio")?.input("pair", pair.view(), U32, &[blocks, 4]);
    let last = match dloss {
        Some(d) => last.input_aligned("dloss", d, F32, &[1], 4),
        None => last.null("dloss"),
    };
    last.output_aligned("out", out, F32, &[1], 4).u32("blocks", blocks).run(1, 32, 0)
}
