//! Launches of the backward kernels.
//!
//! Gradients of num and den per query; each chunk's own share of the states after it and of the gradients before it, in
//! parallel; two scans over chunks; then every chunk forward and backward in time at once; sums over features and
//! tokens; and, when the projections train, values and the exact part.

mod mma;

use super::super::{Args, Dims, Grads, Normalizer, OP};
use crate::cuda::tiles::rows;
use crate::cuda::{Launch, Source, launch};
use crate::{DType::F32, Device, Error, Result, Tensor, View, ViewMut};

pub(super) static LINEAR: Source = Source::new(
    "dsla_backward",
    rows!("backward.ptx"),
    &[("T", &["f32", "bf16", "f16"]), ("D", &["64", "128"])],
);
/// The linear part on tensor cores.
pub(super) static CHUNK: Source = Source::new(
    "dsla_backward_mma",
    include_str!("backward_mma.ptx"),
    &[("T", &["bf16", "f16"]), ("D", &["64", "128"])],
);
pub(super) static SUMS: Source = Source::new("dsla_backward_sums", rows!("backward_sums.ptx"), &[]);
pub(super) static DECAY: Source = Source::new("dsla_backward_decay", include_str!("backward_decay.ptx"), &[]);
pub(super) static VALUE: Source =
    Source::new("dsla_backward_value", rows!("backward_value.ptx"), &[("BLOCKS", &["1", "2", "4"])]);
pub(super) static WINDOW: Source = Source::new(
    "dsla_backward_window",
    rows!("backward_window.ptx"),
    &[("T", &["f32", "bf16", "f16"]), ("D", &["64", "128"])],
);

/// What the forward pass left, and the gradient of its output.
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    pub s0: View<'a>,
    pub z0: View<'a>,
    pub den: View<'a>,
    pub peak: View<'a>,
    pub out: View<'a>,
    pub d_out: View<'a>,
}

/// Keys per chunk: 64, more only to keep the states at chunk borders below about 128 copies.
fn chunk(l: usize) -> usize {
    64 * l.div_ceil(8192).max(1)
}

/// Queries per range of a sink's.
const RANGE: usize = 128;

/// Everything that the kernels of one call share.
struct Call<'a> {
    x: &'a Args<'a>,
    n: Dims,
    device: Device,
    /// The specialisation for the head size.
    size: &'static str,
    span: usize,
    chunks: usize,
    /// Tiles of features, one per warp.
    tiles: usize,
    /// On tensor cores: 16-bit values, scalar decays, sizes that fill their tiles.
    mma: bool,
    d_num: Tensor,
    coef: Tensor,
    clamp: Tensor,
    d_log: Tensor,
}

pub fn backward(x: &Args, n: Dims, fwd: Forward, grads: Grads) -> Result<()> {
    let wrong = |arg, got: usize, want: &str| {
        Err(Error::Argument { op: OP, arg, got: got.to_string(), want: want.into() })
    };
    if n.d == 0 || !n.d.is_multiple_of(4) || n.d > 128 {
        return wrong("head_dim", n.d, "a multiple of 4 up to 128 on cuda");
    }
    if n.f == 0 || !n.f.is_multiple_of(4) || n.f > 256 {
        return wrong("features", n.f, "a multiple of 4 up to 256 on cuda");
    }
    if n.t == 0 || n.h == 0 {
        return Ok(());
    }
    let device = x.v.device();
    let span = chunk(n.l);
    let mma = x.v.dtype() != F32 && n.e == 1 && (n.d == 64 || n.d == 128) && n.f.is_multiple_of(64);
    let c = Call {
        x,
        n,
        device,
        size: if n.d <= 64 { "64" } else { "128" },
        span,
        chunks: n.l.div_ceil(span),
        tiles: n.f.div_ceil(if mma { 64 } else { if n.d <= 64 { 8 } else { 4 } }),
        mma,
        d_num: Tensor::empty_on(device, [n.t, n.h, n.d], F32)?,
        coef: Tensor::empty_on(device, [n.t, n.h, 4], F32)?,
        clamp: Tensor::empty_on(device, [n.h, n.t, 2], F32)?,
        d_log: Tensor::empty_on(device, [n.h, n.t], F32)?,
    };
    c.run(fwd, grads)
}

