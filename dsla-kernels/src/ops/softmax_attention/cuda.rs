//! Launches of the PTX kernels.

use super::{Dims, OP, Paged};
use crate::cuda::{Source, launch};
use crate::{
    DType::{F32, U32},
    Error, Result, Tensor, View, ViewMut,
};

const KEYS: &[&str] = &["f32", "bf16", "f16"];
const SIZES: &[&str] = &["64", "128"];

static PREFILL: Source = Source::new(
    "softmax_attention_prefill",
    include_str!("prefill.ptx"),
    &[("T", &["bf16", "f16"]), ("D", SIZES)],
);
static DECODE: Source = Source::new(
    "softmax_attention_decode",
    include_str!("decode.ptx"),
    &[("T", KEYS), ("D", SIZES), ("M", &["1", "4", "8"])],
);
static COMBINE: Source = Source::new("softmax_attention_combine", include_str!("combine.ptx"), &[]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&PREFILL, &DECODE, &COMBINE];

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
    if dtype == F32 {
        return Err(Error::Argument { op: OP, arg: "k", got: "f32".into(), want: "16 bits on cuda".into() });
    }
    launch(OP, q.device(), &PREFILL, &[dtype.name(), d], "softmax_attention_prefill")?
        .input_aligned("q", q, F32, &[n.t, n.h, n.d], 8)
        .input("k", k, dtype, &[n.s, n.g, n.d])
        .input("v", v, dtype, &[n.s, n.g, n.d])
        .output_aligned("out", out, F32, &[n.t, n.h, n.d], 8)
        .u32("t", n.t)
        .u32("s", n.s)
        .u32("g", n.g)
        .u32("group", n.h / n.g)
        .run(rows.div_ceil(ROWS) * n.g, 256, if n.d == 64 { 32 << 10 } else { 64 << 10 })
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
    _k: View,
    _v: View,
    _out: View,
    _d_out: View,
    _dq: &mut ViewMut,
    _dk: &mut ViewMut,
    _dv: &mut ViewMut,
    n: Dims,
) -> Result<()> {
    head_dim(n.d)?;
    let want = "cpu; no backward on cuda".into();
    Err(Error::Argument { op: OP, arg: "device", got: q.device().to_string(), want })
}
