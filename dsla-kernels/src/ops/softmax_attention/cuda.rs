//! Launches of the PTX kernels.

use super::{Dims, OP, Paged};
use crate::cuda::{Launch, Source, launch};
use crate::{
    DType::{BF16, F32, U32},
    Error, Result, Tensor, View, ViewMut,
};

const KEYS: &[&str] = &["f32", "bf16", "f16"];
const SIZES: &[&str] = &["64", "128"];

static PREFILL: Source = Source {
    name: "softmax_attention_prefill",
    text: include_str!("prefill.ptx"),
    axes: &[("T", &["bf16", "f16"]), ("D", SIZES), ("OUT", &["out", "lse"])],
    skip: |v| v[0] == "f16" && v[2] == "lse",
};
static DECODE: Source = Source::new(
    "softmax_attention_decode",
    include_str!("decode.ptx"),
    &[("T", KEYS), ("D", SIZES), ("M", &["1", "4", "8"])],
);
static COMBINE: Source = Source::new("softmax_attention_combine", include_str!("combine.ptx"), &[]);

static SIMT: Source =
    Source::new("softmax_attention_simt", include_str!("simt.ptx"), &[("T", KEYS), ("D", SIZES)]);

static PACK: Source = Source::new("softmax_attention_pack", include_str!("pack.ptx"), &[("D", SIZES)]);
/// dk and dv together need more registers than there are at D = 128.
static BACKWARD: Source = Source {
    name: "softmax_attention_backward",
    text: include_str!("backward.ptx"),
    axes: &[("ROLE", &["dq", "dkv", "dk", "dv"]), ("D", SIZES)],
    skip: |v| matches!((v[0], v[1]), ("dkv", "128") | ("dk" | "dv", "64")),
};

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&PREFILL, &DECODE, &COMBINE, &SIMT, &PACK, &BACKWARD];

/// Keys of a split of a decode: fixed, so that no bit depends on what else is in the batch.
const SPLIT: usize = 128;
/// Queries that are still decoded one by one: their splits fill the GPU, which one tile of rows would not.
const FEW: usize = 8;
/// Rows (query, head) of a block of prefill.
const ROWS: usize = 128;

fn head_dim(d: usize) -> Result<&'static str> {
    match d {
        64 => Ok("64"),
        128 => Ok("128"),
        _ => Err(Error::Argument { op: OP, arg: "head_dim", got: d.to_string(), want: "64 or 128 on cuda".into() }),
    }
}

pub fn forward(q: View, k: View, v: View, out: &mut ViewMut, n: Dims) -> Result<()> {
    let d = head_dim(n.d)?;
    if n.t <= FEW {
        let cache = Cache {
            k,
            v,
            shape: &[n.s, n.g, n.d],
            table: None,
            first: n.s - n.t + 1,
            capacity: n.s,
            page: 1,
            pages: 1,
        };
        return decode(q, &cache, out, [n.t, n.h, n.g, n.d]);
    }
    let (dtype, rows) = (k.dtype(), n.t * (n.h / n.g));
    let (kernel, grid, shared) = if dtype == F32 {
        let kernel = launch(OP, q.device(), &SIMT, &["f32", d], "softmax_attention_simt_fwd")?;
        (kernel, rows.div_ceil(kept(n.d)), shared(n.d, 1, 2, 1))
    } else {
        let kernel = launch(OP, q.device(), &PREFILL, &[dtype.name(), d, "out"], "softmax_attention_prefill")?;
        (kernel, rows.div_ceil(ROWS), if n.d == 64 { 32 << 10 } else { 64 << 10 })
    };
    kernel
        .input("q", q, F32, &[n.t, n.h, n.d])
        .input("k", k, dtype, &[n.s, n.g, n.d])
        .input("v", v, dtype, &[n.s, n.g, n.d])
        .output("out", out, F32, &[n.t, n.h, n.d])
        .u32("t", n.t)
        .u32("s", n.s)
        .u32("g", n.g)
        .u32("group", n.h / n.g)
        .run(grid * n.g, 256, shared)
}

/// Rows of the tile that a block of simt.ptx keeps.
fn kept(d: usize) -> usize {
    4096 / d
}

/// Shared memory of simt.ptx: tiles of the kept side, of the other side, of weights.
fn shared(d: usize, kept_tiles: usize, others: usize, weights: usize) -> usize {
    let stride = 4 * d + 16;
    kept_tiles * kept(d) * stride + others * 32 * stride + weights * kept(d) * 144
}

