//! Launches of the PTX kernels.

mod backward;

use super::{Args, Dims, Normalizer, OP};
pub use backward::{Forward, backward};
use crate::cuda::{Source, launch};
use crate::{DType, DType::F32, Error, Result, Tensor, View, ViewMut};

static RECURRENT: Source =
    Source::new("dsla_recurrent", include_str!("recurrent.ptx"), &[("V", &["f32", "bf16", "f16"])]);

static WINDOW: Source = Source::new(
    "dsla_window",
    include_str!("window.ptx"),
    &[("V", &["f32", "bf16", "f16"]), ("M", &["seq", "batch"])],
);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] =
    &[&RECURRENT, &WINDOW, &backward::LINEAR, &backward::CHUNK, &backward::SUMS, &backward::VALUE, &backward::WINDOW];

/// The sizes that have kernels.
fn check(n: Dims) -> Result<()> {
    let wrong = |arg, got: usize, want: &str| Err(Error::Argument { op: OP, arg, got: got.to_string(), want: want.into() });
    if n.d == 0 || n.d % 4 != 0 || n.d > 128 {
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

/// The sequences of a batch: slots, heads of their rings, positions [B] u32 each.
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
        Some(b) if n.w > 0 => (b.slots, [b.slots, n.w, n.g, n.d].to_vec()),
        Some(b) => (b.slots, [n.l, n.g, n.d].to_vec()),
        None => (1, [x.v.shape().dims()[0], n.g, n.d].to_vec()),
    };
    let states = |rest: &[usize]| -> Vec<usize> {
        x.batch.map(|_| slots).into_iter().chain([2, n.g, n.f]).chain(rest.iter().copied()).collect()
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
        .output("s", &mut state.s, F32, &states(&[n.d]))
        .output_aligned("z", &mut state.z, F32, &states(&[]), 4);
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
    let lin = Linear { phi_q: Some(x.phi_q), phi_k: x.phi_k, v: x.v, log_decay: x.log_decay, gamma: Some(x.gamma), batch: None };
    recurrent(&lin, n, &mut state, Some((out.as_view(), den.as_view())))?;
    window(x, n, &mut out, &mut den, peak.as_mut())
}

pub fn fold(phi_k: View, v: View, log_decay: View, n: Dims, mut state: State) -> Result<()> {
    check(n)?;
    let lin = Linear { phi_q: None, phi_k, v, log_decay, gamma: None, batch: None };
    recurrent(&lin, Dims { h: 0, ..n }, &mut state, None)
}
