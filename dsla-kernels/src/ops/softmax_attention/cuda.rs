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
    axes: &[("T", &["bf16", "f16"]), ("D", SIZES), ("OUT", &["out", "out16", "lse"])],
    skip: |v| v[0] == "f16" && v[2] == "lse",
};
static DECODE: Source = Source::new(
    "softmax_attention_decode",
    include_str!("decode.ptx"),
    &[("T", KEYS), ("D", SIZES), ("M", &["1", "4", "8"])],
);
static COMBINE: Source = Source::new("softmax_attention_combine", include_str!("combine.ptx"), &[("OUT", KEYS)]);

static SIMT: Source =
    Source::new("softmax_attention_simt", include_str!("simt.ptx"), &[("T", &["f32", "f16"]), ("D", SIZES)]);

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
        _ => Err(Error::Argument {
            op: OP,
            arg: "head_dim",
            got: d.to_string(),
            want: "64 or 128 on cuda".into(),
        }),
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
        let to = if out.dtype() == F32 { "out" } else { "out16" };
        let kernel =
            launch(OP, q.device(), &PREFILL, &[dtype.name(), d, to], "softmax_attention_prefill")?;
        (kernel, rows.div_ceil(ROWS), prefill_shared(n.d))
    };
    let to = out.dtype();
    kernel
        .input("q", q, F32, &[n.t, n.h, n.d])
        .input("k", k, dtype, &[n.s, n.g, n.d])
        .input("v", v, dtype, &[n.s, n.g, n.d])
        .output("out", out, to, &[n.t, n.h, n.d])
        .u32("t", n.t)
        .u32("s", n.s)
        .u32("g", n.g)
        .u32("group", n.h / n.g)
        .run(grid * n.g, 256, shared)
}

