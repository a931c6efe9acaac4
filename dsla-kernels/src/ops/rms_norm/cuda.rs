//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::{Source, launch};
use crate::{DType::F32, Result, View, ViewMut};

static RMS_NORM: Source = Source::new("rms_norm", include_str!("rms_norm.ptx"), &[]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&RMS_NORM];

pub fn forward(x: View, w: View, eps: f32, y: &mut ViewMut, [t, c]: [usize; 2]) -> Result<()> {
    launch(OP, x.device(), &RMS_NORM, &[], "rms_norm_fwd")?
        .input_aligned("x", x, F32, &[t, c], 4)
        .input_aligned("w", w, F32, &[c], 4)
        .output_aligned("y", y, F32, &[t, c], 4)
        .u32("c", c)
        .f32("eps", eps)
        .run(t, 128, 0)
}

pub fn backward(x: View, w: View, eps: f32, dy: View, dx: &mut ViewMut, [t, c]: [usize; 2]) -> Result<()> {
    launch(OP, x.device(), &RMS_NORM, &[], "rms_norm_bwd")?
        .input_aligned("x", x, F32, &[t, c], 4)
        .input_aligned("w", w, F32, &[c], 4)
        .input_aligned("dy", dy, F32, &[t, c], 4)
        .output_aligned("dx", dx, F32, &[t, c], 4)
        .u32("c", c)
        .f32("eps", eps)
        .run(t, 128, 0)
}
