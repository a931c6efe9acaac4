//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::{axis, rows, vector};
use crate::cuda::{Source, launch};
use crate::ops::embedding::cuda::indices;
use crate::{DType::F32, DType::U32, Result, View, ViewMut};

static CROSS_ENTROPY: Source =
    Source::new("cross_entropy", rows!("cross_entropy.ptx"), &[("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&CROSS_ENTROPY];

pub fn forward(x: View, targets: View, loss: &mut ViewMut, [t, v]: [usize; 2]) -> Result<()> {
    let mut hold = None;
    let targets = indices(OP, "targets", targets, v, x.device(), &mut hold)?;
    let n = vector(v, &[x], &[]);
    launch(OP, x.device(), &CROSS_ENTROPY, &[axis(n)], "cross_entropy_fwd")?
        .input_aligned("logits", x, F32, &[t, v], 4 * n as u64)
        .input_aligned("targets", targets, U32, &[t], 4)
        .output_aligned("loss", loss, F32, &[t], 4)
        .u32("limit", v)
        .run(t, 256, 0)
}

pub fn backward(x: View, targets: View, dloss: View, dx: &mut ViewMut, [t, v]: [usize; 2]) -> Result<()> {
    let mut hold = None;
    let targets = indices(OP, "targets", targets, v, x.device(), &mut hold)?;
    let n = vector(v, &[x], &[dx]);
    launch(OP, x.device(), &CROSS_ENTROPY, &[axis(n)], "cross_entropy_bwd")?
        .input_aligned("logits", x, F32, &[t, v], 4 * n as u64)
        .input_aligned("targets", targets, U32, &[t], 4)
        .input_aligned("dloss", dloss, F32, &[t], 4)
        .output_aligned("dlogits", dx, F32, &[t, v], 4 * n as u64)
        .u32("limit", v)
        .run(t, 256, 0)
}
