//! Launches of the PTX kernels.

use super::{AdamW, OP, Scalars};
use crate::cuda::tiles::{Tiles, axis, rows, vector};
use crate::cuda::{Source, launch};
use crate::{DType::F32, Result, View, ViewMut};

static ADAMW: Source = Source::new("adamw", rows!("adamw.ptx"), &[("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&ADAMW];

pub fn step(param: &mut ViewMut, grad: View, m: &mut ViewMut, v: &mut ViewMut, o: &AdamW) -> Result<()> {
    let n = grad.shape().len();
    let s = Scalars::new(o);
    let units = vector(n, &[grad], &[param, m, v]);
    let align = 4 * units as u64;
    launch(OP, grad.device(), &ADAMW, &[axis(units)], "adamw_step")?
        .output_aligned("param", param, F32, &[n], align)
        .input_aligned("grad", grad, F32, &[n], align)
        .output_aligned("m", m, F32, &[n], align)
        .output_aligned("v", v, F32, &[n], align)
        .f32("keep", s.keep)
        .f32("beta1", s.beta1)
        .f32("new1", s.new1)
        .f32("beta2", s.beta2)
        .f32("new2", s.new2)
        .f32("rate", s.rate)
        .f32("inv_root", s.inv_root)
        .f32("eps", s.eps)
        .run_tiles(Tiles::new(1, n / units))
}
