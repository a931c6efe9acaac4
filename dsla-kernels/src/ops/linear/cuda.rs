//! Launches of the PTX kernels.

use super::pack::Weight;
use super::{Into, OP, Size};
use crate::DType::{self, F32};
use crate::cuda::{Launch, Source, context, launch};
use crate::{Device, Error, Result, Tensor, View, ViewMut};

const DTYPES: &[&str] = &["bf16", "f16", "f32"];
const HALVES: &[&str] = &["bf16", "f16"];
const WIDE: &[&str] = &["none", "swiglu"];
/// swiglu16 writes y in T.
const ACTS: &[&str] = &["none", "swiglu", "swiglu16"];

static GEMM: Source = Source {
    name: "linear_gemm",
    text: include_str!("gemm.ptx"),
    axes: &[("T", DTYPES), ("TILE", &["64", "128"]), ("ACT", ACTS)],
    skip: |v| v[0] == "f32" && v[2] == "swiglu16",
};

static ROWS: Source = Source {
    name: "linear_rows",
    text: include_str!("rows.ptx"),
    axes: &[("T", HALVES), ("M", &["1", "16"]), ("NT", &["1", "2", "4"]), ("ACT", ACTS)],
    // One tile cannot hold both gate and up.
    skip: |v| v[2] == "1" && v[3] != "none",
};

static ROWS_F32: Source =
    Source::new("linear_rows_f32", include_str!("rows_f32.ptx"), &[("M", &["1", "4", "8"]), ("ACT", WIDE)]);

static MOVE: Source = Source::new("linear_move", include_str!("move.ptx"), &[("T", DTYPES)]);

