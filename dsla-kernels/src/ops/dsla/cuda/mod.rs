//! Launches of the PTX kernels.

mod backward;
mod chunk;

pub use backward::{Forward, backward};

use super::{Args, BatchArgs, BatchDims, Dims, Normalizer, OP, Pool};
use crate::cuda::tiles::rows;
use crate::cuda::{Source, launch};
use crate::{DType, DType::F32, Error, Result, Tensor, View, ViewMut};

static RECURRENT: Source =
    Source::new("dsla_recurrent", rows!("recurrent.ptx"), &[("V", &["f32", "bf16", "f16"])]);

static WINDOW: Source = Source::new(
    "dsla_window",
    rows!("window.ptx"),
    &[("V", &["f32", "bf16", "f16"]), ("M", &["seq", "batch"])],
);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[
    &RECURRENT,
    &WINDOW,
    &chunk::STATES,
    &chunk::CHUNK,
    &backward::LINEAR,
    &backward::CHUNK,
    &backward::SUMS,
    &backward::DECAY,
    &backward::VALUE,
    &backward::WINDOW,
];

/// Fewer tokens than this go one by one.
const FEW: usize = 16;

/// The sizes that have kernels.
fn check(n: Dims) -> Result<()> {
    let wrong = |arg, got: usize, want: &str| Err(Error::Argument { op: OP, arg, got: got.to_string(), want: want.into() });
    if n.d == 0 || !n.d.is_multiple_of(4) || n.d > 128 {
        return wrong("head_dim", n.d, "a multiple of 4 up to 128 on cuda");
    }
    if n.f == 0 || n.f > 256 {
        return wrong("features", n.f, "1 to 256 on cuda");
    }
    Ok(())
}

/// The states and their sums, on the device.
pub struct State<'a> {
    pub s: ViewMut<'a>,
    pub z: ViewMut<'a>,
}

/// The sequences of a batch: places in the pools, heads of their rings, positions [B] u32 each.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub slots: usize,
    pub slot: View<'a>,
    pub head: View<'a>,
    pub position: View<'a>,
}

/// Inputs of the linear part.
struct Linear<'a> {
    phi_q: Option<View<'a>>,
    phi_k: View<'a>,
    v: View<'a>,
    log_decay: View<'a>,
    gamma: Option<View<'a>>,
    batch: Option<Batch<'a>>,
}

/// The states' part of every query: num [T, H, D], den [T, H].
fn recurrent(x: &Linear, n: Dims, state: &mut State, num: Option<(View, View)>) -> Result<()> {
    if n.l == 0 {
        return Ok(());
    }
    let v = x.v.dtype();
    let (slots, keys) = match x.batch {
        Some(b) if n.w > 0 => (b.slots, vec![b.slots, n.w, n.g, n.d]),
        Some(b) => (b.slots, vec![n.l, n.g, n.d]),
        None => (1, vec![x.v.shape().dims()[0], n.g, n.d]),
    };
    // [2, G, F, D] and [2, G, F]; in a pool [SLOTS, 2 G, F, D] and [SLOTS, 2, G, F].
    let (states, sums) = match x.batch {
        Some(_) => ([slots, 2 * n.g, n.f, n.d], vec![slots, 2, n.g, n.f]),
        None => ([2, n.g, n.f, n.d], vec![2, n.g, n.f]),
    };
    let block = n.f.next_multiple_of(32);
    let shared = 4 * (2 * (n.h / n.g) * (block / 32) * 20 + 4 * n.f);
    let mut l = launch(OP, x.v.device(), &RECURRENT, &[v.name()], "dsla_recurrent")?;
    l = match x.phi_q {
        Some(q) => l.input_aligned("phi_q", q, F32, &[n.t, n.h, n.f], 4),
        None => l.null("phi_q"),
    };
    l = l
        .input_aligned("phi_k", x.phi_k, F32, &[n.l, n.g, n.f], 4)
        .input_aligned("v", x.v, v, &keys, 4 * v.size() as u64)
        .input_aligned("log_decay", x.log_decay, F32, &[n.l, 2, n.g, n.e], 4);
    l = match x.gamma {
        Some(gamma) => l.input_aligned("gamma", gamma, F32, &[2, n.h], 4),
        None => l.null("gamma"),
    };
    l = l
        .output("s", &mut state.s, F32, &states)
        .output_aligned("z", &mut state.z, F32, &sums, 4);
    l = match num {
        Some((num, den)) => l.input_aligned("num", num, F32, &[n.t, n.h, n.d], 4).input_aligned("den", den, F32, &[n.t, n.h], 4),
        None => l.null("num").null("den"),
    };
    l = match x.batch {
        Some(b) => l
            .input_aligned("slot", b.slot, DType::U32, &[n.l], 4)
            .input_aligned("head", b.head, DType::U32, &[n.l], 4)
            .input_aligned("position", b.position, DType::U32, &[n.l], 4),
        None => l.null("slot").null("head").null("position"),
    };
    let sequences = if x.batch.is_some() { n.l } else { 1 };
    l.u32("l", n.l)
        .u32("lag", n.lag())
        .u32("h", n.h)
        .u32("g", n.g)
        .u32("d", n.d)
        .u32("f", n.f)
        .u32("e", n.e)
        .u32("w", n.w)
        .run(sequences * n.g * n.d.div_ceil(16), block, shared)
}