/// Shared memory of prefill.ptx: at D = 128 it keeps q there.
fn prefill_shared(d: usize) -> usize {
    if d == 64 { 32 << 10 } else { 64 << 10 }
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

pub fn paged(q: View, k: View, v: View, table: View, lens: View, out: &mut ViewMut, n: Paged) -> Result<()> {
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
    let kernel =
        launch(OP, device, &DECODE, &[dtype.name(), head_dim(d)?, heads], "softmax_attention_decode")?
            .input("q", q, F32, &[b, h, d])
            .input("k", x.k, dtype, x.shape)
            .input("v", x.v, dtype, x.shape);
    match x.table {
        Some((table, lens)) => kernel.input_aligned("table", table, U32, &[b, x.pages], 4).input_aligned(
            "lens",
            lens,
            U32,
            &[b],
            4,
        ),
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

    let to = out.dtype();
    let kernel = launch(OP, device, &COMBINE, &[to.name()], "softmax_attention_combine")?
        .input_aligned("acc", acc.view(), F32, &[b, splits, h, d], 4)
        .input_aligned("stats", stats.view(), F32, &[b, splits, h, 2], 8);
    match x.table {
        Some((_, lens)) => kernel.input_aligned("lens", lens, U32, &[b], 4),
        None => kernel.null("lens"),
    }
    .output_aligned("out", out, to, &[b, h, d], to.size() as u64)
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
    let x = Gradient { q, k, v, out, d_out, n, rows: n.t * (n.h / n.g), d: head_dim(n.d)? };
    let stats = [n.g, x.rows];
    let mut lse = Tensor::empty_on(q.device(), stats, F32)?;
    let mut delta = Tensor::empty_on(q.device(), stats, F32)?;
    // f16 has too short a range for the products that tensor cores would round.
    if k.dtype() == BF16 {
        return x.tensor_cores(&mut lse, &mut delta, dq, dk, dv);
    }
    x.simt(&mut lse, &mut delta, dq, dk, dv)
}

/// What the gradient kernels read.
struct Gradient<'a> {
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
    out: View<'a>,
    d_out: View<'a>,
    n: Dims,
    /// Of a kv head: queries times its query heads.
    rows: usize,
    d: &'static str,
}

impl Gradient<'_> {
    fn of_q(&self) -> [usize; 3] {
        [self.n.t, self.n.h, self.n.d]
    }

    fn of_k(&self) -> [usize; 3] {
        [self.n.s, self.n.g, self.n.d]
    }

    /// The last four parameters of every kernel.
    fn sizes(&self, kernel: Launch) -> Launch {
        let n = self.n;
        kernel.u32("t", n.t).u32("s", n.s).u32("g", n.g).u32("group", n.h / n.g)
    }

    fn keys(&self, kernel: Launch, k: &'static str, v: &'static str) -> Launch {
        kernel.input(k, self.k, self.k.dtype(), &self.of_k()).input(v, self.v, self.k.dtype(), &self.of_k())
    }

    fn stats(&self, kernel: Launch, lse: &Tensor, delta: &Tensor) -> Launch {
        let shape = [self.n.g, self.rows];
        kernel.input_aligned("lse", lse.view(), F32, &shape, 4).input_aligned(
            "delta",
            delta.view(),
            F32,
            &shape,
            4,
        )
    }

    fn tensor_cores(
        &self,
        lse: &mut Tensor,
        delta: &mut Tensor,
        dq: &mut ViewMut,
        dk: &mut ViewMut,
        dv: &mut ViewMut,
    ) -> Result<()> {
        let (n, d, device) = (self.n, self.d, self.q.device());
        let (of_q, of_k, packed, stats) = (self.of_q(), self.of_k(), [n.g, self.rows, n.d], [n.g, self.rows]);
        let mut q16 = Tensor::empty_on(device, packed, BF16)?;
        let mut d_out16 = Tensor::empty_on(device, packed, BF16)?;
        launch(OP, device, &PACK, &[d], "softmax_attention_pack")?
            .input("q", self.q, F32, &of_q)
            .input("out", self.out, F32, &of_q)
            .input("d_out", self.d_out, F32, &of_q)
            .output("q16", &mut q16.view_mut(), BF16, &packed)
            .output("d_out16", &mut d_out16.view_mut(), BF16, &packed)
            .output("delta", &mut delta.view_mut(), F32, &stats)
            .u32("t", n.t)
            .u32("g", n.g)
            .u32("group", n.h / n.g)
            .run((n.t * n.h * n.d).div_ceil(1024), 256, 0)?;
        let (row_tiles, key_tiles) = (self.rows.div_ceil(ROWS) * n.g, n.s.div_ceil(ROWS) * n.g);
        let kernel = launch(OP, device, &PREFILL, &["bf16", d, "lse"], "softmax_attention_lse")?
            .input("q", self.q, F32, &of_q)
            .input("k", self.k, BF16, &of_k)
            .output("lse", &mut lse.view_mut(), F32, &stats);
        self.sizes(kernel).run(row_tiles, 256, prefill_shared(n.d))?;

        let shared = 16_384 + 512 + 512 * n.d;
        let role = |role| launch(OP, device, &BACKWARD, &[role, d], "softmax_attention_backward");
        let packs = |kernel: Launch, q, d_out| {
            kernel.input(q, q16.view(), BF16, &packed).input(d_out, d_out16.view(), BF16, &packed)
        };
        let kernel = self.keys(packs(role("dq")?, "x", "y"), "a", "b");
        let kernel = self.stats(kernel, lse, delta).output("first", dq, F32, &of_q).null("second");
        self.sizes(kernel).run(row_tiles, 256, shared)?;

        let keys = |name| -> Result<Launch> {
            Ok(self.stats(packs(self.keys(role(name)?, "x", "y"), "a", "b"), lse, delta))
        };
        if n.d == 64 {
            let kernel = keys("dkv")?.output("first", dk, F32, &of_k).output("second", dv, F32, &of_k);
            return self.sizes(kernel).run(key_tiles, 256, shared);
        }
        let kernel = keys("dk")?.output("first", dk, F32, &of_k).null("second");
        self.sizes(kernel).run(key_tiles, 256, shared)?;
        let kernel = keys("dv")?.null("first").output("second", dv, F32, &of_k);
        self.sizes(kernel).run(key_tiles, 256, shared)
    }

    fn simt(
        &self,
        lse: &mut Tensor,
        delta: &mut Tensor,
        dq: &mut ViewMut,
        dk: &mut ViewMut,
        dv: &mut ViewMut,
    ) -> Result<()> {
        let (n, dtype) = (self.n, self.k.dtype());
        let (of_q, of_k, stats) = (self.of_q(), self.of_k(), [n.g, self.rows]);
        let kernel = |entry| launch(OP, self.q.device(), &SIMT, &[dtype.name(), self.d], entry);
        let tiles = |rows: usize| rows.div_ceil(kept(n.d)) * n.g;

        let first = kernel("softmax_attention_simt_stats")?
            .input("q", self.q, F32, &of_q)
            .input("k", self.k, dtype, &of_k)
            .input("out", self.out, F32, &of_q)
            .input("d_out", self.d_out, F32, &of_q)
            .output("lse", &mut lse.view_mut(), F32, &stats)
            .output("delta", &mut delta.view_mut(), F32, &stats);
        self.sizes(first).run(tiles(self.rows), 256, shared(n.d, 1, 1, 0))?;
        let inputs = |entry| -> Result<Launch> {
            let kernel = self.keys(kernel(entry)?.input("q", self.q, F32, &of_q), "k", "v");
            Ok(self.stats(kernel.input("d_out", self.d_out, F32, &of_q), lse, delta))
        };
        let second = inputs("softmax_attention_simt_dq")?.output("dq", dq, F32, &of_q);
        self.sizes(second).run(tiles(self.rows), 256, shared(n.d, 2, 2, 1))?;
        let third =
            inputs("softmax_attention_simt_dkv")?.output("dk", dk, F32, &of_k).output("dv", dv, F32, &of_k);
        self.sizes(third).run(tiles(n.s), 256, shared(n.d, 2, 2, 2) + 3 * 128)
    }
}