static WEIGHT: Source = Source::new("linear_weight", include_str!("weight.ptx"), &[("TILE", &["64", "128"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&GEMM, &ROWS, &ROWS_F32, &MOVE, &WEIGHT];

/// What a product is: everything but x and y.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub w: &'a Weight,
    pub bias: Option<View<'a>>,
    pub into: Into,
    /// w is [gate; up], and y = silu(x gate^T) * (x up^T).
    pub swiglu: bool,
    pub size: Size,
}

/// y (+)= x W^T + bias. x: [M, K] f32 or as w; y: [M, N] f32 (swiglu: half as wide as W is tall, f32 or as w).
pub fn forward(x: View, p: Product, y: &mut ViewMut) -> Result<()> {
    let [m, k] = x.dims(OP, "x")?;
    let device = x.device();
    if p.w.device() != device {
        return Err(Error::Device { op: OP, arg: "w", got: p.w.device(), want: device });
    }
    let Device::Cuda(ordinal) = device else { unreachable!("dispatched by device") };
    let n = if p.swiglu { p.w.n() / 2 } else { p.w.n() };
    let (ld, dtype) = (p.w.ld(), p.w.dtype());
    let processors = context(ordinal)?.multiprocessors();
    let act = ACTS[p.swiglu as usize + (p.swiglu && y.dtype() != F32) as usize];
    let fills = |outputs: usize, rows: usize, blocks: usize| match p.size {
        Size::Auto => n.div_ceil(outputs) * m.div_ceil(rows) >= blocks * processors,
        size => size == Size::Large,
    };
    // One f32 row of a 16-bit product is rounded by the kernel.
    let inside = m == 1 && dtype != F32 && x.dtype() == F32;
    let straight = ld == k && x.address().is_multiple_of(16) && (inside || x.dtype() == dtype);
    let scratch = match (straight, x.dtype()) {
        (true, _) => None,
        (_, F32) => Some(round(x, dtype, ld)?),
        _ => Some(pad(x, ld)?),
    };
    let x = scratch.as_ref().map_or(x, Tensor::view);
    // Two blocks of large tiles run on a multiprocessor at once.
    let width = if p.swiglu { 64 } else { 128 };
    if dtype == F32 {
        if m <= 8 {
            let most = if m == 1 { "1" } else if m <= 4 { "4" } else { "8" };
            let per = if p.swiglu { 16 } else { 32 };
            return product(launch(OP, device, &ROWS_F32, &[most, act], "linear_rows_f32")?, x, p, y, [m, n, ld])
                .run(n.div_ceil(per), 256, 0);
        }
        return gemm(x, p, y, [m, n, ld], fills(width, 128, 1), act);
    }
    if m <= 16 {
        let rows = if x.dtype() == F32 { "1" } else { "16" };
        let outputs = if p.swiglu { 4 } else { 8 };
        let nt = match (fills(outputs * 4, 16, 1), fills(outputs * 2, 16, 1) || p.swiglu) {
            (true, _) => 4,
            (_, true) => 2,
            _ => 1,
        };
        let values = [dtype.name(), rows, ["", "1", "2", "", "4"][nt], act];
        return product(launch(OP, device, &ROWS, &values, "linear_rows")?, x, p, y, [m, n, ld])
            .u32("pairs", pairs(n, y))
            .run(n.div_ceil(outputs * nt), 256, 0);
    }
    gemm(x, p, y, [m, n, ld], (m > 64 || p.size == Size::Large) && fills(width, 128, 2), act)
}

fn gemm(x: View, p: Product, y: &mut ViewMut, [m, n, ld]: [usize; 3], large: bool, act: &str) -> Result<()> {
    let (tile, name, entry) = if large { (128, "128", "linear_gemm_128") } else { (64, "64", "linear_gemm_64") };
    let width = if p.swiglu { tile / 2 } else { tile };
    let values = [p.w.dtype().name(), name, act];
    product(launch(OP, x.device(), &GEMM, &values, entry)?, x, p, y, [m, n, ld])
        .u32("pairs", pairs(n, y))
        .run(m.div_ceil(tile) * n.div_ceil(width), if large && p.w.dtype() == F32 { 512 } else { 2 * tile }, 0)
}

/// The arguments that all products share.
fn product(l: Launch, x: View, p: Product, y: &mut ViewMut, [m, n, ld]: [usize; 3]) -> Launch {
    let l = l.input("x", x, x.dtype(), &[m, ld]).input("w", p.w.view(), p.w.dtype(), &[p.w.n(), ld]);
    let l = match p.bias {
        Some(b) => l.input_aligned("bias", b, F32, &[n], 4),
        None => l.null("bias"),
    };
    let (out, align) = (y.dtype(), y.dtype().size() as u64);
    l.output_aligned("y", y, out, &[m, n], align)
        .u32("m", m)
        .u32("n", n)
        .u32("k", ld)
        .u32("add", (p.into == Into::Add) as usize)
}

/// Whether two neighbours of a row of y can be stored at once.
fn pairs(n: usize, y: &ViewMut) -> usize {
    (n.is_multiple_of(2) && y.address().is_multiple_of(2 * y.dtype().size() as u64)) as usize
}

/// x [M, K] f32 as [M, ld] of a dtype, zero from K on.
fn round(x: View, dtype: DType, ld: usize) -> Result<Tensor> {
    let [m, k] = x.dims(OP, "x")?;
    let mut y = Tensor::empty_on(x.device(), [m, ld], dtype)?;
    launch(OP, x.device(), &MOVE, &[dtype.name()], "linear_round")?
        .input_aligned("x", x, F32, &[m, k], 4)
        .output("y", &mut y.view_mut(), dtype, &[m, ld])
        .u32("k", k)
        .u32("ld", ld)
        .u32("vectors", (k.is_multiple_of(4) && x.address().is_multiple_of(16)) as usize)
        .run([m, ld.div_ceil(512)], 128, 0)?;
    Ok(y)
}

/// A weight [N, K], or an x that is in its dtype, with rows of `ld` elements, zero from K on.
pub fn pad(w: View, ld: usize) -> Result<Tensor> {
    let ([n, k], dtype) = (w.dims(OP, "w")?, w.dtype());
    let mut y = Tensor::empty_on(w.device(), [n, ld], dtype)?;
    launch(OP, w.device(), &MOVE, &[dtype.name()], "linear_pad")?
        .input_aligned("x", w, dtype, &[n, k], dtype.size() as u64)
        .output("y", &mut y.view_mut(), dtype, &[n, ld])
        .u32("k", k)
        .u32("ld", ld)
        .run([n, ld.div_ceil(128)], 128, 0)?;
    Ok(y)
}

/// [K, N] as [N, K].
pub fn transpose(w: View) -> Result<Tensor> {
    let ([k, n], dtype) = (w.dims(OP, "w")?, w.dtype());
    let mut y = Tensor::empty_on(w.device(), [n, k], dtype)?;
    launch(OP, w.device(), &MOVE, &[dtype.name()], "linear_transpose")?
        .input_aligned("x", w, dtype, &[k, n], dtype.size() as u64)
        .output("y", &mut y.view_mut(), dtype, &[n, k])
        .u32("n", n)
        .u32("k", k)
        .run(n.div_ceil(32) * k.div_ceil(32), 256, 0)?;
    Ok(y)
}

/// Blocks that are worth smaller tiles, and then splitting the rows for. Not the device's own number: gradients are the same on every GPU.
const BLOCKS: usize = 256;
/// Rows that are worth a block.
const CHUNK: usize = 128;

/// dW += dy^T x.
pub fn backward_weight(x: View, dy: View, dw: &mut ViewMut, [m, n, k]: [usize; 3], size: Size) -> Result<()> {
    let device = x.device();
    let tiles = |tile: usize| n.div_ceil(tile) * k.div_ceil(tile);
    let large = size == Size::Large || size == Size::Auto && tiles(128) >= BLOCKS;
    let (tile, name, entry) =
        if large { (128, "128", "linear_weight_128") } else { (64, "64", "linear_weight_64") };
    let tiles = tiles(tile);
    let splits = (BLOCKS / tiles.max(1)).clamp(1, m.div_ceil(CHUNK).max(1));
    let chunk = m.div_ceil(splits).next_multiple_of(16);
    let splits = m.div_ceil(chunk.max(1)).max(1);
    let mut parts = match splits {
        1 => None,
        _ => Some(Tensor::empty_on(device, [splits, n, k], F32)?),
    };
    let vectors = k.is_multiple_of(4) && (dw.address().is_multiple_of(16) || parts.is_some());
    let l = launch(OP, device, &WEIGHT, &[name], entry)?
        .input_aligned("x", x, F32, &[m, k], 4)
        .input_aligned("dy", dy, F32, &[m, n], 4)
        .output_aligned("dw", dw, F32, &[n, k], 4);
    let l = match &mut parts {
        Some(p) => l.output("parts", &mut p.view_mut(), F32, &[splits, n, k]),
        None => l.null("parts"),
    };
    l.u32("m", m)
        .u32("n", n)
        .u32("k", k)
        .u32("chunk", chunk)
        .u32("vectors", vectors as usize)
        .run([tiles, splits], 2 * tile, 0)?;
    let Some(parts) = parts else { return Ok(()) };
    launch(OP, device, &WEIGHT, &[name], "linear_weight_sum")?
        .input("parts", parts.view(), F32, &[splits, n, k])
        .output_aligned("dw", dw, F32, &[n, k], 4)
        .u64("len", (n * k) as u64)
        .u32("splits", splits)
        .run((n * k).div_ceil(256), 256, 0)
}