fn code(normalizer: Normalizer) -> usize {
    match normalizer {
        Normalizer::None => 0,
        Normalizer::Sum => 1,
        Normalizer::Rms => 2,
    }
}

/// The window's part, put together with what `out` and `den` hold.
fn window(x: &Args, n: Dims, out: &mut ViewMut, den: &mut ViewMut, peak: Option<&mut ViewMut>) -> Result<()> {
    let v = x.v.dtype();
    let align = 4 * v.size() as u64;
    let mut l = launch(OP, x.v.device(), &WINDOW, &[v.name(), "seq"], "dsla_window")?
        .input_aligned("q", x.q, F32, &[n.t, n.h, n.d], 4)
        .input_aligned("k", x.k, v, &[n.r + n.t, n.g, n.d], align)
        .input_aligned("v", x.v, v, &[n.r + n.t, n.g, n.d], align);
    l = if n.n > 0 {
        l.input_aligned("sink_k", x.sink_k, v, &[n.n, n.g, n.d], align).input_aligned("sink_v", x.sink_v, v, &[n.n, n.g, n.d], align)
    } else {
        l.null("sink_k").null("sink_v")
    };
    l = l
        .input_aligned("mix", x.mix, F32, &[n.h], 4)
        .input_aligned("slope", x.slope, F32, &[n.h], 4)
        .output_aligned("out", out, F32, &[n.t, n.h, n.d], 4)
        .output_aligned("den", den, F32, &[n.t, n.h], 4);
    l = match peak {
        Some(p) => l.output_aligned("peak", p, F32, &[n.t, n.h], 4),
        None => l.null("peak"),
    };
    l.u32("rows", n.t * n.h)
        .u32("h", n.h)
        .u32("g", n.g)
        .u32("d", n.d)
        .u32("w", n.w)
        .u32("n", n.n)
        .u32("r", n.r)
        .u32("position", n.position)
        .f32("scale", 1.0 / (n.d as f32).sqrt())
        .u32("normalizer", code(x.normalizer))
        .run((n.t * n.h).div_ceil(4), 128, 0)
}

pub fn forward(x: &Args, n: Dims, mut state: State, saved: Option<super::Saved>, mut out: ViewMut) -> Result<()> {
    check(n)?;
    let device = x.v.device();
    let (mut den, mut peak) = match saved {
        Some(s) => (Some(s.den), Some(s.peak)),
        None => (None, None),
    };
    let mut own;
    let mut den = match &mut den {
        Some(d) => d.reborrow(),
        None => {
            own = Tensor::empty_on(device, [n.t, n.h], F32)?;
            own.view_mut()
        }
    };
    if n.t == 0 || n.h == 0 {
        return Ok(());
    }
    if chunk::takes(n, x.v.dtype()) && n.t >= FEW {
        let into = chunk::Into { out: out.reborrow(), den: den.reborrow(), peak: peak.as_mut().map(ViewMut::reborrow) };
        chunk::forward(x, n, &mut state, into)?;
        return match x.normalizer {
            Normalizer::Rms => window(x, n, &mut out, &mut den, peak.as_mut()),
            _ => Ok(()),
        };
    }
    let lin = Linear { phi_q: Some(x.phi_q), phi_k: x.phi_k, v: x.v, log_decay: x.log_decay, gamma: Some(x.gamma), batch: None };
    recurrent(&lin, n, &mut state, Some((out.as_view(), den.as_view())))?;
    window(x, n, &mut out, &mut den, peak.as_mut())
}

