//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::{Source, launch};
use crate::{DType::F32, Result, View, ViewMut};

static AXPBY: Source = Source::new("axpby", include_str!("axpby.ptx"), &[]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&AXPBY];

const BLOCK: usize = 1024;

pub fn forward(a: f32, x: View, b: f32, y: &mut ViewMut) -> Result<()> {
    let shape = x.shape();
    launch(OP, x.device(), &AXPBY, &[], "axpby_fwd")?
        .input("x", x, F32, shape.dims())
        .output("y", y, F32, shape.dims())
        .u64("n", shape.len() as u64)
        .f32("a", a)
        .f32("b", b)
        .run(shape.len().div_ceil(BLOCK), 256, 0)
}

pub fn scale(b: f32, y: &mut ViewMut) -> Result<()> {
    let shape = y.shape();
    launch(OP, y.device(), &AXPBY, &[], "axpby_fwd")?
        .null("x")
        .output("y", y, F32, shape.dims())
        .u64("n", shape.len() as u64)
        .f32("a", 0.0)
        .f32("b", b)
        .run(shape.len().div_ceil(BLOCK), 256, 0)
}