pub fn paged(
    q: View,
    k: View,
    v: View,
    table: View,
    lens: View,
    out: &mut ViewMut,
    n: Paged,
) -> Result<()> {
    head_dim(n.d)?;
    let cache = Cache {
        k,
        v,
        shape: &[n.p, n.page, n.g, n.d],
        table: Some((table, lens)),
        first: 0,
        capacity: n.capacity(),
        page: n.page,
        pages: n.pages,
    };
    decode(q, &cache, out, [n.b, n.h, n.g, n.d])
}

/// Keys and values of decodes: pages by a table, or one piece whose first `first` + b rows sequence b sees.
struct Cache<'a> {
    k: View<'a>,
    v: View<'a>,
    shape: &'a [usize],
    table: Option<(View<'a>, View<'a>)>,
    first: usize,
    capacity: usize,
    page: usize,
    pages: usize,
}

fn decode(q: View, x: &Cache, out: &mut ViewMut, [b, h, g, d]: [usize; 4]) -> Result<()> {
    let (device, dtype, group) = (q.device(), x.k.dtype(), h / g.max(1));
    let splits = x.capacity.div_ceil(SPLIT);
    let heads = if group <= 1 {
        "1"
    } else if group <= 4 {
        "4"
    } else {
        "8"
    };
    let chunks = group.div_ceil(heads.parse().unwrap_or(1));
    let mut acc = Tensor::empty_on(device, [b, splits, h, d], F32)?;
    let mut stats = Tensor::empty_on(device, [b, splits, h, 2], F32)?;
    let kernel = launch(OP, device, &DECODE, &[dtype.name(), head_dim(d)?, heads], "softmax_attention_decode")?
        .input("q", q, F32, &[b, h, d])
        .input("k", x.k, dtype, x.shape)
        .input("v", x.v, dtype, x.shape);
    match x.table {
        Some((table, lens)) => kernel
            .input_aligned("table", table, U32, &[b, x.pages], 4)
            .input_aligned("lens", lens, U32, &[b], 4),
        None => kernel.null("table").null("lens"),
    }
    .output("acc", &mut acc.view_mut(), F32, &[b, splits, h, d])
    .output("stats", &mut stats.view_mut(), F32, &[b, splits, h, 2])
    .u32("first", x.first)
    .u32("capacity", x.capacity)
    .u32("per_row", x.pages)
    .u32("shift", x.page.trailing_zeros() as usize)
    .u32("pages", if x.table.is_some() { x.shape[0] } else { 1 })
    .u32("splits", splits)
    .u32("g", g)
    .u32("group", group)
    .run([b * splits, g * chunks], 128, 0)?;

    let kernel = launch(OP, device, &COMBINE, &[], "softmax_attention_combine")?
        .input_aligned("acc", acc.view(), F32, &[b, splits, h, d], 4)
        .input_aligned("stats", stats.view(), F32, &[b, splits, h, 2], 8);
    match x.table {
        Some((_, lens)) => kernel.input_aligned("lens", lens, U32, &[b], 4),
        None => kernel.null("lens"),
    }
    .output_aligned("out", out, F32, &[b, h, d], 4)
    .u32("first", x.first)
    .u32("capacity", x.capacity)
    .u32("splits", splits)
    .u32("h", h)
    .u32("d", d)
    .run(b * h, d, 0)
}

