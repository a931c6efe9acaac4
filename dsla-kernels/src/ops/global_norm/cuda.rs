//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::{axis, rows, vector};
use crate::cuda::{Source, launch};
use crate::{DType::F32, DType::U32, Result, Tensor, View, ViewMut};

static NORM: Source = Source::new("global_norm", rows!("global_norm.ptx"), &[("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&NORM];

/// Elements of a block.
const BLOCK: usize = 16_384;

pub fn forward(x: View, out: &mut ViewMut, n: usize) -> Result<()> {
    let v = vector(n, &[x], &[]);
    let blocks = n.div_ceil(BLOCK);
    // f64, as pairs of words.
    let mut part = Tensor::empty_on(x.device(), [blocks, 2], U32)?;
    launch(OP, x.device(), &NORM, &[axis(v)], "global_norm_sum")?
        .input_aligned("x", x, F32, &[n], 4 * v as u64)
        .output("part", &mut part.view_mut(), U32, &[blocks, 2])
        .u32("units", n / v)
        .run(blocks, 256, 0)?;
    launch(OP, x.device(), &NORM, &[axis(v)], "global_norm_root")?
        .input("part", part.view(), U32, &[blocks, 2])
        .output_aligned("out", out, F32, &[1], 4)
        .u32("n", blocks)
        .run(1, 256, 0)
}