pub fn fold(phi_k: View, v: View, log_decay: View, n: Dims, mut state: State) -> Result<()> {
    check(n)?;
    if chunk::takes(n, v.dtype()) && n.l >= FEW {
        return chunk::fold(phi_k, v, log_decay, n, &mut state);
    }
    let lin = Linear { phi_q: None, phi_k, v, log_decay, gamma: None, batch: None };
    recurrent(&lin, Dims { h: 0, ..n }, &mut state, None)
}

/// Two launches: the states of every sequence, then its window, which also puts the token into the ring.
pub fn decode_batch(x: &BatchArgs, n: BatchDims, pool: Pool, mut out: ViewMut) -> Result<()> {
    let BatchDims { b, slots, one } = n;
    check(one)?;
    if b == 0 || one.h == 0 {
        return Ok(());
    }
    let (device, v) = (x.v.device(), x.v.dtype());
    let align = 4 * v.size() as u64;
    let Pool { s, z, mut ring_k, mut ring_v } = pool;
    let mut den = Tensor::empty_on(device, [b, one.h], F32)?;
    let batch = Batch { slots, slot: x.slot, head: x.head, position: x.position };
    let all = Dims { t: b, l: b, r: one.w, ..one };
    let values = if one.w > 0 { ring_v.as_view() } else { x.v };
    let lin = Linear { phi_q: Some(x.phi_q), phi_k: x.phi_k, v: values, log_decay: x.log_decay, gamma: Some(x.gamma), batch: Some(batch) };
    recurrent(&lin, all, &mut State { s, z }, Some((out.as_view(), den.view())))?;

    let ring = [slots, one.w, one.g, one.d];
    let mut l = launch(OP, device, &WINDOW, &[v.name(), "batch"], "dsla_window")?
        .input_aligned("q", x.q, F32, &[b, one.h, one.d], 4)
        .input_aligned("k", x.k, v, &[b, one.g, one.d], align)
        .input_aligned("v", x.v, v, &[b, one.g, one.d], align);
    l = if one.n > 0 {
        let sinks = [slots, one.n, one.g, one.d];
        l.input_aligned("sink_k", x.sink_k, v, &sinks, align).input_aligned("sink_v", x.sink_v, v, &sinks, align)
    } else {
        l.null("sink_k").null("sink_v")
    };
    l = if one.w > 0 {
        l.output_aligned("ring_k", &mut ring_k, v, &ring, align).output_aligned("ring_v", &mut ring_v, v, &ring, align)
    } else {
        l.null("ring_k").null("ring_v")
    };
    l.input_aligned("slot", x.slot, DType::U32, &[b], 4)
        .input_aligned("head", x.head, DType::U32, &[b], 4)
        .input_aligned("position", x.position, DType::U32, &[b], 4)
        .input_aligned("mix", x.mix, F32, &[one.h], 4)
        .input_aligned("slope", x.slope, F32, &[one.h], 4)
        .output_aligned("out", &mut out, F32, &[b, one.h, one.d], 4)
        .output_aligned("den", &mut den.view_mut(), F32, &[b, one.h], 4)
        .null("peak")
        .u32("rows", b * one.h)
        .u32("h", one.h)
        .u32("g", one.g)
        .u32("d", one.d)
        .u32("w", one.w)
        .u32("n", one.n)
        .f32("scale", 1.0 / (one.d as f32).sqrt())
        .u32("normalizer", code(x.normalizer))
        .run((b * one.h).div_ceil(4), 128, 0)
}