impl Call<'_> {
    fn run(mut self, fwd: Forward, mut to: Grads) -> Result<()> {
        let n = self.n;
        self.rows(fwd, &mut to)?;
        let borders = if n.l > 0 { Some(self.states(fwd, &mut to)?) } else { None };
        let parts = borders.as_ref().map(|b| self.chunks(b, &mut to)).transpose()?;
        self.sums(parts, &mut to)?;
        let Some(mut qkv) = to.qkv else { return Ok(()) };
        if let Some(b) = &borders {
            self.values(b, &mut qkv[2])?;
        }
        self.window(fwd, qkv)
    }

    fn sizes(&self, l: Launch, tiles: usize) -> Launch {
        self.dims(l).u32("tiles", tiles).u32("tasks", self.chunks * self.n.g * tiles)
    }

    fn dims(&self, l: Launch) -> Launch {
        let n = self.n;
        l.u32("l", n.l)
            .u32("h", n.h)
            .u32("g", n.g)
            .u32("f", n.f)
            .u32("d", n.d)
            .u32("e", n.e)
            .u32("lag", n.lag())
            .u32("span", self.span)
    }

    fn linear(&self, entry: &'static str) -> Result<Launch> {
        launch(OP, self.device, &LINEAR, &[self.x.v.dtype().name(), self.size], entry)
    }

    /// Blocks of four warps for every chunk, kv head and tile.
    fn blocks(&self, tiles: usize) -> usize {
        (self.chunks * self.n.g * tiles).div_ceil(4)
    }

    fn phi_q(&self, l: Launch) -> Launch {
        l.input_aligned("phi_q", self.x.phi_q, F32, &[self.n.t, self.n.h, self.n.f], 4)
    }

    fn phi_k(&self, l: Launch) -> Launch {
        l.input_aligned("phi_k", self.x.phi_k, F32, &[self.n.l, self.n.g, self.n.f], 4)
    }

    fn v(&self, l: Launch) -> Launch {
        let (v, n) = (self.x.v, self.n);
        l.input_aligned("v", v, v.dtype(), &[n.r + n.t, n.g, n.d], 4 * v.dtype().size() as u64)
    }

    fn log_decay(&self, l: Launch) -> Launch {
        l.input_aligned("log_decay", self.x.log_decay, F32, &[self.n.l, 2, self.n.g, self.n.e], 4)
    }

    /// gamma, d_num, coef.
    fn reads(&self, l: Launch) -> Launch {
        let n = self.n;
        l.input_aligned("gamma", self.x.gamma, F32, &[2, n.h], 4)
            .input("d_num", self.d_num.view(), F32, &[n.t, n.h, n.d])
            .input("coef", self.coef.view(), F32, &[n.t, n.h, 4])
    }

    /// Gradients of num and den, the states' weights.
    fn rows(&mut self, fwd: Forward, to: &mut Grads) -> Result<()> {
        let (n, x) = (self.n, self.x);
        let normalizer = match x.normalizer {
            Normalizer::None => 0,
            Normalizer::Sum => 1,
            Normalizer::Rms => 2,
        };
        launch(OP, self.device, &SUMS, &[], "dsla_bwd_rows")?
            .input_aligned("out", fwd.out, F32, &[n.t, n.h, n.d], 4)
            .input_aligned("d_out", fwd.d_out, F32, &[n.t, n.h, n.d], 4)
            .input_aligned("den", fwd.den, F32, &[n.t, n.h], 4)
            .input_aligned("peak", fwd.peak, F32, &[n.t, n.h], 4)
            .input_aligned("mix", x.mix, F32, &[n.h], 4)
            .input_aligned("slope", x.slope, F32, &[n.h], 4)
            .output("d_num", &mut self.d_num.view_mut(), F32, &[n.t, n.h, n.d])
            .output("coef", &mut self.coef.view_mut(), F32, &[n.t, n.h, 4])
            .output("clamp", &mut self.clamp.view_mut(), F32, &[n.h, n.t, 2])
            .output_aligned("d_phi_q", &mut to.phi_q, F32, &[n.t, n.h, n.f], 4)
            .u32("rows", n.t * n.h)
            .u32("h", n.h)
            .u32("d", n.d)
            .u32("f", n.f)
            .u32("lag", n.lag())
            .u32("window", n.w)
            .u32("normalizer", normalizer)
            .run((n.t * n.h).div_ceil(4), 128, 0)
    }

    /// The states at chunk borders and their gradients; those of the initial states go to `to`.
    fn states(&self, fwd: Forward, to: &mut Grads) -> Result<Borders> {
        let (n, device, count) = (self.n, self.device, self.chunks + 1);
        let empty = |shape: &[usize]| Tensor::empty_on(device, shape, F32);
        let [s, z] = self.borders();
        let mut b =
            Borders { s: empty(&s)?, z: empty(&z)?, grad_s: empty(&s)?, grad_z: empty(&z)?, cum: None };
        let total_shape = [self.chunks, 2 * n.g, n.e];
        let mut total = empty(&total_shape)?;
        let cum = if self.mma {
            self.outer(&mut b, &mut total)?
        } else {
            self.own(&mut b, &mut total)?;
            None
        };
        let scan = |entry, steps: &mut Tensor, state: View, shape: &[usize], width: usize| {
            let rows = 2 * n.g * n.f;
            launch(OP, device, &SUMS, &[], entry)?
                .output("steps", &mut steps.view_mut(), F32, &[&[count, 2 * n.g, n.f], &shape[3..]].concat())
                .input_aligned("state", state, F32, shape, 4)
                .input("total", total.view(), F32, &total_shape)
                .u32("n", rows * width)
                .u32("width", width)
                .u32("f", n.f)
                .u32("e", n.e)
                .u32("g", n.g)
                .u32("chunks", self.chunks)
                .run((rows * width).div_ceil(256), 256, 0)
        };
        let (wide, flat) = ([2, n.g, n.f, n.d], [2, n.g, n.f]);
        scan("dsla_bwd_scan_fwd", &mut b.s, fwd.s0, &wide, n.d)?;
        scan("dsla_bwd_scan_fwd", &mut b.z, fwd.z0, &flat, 1)?;
        scan("dsla_bwd_scan_bwd", &mut b.grad_s, to.s.as_view(), &wide, n.d)?;
        scan("dsla_bwd_scan_bwd", &mut b.grad_z, to.z.as_view(), &flat, 1)?;
        b.cum = cum;
        Ok(b)
    }

    /// Each chunk's own share of the borders, and its log decays, by the recurrence.
    fn own(&self, b: &mut Borders, total: &mut Tensor) -> Result<()> {
        let [s, z] = self.borders();
        let l = self
            .log_decay(self.v(self.phi_k(self.linear("dsla_bwd_states")?)))
            .output("border", &mut b.s.view_mut(), F32, &s)
            .output("border_z", &mut b.z.view_mut(), F32, &z)
            .output("total", &mut total.view_mut(), F32, &[self.chunks, 2 * self.n.g, self.n.e]);
        self.sizes(l, self.tiles).run(self.blocks(self.tiles), 128, 0)?;
        let l = self
            .reads_after_decay(self.phi_q(self.linear("dsla_bwd_grads")?))
            .output("grad", &mut b.grad_s.view_mut(), F32, &s)
            .output("grad_z", &mut b.grad_z.view_mut(), F32, &z);
        self.sizes(l, self.tiles).run(self.blocks(self.tiles), 128, 0)?;
        Ok(())
    }

    /// Shapes of the states at borders and of their sums.
    fn borders(&self) -> [Vec<usize>; 2] {
        let n = self.n;
        [vec![self.chunks + 1, 2 * n.g, n.f, n.d], vec![self.chunks + 1, 2 * n.g, n.f]]
    }

    fn reads_after_decay(&self, l: Launch) -> Launch {
        self.reads(self.log_decay(l))
    }

    /// d_phi_q, d_phi_k, d_log_decay; the products phi_q . d_phi_q by tile are returned.
    fn chunks(&self, b: &Borders, to: &mut Grads) -> Result<Parts> {
        let (n, [s, z]) = (self.n, self.borders());
        let mut parts_q = Tensor::empty_on(self.device, [n.h, self.tiles, n.l, 2], F32)?;
        let mut parts_k = Tensor::empty_on(self.device, [n.g, self.tiles, n.l, 2], F32)?;
        if let Some(cum) = &b.cum {
            self.products(b, cum, to, &mut parts_q, &mut parts_k)?;
            return Ok(Parts { q: parts_q, k: parts_k });
        }
        let inputs = |entry| -> Result<Launch> {
            let l = self.log_decay(self.v(self.phi_k(self.phi_q(self.linear(entry)?))));
            Ok(self.reads(l).input("border", b.s.view(), F32, &s).input("border_z", b.z.view(), F32, &z))
        };
        let l = inputs("dsla_bwd_query")?
            .output_aligned("d_phi_q", &mut to.phi_q, F32, &[n.t, n.h, n.f], 4)
            .output_aligned("d_log_decay", &mut to.log_decay, F32, &[n.l, 2, n.g, n.e], 4)
            .output("parts_q", &mut parts_q.view_mut(), F32, &[n.h, self.tiles, n.l, 2]);
        self.sizes(l, self.tiles).run(self.blocks(self.tiles), 128, 0)?;
        let l = inputs("dsla_bwd_key")?
            .input("grad", b.grad_s.view(), F32, &s)
            .input("grad_z", b.grad_z.view(), F32, &z)
            .output_aligned("d_phi_k", &mut to.phi_k, F32, &[n.l, n.g, n.f], 4)
            .output_aligned("d_log_decay", &mut to.log_decay, F32, &[n.l, 2, n.g, n.e], 4)
            .output("parts_k", &mut parts_k.view_mut(), F32, &[n.g, self.tiles, n.l, 2]);
        self.sizes(l, self.tiles).run(self.blocks(self.tiles), 128, 0)?;
        Ok(Parts { q: parts_q, k: parts_k })
    }

    /// d_log; d_gamma, d_mix, d_slope; scalar d_log_decay.
    fn sums(&mut self, parts: Option<Parts>, to: &mut Grads) -> Result<()> {
        let n = self.n;
        let own;
        let parts_q = match &parts {
            Some(p) => &p.q,
            None => {
                own = Tensor::empty_on(self.device, [n.h, self.tiles, 0, 2], F32)?;
                &own
            }
        };
        let mut dots = Tensor::empty_on(self.device, [n.h, n.l, 2], F32)?;
        launch(OP, self.device, &SUMS, &[], "dsla_bwd_heads")?
            .input("parts_q", parts_q.view(), F32, &[n.h, self.tiles, n.l, 2])
            .input_aligned("gamma", self.x.gamma, F32, &[2, n.h], 4)
            .output("dots", &mut dots.view_mut(), F32, &[n.h, n.l, 2])
            .output("d_log", &mut self.d_log.view_mut(), F32, &[n.h, n.t])
            .u32("t", n.t)
            .u32("l", n.l)
            .u32("h", n.h)
            .u32("lag", n.lag())
            .u32("tiles", self.tiles)
            .run([n.t.div_ceil(128), n.h], 128, 0)?;
        launch(OP, self.device, &SUMS, &[], "dsla_bwd_weights")?
            .input("dots", dots.view(), F32, &[n.h, n.l, 2])
            .input("d_log", self.d_log.view(), F32, &[n.h, n.t])
            .input("clamp", self.clamp.view(), F32, &[n.h, n.t, 2])
            .output_aligned("d_gamma", &mut to.gamma, F32, &[2, n.h], 4)
            .output_aligned("d_mix", &mut to.mix, F32, &[n.h], 4)
            .output_aligned("d_slope", &mut to.slope, F32, &[n.h], 4)
            .u32("t", n.t)
            .u32("l", n.l)
            .u32("h", n.h)
            .u32("window", n.w)
            .run(n.h, 256, 0)?;
        let Some(parts) = parts.filter(|_| n.e == 1) else { return Ok(()) };
        launch(OP, self.device, &DECAY, &[], "dsla_bwd_decay")?
            .input("dots", dots.view(), F32, &[n.h, n.l, 2])
            .input("parts_k", parts.k.view(), F32, &[n.g, self.tiles, n.l, 2])
            .input_aligned("gamma", self.x.gamma, F32, &[2, n.h], 4)
            .output_aligned("d_log_decay", &mut to.log_decay, F32, &[n.l, 2, n.g, n.e], 4)
            .u32("l", n.l)
            .u32("h", n.h)
            .u32("g", n.g)
            .u32("span", self.span)
            .u32("tiles", self.tiles)
            .run(self.chunks, 128, self.turned())
    }

    /// Shared memory of dsla_bwd_decay and dsla_bwd_cum.
    fn turned(&self) -> usize {
        let channels = 2 * self.n.g;
        4 * channels * (33 + (32 / channels).max(1))
    }

    /// d_v of the keys that entered the states.
    fn values(&self, b: &Borders, d_v: &mut ViewMut) -> Result<()> {
        let (n, x) = (self.n, self.x);
        let blocks = match n.f {
            0..=64 => "1",
            65..=128 => "2",
            _ => "4",
        };
        let tiles = n.d.div_ceil(8);
        let l = launch(OP, self.device, &VALUE, &[blocks], "dsla_bwd_value")?
            .input("phi_q", x.phi_q, F32, &[n.t, n.h, n.f])
            .input("phi_k", x.phi_k, F32, &[n.l, n.g, n.f])
            .input_aligned("log_decay", x.log_decay, F32, &[n.l, 2, n.g, n.e], if n.e == 1 { 4 } else { 16 });
        let l = self
            .reads(l)
            .input("grad", b.grad_s.view(), F32, &[self.chunks + 1, 2 * n.g, n.f, n.d])
            .output_aligned("d_v", d_v, F32, &[n.r + n.t, n.g, n.d], 4);
        self.dims(l).u32("tiles", tiles).run(self.chunks * n.g * tiles, 128, 0)
    }

    /// The exact part: d_q and the rest of d_k, d_v, d_sink_k, d_sink_v. Without a window it writes zeros.
    fn window(
        &self,
        fwd: Forward,
        [mut d_q, mut d_k, mut d_v, mut d_sink_k, mut d_sink_v]: [ViewMut; 5],
    ) -> Result<()> {
        let (n, x, device) = (self.n, self.x, self.device);
        let dtype = x.k.dtype();
        let align = 4 * dtype.size() as u64;
        let keys = [n.r + n.t, n.g, n.d];
        let sinks = [n.n, n.g, n.d];
        let mut tops = Tensor::empty_on(device, [n.t, n.h, 2], F32)?;
        let start = |entry| launch(OP, device, &WINDOW, &[dtype.name(), self.size], entry);
        let finish = |l: Launch, tasks: usize| {
            l.u32("t", n.t)
                .u32("h", n.h)
                .u32("g", n.g)
                .u32("d", n.d)
                .u32("w", n.w)
                .u32("r", n.r)
                .u32("n", n.n)
                .u32("position", n.position)
                .u32("tasks", tasks)
                .f32("scale", 1.0 / (n.d as f32).sqrt())
                .run(tasks.div_ceil(4), 128, 0)
        };
        let rows = |l: Launch| {
            l.input("d_num", self.d_num.view(), F32, &[n.t, n.h, n.d])
                .input("coef", self.coef.view(), F32, &[n.t, n.h, 4])
                .input_aligned("peak", fwd.peak, F32, &[n.t, n.h], 4)
        };
        let l = start("dsla_bwd_window_q")?
            .input("q", x.q, F32, &[n.t, n.h, n.d])
            .input_aligned("k", x.k, dtype, &keys, align)
            .input_aligned("v", x.v, dtype, &keys, align)
            .input_aligned("sink_k", x.sink_k, dtype, &sinks, align)
            .input_aligned("sink_v", x.sink_v, dtype, &sinks, align);
        let l = rows(l)
            .input_aligned("slope", x.slope, F32, &[n.h], 4)
            .input("d_log", self.d_log.view(), F32, &[n.h, n.t])
            .output("d_q", &mut d_q, F32, &[n.t, n.h, n.d])
            .output("tops", &mut tops.view_mut(), F32, &[n.t, n.h, 2]);
        finish(l, n.t * n.h)?;
        let l = start("dsla_bwd_window_k")?
            .input("q", x.q, F32, &[n.t, n.h, n.d])
            .input_aligned("k", x.k, dtype, &keys, align)
            .input_aligned("v", x.v, dtype, &keys, align);
        let l = rows(l)
            .input("tops", tops.view(), F32, &[n.t, n.h, 2])
            .output("d_k", &mut d_k, F32, &keys)
            .output("d_v", &mut d_v, F32, &keys)
            .u32("l", n.l);
        finish(l, (n.r + n.t) * n.g)?;
        if n.n == 0 {
            return Ok(());
        }
        let splits = n.t.div_ceil(RANGE);
        let count = n.n * n.g * n.d;
        let mut parts = Tensor::empty_on(device, [2, splits, count], F32)?;
        let l = start("dsla_bwd_window_s")?
            .input("q", x.q, F32, &[n.t, n.h, n.d])
            .input_aligned("sink_k", x.sink_k, dtype, &sinks, align)
            .input_aligned("sink_v", x.sink_v, dtype, &sinks, align);
        let l = rows(l)
            .input("tops", tops.view(), F32, &[n.t, n.h, 2])
            .output("parts", &mut parts.view_mut(), F32, &[2, splits, count])
            .u32("splits", splits)
            .u32("span", RANGE);
        finish(l, splits * n.n * n.g)?;
        start("dsla_bwd_window_sum")?
            .input("parts", parts.view(), F32, &[2, splits, count])
            .output_aligned("d_sink_k", &mut d_sink_k, F32, &sinks, 4)
            .output_aligned("d_sink_v", &mut d_sink_v, F32, &sinks, 4)
            .u32("count", count)
            .u32("splits", splits)
            .run(count.div_ceil(128), 128, 0)
    }
}

/// The states at the borders of chunks and their gradients.
struct Borders {
    s: Tensor,
    z: Tensor,
    grad_s: Tensor,
    grad_z: Tensor,
    /// Cumulative log decays, of the form on tensor cores.
    cum: Option<Tensor>,
}

/// phi_q . d_phi_q and phi_k . d_phi_k, by tile of features.
struct Parts {
    q: Tensor,
    k: Tensor,
}
