//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::{Tiles, axis, float, rows, vector};
use crate::cuda::{Source, launch};
use crate::{DType::F32, Result, View, ViewMut};

static SWIGLU: Source =
    Source::new("swiglu", rows!("swiglu.ptx"), &[("OUT", &["f32", "bf16", "f16"]), ("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&SWIGLU];

pub fn forward(gate_up: View, y: &mut ViewMut, [t, f]: [usize; 2]) -> Result<()> {
    float(OP, "y", y)?;
    let v = vector(f, &[gate_up], &[y]);
    let (out, align) = (y.dtype(), 4 * v as u64);
    launch(OP, gate_up.device(), &SWIGLU, &[out.name(), axis(v)], "swiglu_fwd")?
        .input_aligned("gate_up", gate_up, F32, &[t, 2 * f], align)
        .output_aligned("y", y, out, &[t, f], (v * out.size()) as u64)
        .run_tiles(Tiles::new(t, f / v))
}

pub fn backward(gate_up: View, dy: View, d: &mut ViewMut, [t, f]: [usize; 2]) -> Result<()> {
    let v = vector(f, &[gate_up, dy], &[d]);
    let align = 4 * v as u64;
    launch(OP, gate_up.device(), &SWIGLU, &["f32", axis(v)], "swiglu_bwd")?
        .input_aligned("gate_up", gate_up, F32, &[t, 2 * f], align)
        .input_aligned("dy", dy, F32, &[t, f], align)
        .output_aligned("d_gate_up", d, F32, &[t, 2 * f], align)
        .run_tiles(Tiles::new(t, f / v))
}