pub fn backward(
    q: View,
    k: View,
    v: View,
    out: View,
    d_out: View,
    dq: &mut ViewMut,
    dk: &mut ViewMut,
    dv: &mut ViewMut,
    n: Dims,
) -> Result<()> {
    let (device, dtype, d) = (q.device(), k.dtype(), head_dim(n.d)?);
    let (group, rows) = (n.h / n.g, n.t * (n.h / n.g));
    let (of_q, of_k, of_rows) = ([n.t, n.h, n.d], [n.s, n.g, n.d], [n.g, rows]);
    let mut lse = Tensor::empty_on(device, of_rows, F32)?;
    let mut delta = Tensor::empty_on(device, of_rows, F32)?;
    let sizes = |kernel: Launch| kernel.u32("t", n.t).u32("s", n.s).u32("g", n.g).u32("group", group);
    if dtype == BF16 {
        let packed = [n.g, rows, n.d];
        let mut q16 = Tensor::empty_on(device, packed, BF16)?;
        let mut d_out16 = Tensor::empty_on(device, packed, BF16)?;
        launch(OP, device, &PACK, &[d], "softmax_attention_pack")?
            .input("q", q, F32, &of_q)
            .input("out", out, F32, &of_q)
            .input("d_out", d_out, F32, &of_q)
            .output("q16", &mut q16.view_mut(), BF16, &packed)
            .output("d_out16", &mut d_out16.view_mut(), BF16, &packed)
            .output("delta", &mut delta.view_mut(), F32, &of_rows)
            .u32("t", n.t)
            .u32("g", n.g)
            .u32("group", group)
            .run((n.t * n.h * n.d).div_ceil(1024), 256, 0)?;
        let kernel = launch(OP, device, &PREFILL, &["bf16", d, "lse"], "softmax_attention_lse")?
            .input("q", q, F32, &of_q)
            .input("k", k, dtype, &of_k)
            .output("lse", &mut lse.view_mut(), F32, &of_rows);
        sizes(kernel).run(rows.div_ceil(ROWS) * n.g, 256, if n.d == 64 { 32 << 10 } else { 64 << 10 })?;

        let shared = 16_384 + 512 + 512 * n.d;
        let role = |role| launch(OP, device, &BACKWARD, &[role, d], "softmax_attention_backward");
        let rows_side = |kernel: Launch, a, b| {
            kernel.input(a, q16.view(), BF16, &packed).input(b, d_out16.view(), BF16, &packed)
        };
        let keys_side = |kernel: Launch, a, b| kernel.input(a, k, BF16, &of_k).input(b, v, BF16, &of_k);
        let stats = |kernel: Launch| {
            kernel.input("lse", lse.view(), F32, &of_rows).input("delta", delta.view(), F32, &of_rows)
        };
        let kernel = stats(keys_side(rows_side(role("dq")?, "x", "y"), "a", "b"));
        let kernel = kernel.output("first", dq, F32, &of_q).null("second");
        sizes(kernel).run(rows.div_ceil(ROWS) * n.g, 256, shared)?;
        let keys = |name| Ok::<_, Error>(stats(rows_side(keys_side(role(name)?, "x", "y"), "a", "b")));
        let grid = n.s.div_ceil(ROWS) * n.g;
        if n.d == 64 {
            let kernel = keys("dkv")?.output("first", dk, F32, &of_k).output("second", dv, F32, &of_k);
            return sizes(kernel).run(grid, 256, shared);
        }
        sizes(keys("dk")?.output("first", dk, F32, &of_k).null("second")).run(grid, 256, shared)?;
        return sizes(keys("dv")?.null("first").output("second", dv, F32, &of_k)).run(grid, 256, shared);
    }
    let tiles = |rows: usize| rows.div_ceil(kept(n.d)) * n.g;

    let kernel = launch(OP, device, &SIMT, &[dtype.name(), d], "softmax_attention_simt_stats")?
        .input("q", q, F32, &of_q)
        .input("k", k, dtype, &of_k)
        .input("out", out, F32, &of_q)
        .input("d_out", d_out, F32, &of_q)
        .output_aligned("lse", &mut lse.view_mut(), F32, &of_rows, 4)
        .output_aligned("delta", &mut delta.view_mut(), F32, &of_rows, 4);
    sizes(kernel).run(tiles(rows), 256, shared(n.d, 1, 1, 0))?;

    let inputs = |entry| -> Result<Launch> {
        Ok(launch(OP, device, &SIMT, &[dtype.name(), d], entry)?
            .input("q", q, F32, &of_q)
            .input("k", k, dtype, &of_k)
            .input("v", v, dtype, &of_k)
            .input("d_out", d_out, F32, &of_q)
            .input_aligned("lse", lse.view(), F32, &of_rows, 4)
            .input_aligned("delta", delta.view(), F32, &of_rows, 4))
    };
    let kernel = inputs("softmax_attention_simt_dq")?.output("dq", dq, F32, &of_q);
    sizes(kernel).run(tiles(rows), 256, shared(n.d, 2, 2, 1))?;
    let kernel =
        inputs("softmax_attention_simt_dkv")?.output("dk", dk, F32, &of_k).output("dv", dv, F32, &of_k);
    sizes(kernel).run(tiles(n.s), 256, shared(n.d, 2, 2, 2) + 3 * 128)
}
