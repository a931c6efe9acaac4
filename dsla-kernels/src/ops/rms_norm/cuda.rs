//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::{axis, float, rows, vector};
use crate::cuda::{Source, launch};
use crate::{DType::F32, Error, Result, Tensor, View, ViewMut};

static RMS_NORM: Source =
    Source::new("rms_norm", rows!("rms_norm.ptx"), &[("OUT", &["f32", "bf16", "f16"]), ("V", &["1", "4"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&RMS_NORM];

/// Columns whose sums fit the shared memory of every device.
const MOST: usize = 24_000;

pub fn forward(x: View, w: View, eps: f32, y: &mut ViewMut, [t, c]: [usize; 2]) -> Result<()> {
    float(OP, "y", y)?;
    let v = vector(c, &[x, w], &[y]);
    let (out, align) = (y.dtype(), 4 * v as u64);
    launch(OP, x.device(), &RMS_NORM, &[out.name(), axis(v)], "rms_norm_fwd")?
        .input_aligned("x", x, F32, &[t, c], align)
        .input_aligned("w", w, F32, &[c], align)
        .output_aligned("y", y, out, &[t, c], (v * out.size()) as u64)
        .u32("units", c / v)
        .f32("eps", eps)
        .run(t, 128, 0)
}

pub fn add_forward(
    x: &mut ViewMut,
    r: View,
    w: View,
    eps: f32,
    y: &mut ViewMut,
    [t, c]: [usize; 2],
) -> Result<()> {
    float(OP, "y", y)?;
    let v = vector(c, &[r, w], &[x, y]);
    let (out, align) = (y.dtype(), 4 * v as u64);
    launch(OP, x.device(), &RMS_NORM, &[out.name(), axis(v)], "rms_norm_add_fwd")?
        .output_aligned("x", x, F32, &[t, c], align)
        .input_aligned("r", r, F32, &[t, c], align)
        .input_aligned("w", w, F32, &[c], align)
        .output_aligned("y", y, out, &[t, c], (v * out.size()) as u64)
        .u32("units", c / v)
        .f32("eps", eps)
        .run(t, 128, 0)
}

pub fn backward(
    x: View,
    w: View,
    eps: f32,
    dy: View,
    dx: &mut ViewMut,
    dw: Option<ViewMut>,
    [t, c]: [usize; 2],
) -> Result<()> {
    // A function of the shape only: enough blocks for any device, few enough that the parts are small beside x.
    let each = if dw.is_some() { t.div_ceil(512).clamp(1, 32) } else { 1 };
    let blocks = t.div_ceil(each);
    if dw.is_some() && c > MOST {
        let want = format!("at most {MOST} columns for dw on cuda");
        return Err(Error::Argument { op: OP, arg: "c", got: c.to_string(), want });
    }
    let mut part = dw.as_ref().map(|_| Tensor::empty_on(x.device(), [blocks, c], F32)).transpose()?;
    let v = vector(c, &[x, w, dy], &[dx]);
    let align = 4 * v as u64;
    let kernel = launch(OP, x.device(), &RMS_NORM, &["f32", axis(v)], "rms_norm_bwd")?
        .input_aligned("x", x, F32, &[t, c], align)
        .input_aligned("w", w, F32, &[c], align)
        .input_aligned("dy", dy, F32, &[t, c], align)
        .output_aligned("dx", dx, F32, &[t, c], align);
    let kernel = match &mut part {
        Some(part) => kernel.output("part", &mut part.view_mut(), F32, &[blocks, c]),
        None => kernel.null("part"),
    };
    let shared = if dw.is_some() { 4 * c } else { 0 };
    kernel.u32("rows", t).u32("each", each).u32("units", c / v).f32("eps", eps).run(blocks, 128, shared)?;
    if let (Some(mut dw), Some(part)) = (dw, part) {
        launch(OP, x.device(), &RMS_NORM, &["f32", axis(v)], "rms_norm_fold")?
            .input("part", part.view(), F32, &[blocks, c])
            .output_aligned("dw", &mut dw, F32, &[c], 4)
            .u32("n", blocks)
            .u32("c", c)
            .run(c.div_ceil(32), 256, 0)?;
    }
    Ok(())
}
