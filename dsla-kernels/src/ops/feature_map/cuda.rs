//! Launches of the PTX kernels.

use super::OP;
use crate::cuda::tiles::rows;
use crate::cuda::{Source, launch};
use crate::{DType, DType::F32, Error, Result, Tensor, View, ViewMut};

static FMA: Source = Source::new("feature_map", rows!("feature_map.ptx"), &[("D", &["64", "128"])]);
static MMA: Source = Source::new(
    "feature_map_mma",
    rows!("feature_map_mma.ptx"),
    &[("T", &["bf16", "f16"]), ("D", &["64", "128"])],
);
static BWD: Source = Source::new(
    "feature_map_bwd",
    include_str!("feature_map_bwd.ptx"),
    &[("T", &["f32", "bf16", "f16"]), ("D", &["64", "128"])],
);
static ANY: Source =
    Source::new("feature_map_any", rows!("feature_map_any.ptx"), &[("T", &["f32", "bf16", "f16"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&FMA, &MMA, &BWD, &ANY];

/// Tokens per block of the forward kernels.
const TOKENS: usize = 128;
/// Blocks that fill a large device: how far the sum over tokens is split. A constant, so that results are the same on
/// every device.
const ENOUGH: usize = 512;

/// The specialisation for head size d: none but for 64 and 128, where [`ANY`] serves.
fn size(d: usize) -> Result<Option<&'static str>> {
    match d {
        64 => Ok(Some("64")),
        128 => Ok(Some("128")),
        0..=127 => Ok(None),
        _ => Err(Error::Argument {
            op: OP,
            arg: "head_dim",
            got: d.to_string(),
            want: "at most 128 on cuda".into(),
        }),
    }
}

pub fn forward(u: View, w: View, y: &mut ViewMut, [t, h, d]: [usize; 3]) -> Result<()> {
    let (device, dtype) = (u.device(), u.dtype());
    let Some(size) = size(d)? else {
        return launch(OP, device, &ANY, &[dtype.name()], "feature_map_any_fwd")?
            .input_aligned("u", u, dtype, &[t, h, d], dtype.size() as u64)
            .input_aligned("w", w, F32, &[h, d, d], 4)
            .output_aligned("y", y, F32, &[t, h, 2 * d], 4)
            .u32("rows", t * h)
            .u32("h", h)
            .u32("d", d)
            .run((t * h).div_ceil(4), 128, 0);
    };
    let (l, block, shared) = match dtype {
        F32 => (launch(OP, device, &FMA, &[size], "feature_map_fwd")?, 4 * d, 4 * d * d + 32 * 1024),
        _ => (launch(OP, device, &MMA, &[dtype.name(), size], "feature_map_mma")?, 256, 0),
    };
    l.input("u", u, dtype, &[t, h, d])
        .input("w", w, F32, &[h, d, d])
        .output("y", y, F32, &[t, h, 2 * d])
        .u32("t", t)
        .u32("h", h)
        .run([t.div_ceil(TOKENS), h], block, shared)
}

/// What [`forward`] made and what came back for it.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    pub y: View<'a>,
    pub dy: View<'a>,
}

pub fn backward(
    u: View,
    w: View,
    out: Outputs,
    dw: &mut ViewMut,
    du: Option<ViewMut>,
    [t, h, d]: [usize; 3],
) -> Result<()> {
    let (device, dtype) = (u.device(), u.dtype());
    let size = size(d)?;
    let shape = [t, h, d];
    let mut dz = Tensor::empty_on(device, shape, F32)?;
    launch(OP, device, &BWD, &[dtype.name(), size.unwrap_or("64")], "feature_map_dz")?
        .input_aligned("y", out.y, F32, &[t, h, 2 * d], 4)
        .input_aligned("dy", out.dy, F32, &[t, h, 2 * d], 4)
        .output_aligned("dz", &mut dz.view_mut(), F32, &shape, 4)
        .u32("rows", t * h)
        .u32("d", d)
        .run((t * h).div_ceil(8), 256, 0)?;
    match size {
        Some(size) => weight(u, dtype, &dz, dw, size, shape)?,
        None => launch(OP, device, &ANY, &[dtype.name()], "feature_map_any_weight")?
            .input_aligned("u", u, dtype, &shape, dtype.size() as u64)
            .input_aligned("dz", dz.view(), F32, &shape, 4)
            .output_aligned("dw", dw, F32, &[h, d, d], 4)
            .u32("t", t)
            .u32("rows", h * d)
            .u32("h", h)
            .u32("d", d)
            .run((h * d).div_ceil(4), 128, 0)?,
    }
    let Some(mut du) = du else { return Ok(()) };
    match size {
        Some(size) => launch(OP, device, &FMA, &[size], "feature_map_bwd")?
            .input("dz", dz.view(), F32, &shape)
            .input("w", w, F32, &[h, d, d])
            .output("du", &mut du, F32, &shape)
            .u32("t", t)
            .u32("h", h)
            .run([t.div_ceil(TOKENS), h], 4 * d, (4 * d + 16) * d + 32 * 1024),
        None => launch(OP, device, &ANY, &[dtype.name()], "feature_map_any_input")?
            .input_aligned("dz", dz.view(), F32, &shape, 4)
            .input_aligned("w", w, F32, &[h, d, d], 4)
            .output_aligned("du", &mut du, F32, &shape, 4)
            .u32("rows", t * h)
            .u32("h", h)
            .u32("d", d)
            .run((t * h).div_ceil(4), 128, 0),
    }
}

/// dw += u^T dz per head: ranges of tokens first, then their sum in order.
fn weight(
    u: View,
    dtype: DType,
    dz: &Tensor,
    dw: &mut ViewMut,
    size: &'static str,
    [t, h, d]: [usize; 3],
) -> Result<()> {
    let device = u.device();
    let tiles = (d / 64) * (d / 64);
    let span = t.div_ceil(ENOUGH.div_ceil((h * tiles).max(1))).max(64).next_multiple_of(32);
    let splits = t.div_ceil(span);
    let mut parts = Tensor::empty_on(device, [splits, h, d, d], F32)?;
    launch(OP, device, &BWD, &[dtype.name(), size], "feature_map_dw")?
        .input("u", u, dtype, &[t, h, d])
        .input("dz", dz.view(), F32, &[t, h, d])
        .output("parts", &mut parts.view_mut(), F32, &[splits, h, d, d])
        .u32("t", t)
        .u32("h", h)
        .u32("span", span)
        .run([splits * tiles, h], 256, 0)?;
    launch(OP, device, &BWD, &[dtype.name(), size], "feature_map_reduce")?
        .input_aligned("parts", parts.view(), F32, &[splits, h, d, d], 4)
        .output_aligned("out", dw, F32, &[h, d, d], 4)
        .u32("n", h * d * d)
        .u32("splits", splits)
        .run((h * d * d).div_ceil(256), 256, 0)
}
