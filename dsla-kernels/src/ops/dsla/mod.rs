//! Dual-state linear attention: two decaying states per kv head, an optional exact softmax window, one normaliser.
//!
//! For one sequence of T new tokens, H query heads, G kv heads (query head h reads kv head h G / H), head size D,
//! feature size F, with the R = min(W, position) tokens before them in the window ring:
//!
//! - keys and values `k, v` [R + T, G, D] are those of the ring, then the new ones;
//! - the first L = max(0, R + T - W) of them leave the window and enter the states, in order: each decays both
//!   states, then writes (decay first, then write, then read), `S_i <- d_i S_i + phi(k) v^T`, `z_i <- d_i z_i + phi(k)`;
//! - query t reads the states after token t - W was written, and the last W tokens exactly:
//!   `num = sum_window e^(s_j - m) v_j + e^(mix - slope m) sum_i gamma_i phi(q)^T S_i`, `den` likewise with z,
//!   where `s_j = q.k_j / sqrt(D)` and m is the row's maximum;
//! - sinks: the first N tokens of the sequence are never forgotten: they stay in the exact part (pretrained models
//!   park attention there; StreamingLLM, Xiao et al. 2024) and must bring phi(k) = 0 when they leave the window;
//! - a ring that is not full (R < W) means the sequence began with this call's keys: the states must be zero.
//!
//! The paper's layer (arXiv 2506.09316, section 3) is W = 0, no normaliser, vector decays. The window, the sum
//! normaliser and scalar decays are the native form; `slope` (0 in the plain form) lets the weight of the far past
//! follow the peak of the near one, as it does in softmax attention, where slope is exactly 1.
//!
//! One pass over a whole sequence, any split into calls, and token-by-token decode are the same function to rounding.

mod backward;
mod batch;
pub mod cases;
mod chunk;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod keys;
pub mod naive;
mod pairs;
mod read;
mod step;
#[cfg(target_arch = "x86_64")]
mod strips;
mod window;

pub use batch::{BatchArgs, BatchDims, Place, Pool, decode_batch};

use crate::view::PlaceMut;
use crate::{DType, Device, Error, Result, View, ViewMut};

const OP: &str = "dsla";

/// How `num` becomes the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalizer {
    /// o = num (the paper).
    None,
    /// o = num / (den + 1e-6): every output is a convex combination of values.
    Sum,
    /// o = num / rms(num), per head.
    Rms,
}

/// The inputs of one call; shapes as in the module's description.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// Rotated queries [T, H, D] f32; read only with a window.
    pub q: View<'a>,
    /// Window keys [R + T, G, D], f32, bf16 or f16.
    pub k: View<'a>,
    /// Values [R + T, G, D], f32, bf16 or f16 (on a device of the keys' type).
    pub v: View<'a>,
    /// Keys of the first N positions [N, G, D]; a query sees those that have left its window.
    pub sink_k: View<'a>,
    /// Their values [N, G, D].
    pub sink_v: View<'a>,
    /// Position of the first new token in its sequence.
    pub position: usize,
    /// Query features [T, H, F] f32; bf16 where [`rounds_features`].
    pub phi_q: View<'a>,
    /// Features of the keys that leave the window [L, G, F], as the queries'.
    pub phi_k: View<'a>,
    /// Their log decays [L, 2, G, E] f32, E = 1 (scalar) or F (vector), all <= 0.
    pub log_decay: View<'a>,
    /// Weights of the two states per query head [2, H] f32.
    pub gamma: View<'a>,
    /// Log weight of the states against the window [H] f32.
    pub mix: View<'a>,
    /// How much of the window's peak the states' weight follows [H] f32.
    pub slope: View<'a>,
    /// Window length W, 0: none.
    pub window: usize,
    /// Normaliser; a window needs [`Normalizer::Sum`].
    pub normalizer: Normalizer,
}

/// Whether a call of T tokens multiplies features as bf16, so that they may be handed over so: more than one token, scalar decays
/// (E = 1), values of bf16, on a host that multiplies it. Not where a backward pass follows, which is exact.
pub fn rounds_features(v: &View, t: usize, f: usize, e: usize) -> bool {
    t > 1 && folds_rounded(v, f, e)
}

/// Whether [`fold`] takes features of bf16, and makes the states of them that [`forward`] makes.
pub fn folds_rounded(v: &View, f: usize, e: usize) -> bool {
    let Ok([_, _, d]) = v.dims(OP, "v") else { return false };
    v.device() == Device::Cpu && crate::simd::pairs() && pairs::fits(v, [d, f, e])
}

/// All sizes of a call, checked.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    /// New tokens.
    pub t: usize,
    /// Tokens in the ring before them.
    pub r: usize,
    /// Tokens that leave the window.
    pub l: usize,
    /// Query heads.
    pub h: usize,
    /// Key/value heads.
    pub g: usize,
    /// Head size.
    pub d: usize,
    /// Feature size.
    pub f: usize,
    /// Decays per token, state and kv head: 1 or F.
    pub e: usize,
    /// Window length.
    pub w: usize,
    /// Sinks.
    pub n: usize,
    /// Position of the first new token.
    pub position: usize,
}

impl Dims {
    /// Sinks that query t sees outside its window.
    pub fn sinks(&self, t: usize) -> usize {
        (self.position + t + 1).saturating_sub(self.w).min(self.n)
    }

    /// Rows of a state that decay alike.
    fn uniform(&self) -> usize {
        if self.e == 1 { self.f } else { 1 }
    }

    /// Query t reads the states after key t - lag was written (negative: nothing yet).
    pub fn lag(&self) -> usize {
        self.w - self.r
    }
}

impl Args<'_> {
    fn dims(&self) -> Result<Dims> {
        let [t, h, d] = self.q.dims(OP, "q")?;
        let [total, g, _] = self.k.dims(OP, "k")?;
        let [_, _, f] = self.phi_q.dims(OP, "phi_q")?;
        let [_, _, _, e] = self.log_decay.dims(OP, "log_decay")?;
        let w = self.window;
        if total < t || total - t > w {
            return Err(Error::Argument { op: OP, arg: "k", got: format!("{total} keys for {t} tokens"), want: format!("at most {w} more") });
        }
        let [sinks, _, _] = self.sink_k.dims(OP, "sink_k")?;
        let l = total.saturating_sub(w);
        let n = Dims { t, r: total - t, l, h, g, d, f, e, w, n: sinks, position: self.position };
        check_heads(n, self.normalizer)?;
        let device = self.q.device();
        for (x, arg, rows) in [
            (&self.k, "k", total),
            (&self.v, "v", total),
            (&self.sink_k, "sink_k", sinks),
            (&self.sink_v, "sink_v", sinks),
        ] {
            crate::vec::expect_float(x, OP, arg)?;
            // The kernels of a GPU are made for one dtype; the host widens each as it is.
            let dtype = if device == Device::Cpu { x.dtype() } else { self.v.dtype() };
            x.expect_on(OP, arg, device, dtype, &[rows, g, d])?;
        }
        let features = match rounds_features(&self.v, t, f, e) && self.phi_q.dtype() == DType::BF16 {
            true => DType::BF16,
            false => DType::F32,
        };
        self.phi_q.expect_on(OP, "phi_q", device, features, &[t, h, f])?;
        self.phi_k.expect_on(OP, "phi_k", device, features, &[l, g, f])?;
        for (x, arg, want) in [
            (&self.q, "q", &[t, h, d][..]),
            (&self.log_decay, "log_decay", &[l, 2, g, e]),
            (&self.gamma, "gamma", &[2, h]),
            (&self.mix, "mix", &[h]),
            (&self.slope, "slope", &[h]),
        ] {
            x.expect_on(OP, arg, device, DType::F32, want)?;
        }
        Ok(n)
    }
}

/// What must hold of the sizes of a call or a batch.
fn check_heads(n: Dims, normalizer: Normalizer) -> Result<()> {
    let Dims { h, g, f, e, w, n: sinks, .. } = n;
    let wrong = |arg, got: String, want: String| Err(Error::Argument { op: OP, arg, got, want });
    if g == 0 || h % g != 0 {
        return wrong("heads", format!("{h} query and {g} kv heads"), "a multiple".into());
    }
    if w > 0 && normalizer != Normalizer::Sum {
        return wrong("normalizer", format!("{normalizer:?}"), "Sum with a window".into());
    }
    if e != 1 && e != f {
        return wrong("log_decay", format!("{e} decays per head"), format!("1 or {f}"));
    }
    if sinks > 0 && w == 0 {
        return wrong("sink_k", format!("{sinks} sinks"), "none without a window".into());
    }
    Ok(())
}

/// The two states of a layer and their sums of features, updated in place.
#[derive(Debug)]
pub struct State<'a> {
    /// S [2, G, F, D] f32.
    pub s: ViewMut<'a>,
    /// z [2, G, F] f32.
    pub z: ViewMut<'a>,
}

/// What the backward pass wants to know of the forward pass.
#[derive(Debug)]
pub struct Saved<'a> {
    /// den [T, H] f32 (eps included).
    pub den: ViewMut<'a>,
    /// The window's row maximum m [T, H] f32 (0 without a window).
    pub peak: ViewMut<'a>,
}

/// Attend: out [T, H, D] f32, or bf16 where it [`rounds_features`]. One token takes the recurrent path, more the chunked one.
pub fn forward(args: &Args, state: State, saved: Option<Saved>, out: ViewMut) -> Result<()> {
    let n = args.dims()?;
    let device = args.q.device();
    let check = |x: View, arg, want: &[usize]| x.expect_on(OP, arg, device, DType::F32, want);
    check(state.s.as_view(), "s", &[2, n.g, n.f, n.d])?;
    check(state.z.as_view(), "z", &[2, n.g, n.f])?;
    let rounds = out.dtype() == DType::BF16 && saved.is_none() && rounds_features(&args.v, n.t, n.f, n.e);
    let dtype = if rounds { DType::BF16 } else { DType::F32 };
    out.as_view().expect_on(OP, "out", device, dtype, &[n.t, n.h, n.d])?;
    if let Some(x) = &saved {
        check(x.den.as_view(), "den", &[n.t, n.h])?;
        check(x.peak.as_view(), "peak", &[n.t, n.h])?;
    }
    if device != Device::Cpu {
        return cuda::forward(args, n, cuda::State { s: state.s, z: state.z }, saved, out);
    }
    let s = state.s.expect_f32(OP, "s", &[2, n.g, n.f, n.d])?;
    let z = state.z.expect_f32(OP, "z", &[2, n.g, n.f])?;
    let PlaceMut::Host(out) = out.place else { unreachable!("the device was checked") };
    if saved.is_some() && args.phi_q.dtype() != DType::F32 {
        return Err(Error::DType { op: OP, arg: "phi_q", got: args.phi_q.dtype(), want: "f32 where a backward pass follows" });
    }
    let saved = match saved {
        Some(x) => Some((x.den.expect_f32(OP, "den", &[n.t, n.h])?, x.peak.expect_f32(OP, "peak", &[n.t, n.h])?)),
        None => None,
    };
    cpu::forward(args, n, s, z, saved, out);
    Ok(())
}

/// Fold: what the states would hold after these L tokens, with nothing read. phi_k: [L, G, F] f32, or bf16 where it
/// [`folds_rounded`]; v: [L, G, D] f32, bf16 or f16; log_decay: [L, 2, G, E] f32.
pub fn fold(phi_k: View, v: View, log_decay: View, state: State) -> Result<()> {
    let [l, g, f] = phi_k.dims(OP, "phi_k")?;
    let [_, _, d] = v.dims(OP, "v")?;
    let [_, _, _, e] = log_decay.dims(OP, "log_decay")?;
    v.expect_shape(OP, "v", &[l, g, d])?;
    crate::vec::expect_float(&v, OP, "v")?;
    if e != 1 && e != f {
        return Err(Error::Argument { op: OP, arg: "log_decay", got: format!("{e} decays per head"), want: format!("1 or {f}") });
    }
    let n = Dims { t: 0, r: 0, l, h: g, g, d, f, e, w: 0, n: 0, position: 0 };
    let device = phi_k.device();
    let features = if phi_k.dtype() == DType::BF16 && folds_rounded(&v, f, e) { DType::BF16 } else { DType::F32 };
    for (x, arg, dtype, want) in [
        (phi_k, "phi_k", features, &[l, g, f][..]),
        (v, "v", v.dtype(), &[l, g, d]),
        (log_decay, "log_decay", DType::F32, &[l, 2, g, e]),
        (state.s.as_view(), "s", DType::F32, &[2, g, f, d]),
        (state.z.as_view(), "z", DType::F32, &[2, g, f]),
    ] {
        x.expect_on(OP, arg, device, dtype, want)?;
    }
    if device != Device::Cpu {
        return cuda::fold(phi_k, v, log_decay, n, cuda::State { s: state.s, z: state.z });
    }
    let s = state.s.expect_f32(OP, "s", &[2, g, f, d])?;
    let z = state.z.expect_f32(OP, "z", &[2, g, f])?;
    cpu::fold(phi_k, v, log_decay, n, s, z);
    Ok(())
}

/// Gradients of [`forward`]. All are written but `gamma`, `mix`, `slope` (parameters: added to).
/// `s` and `z` enter as gradients of the final states and leave as gradients of the initial ones.
#[derive(Debug)]
pub struct Grads<'a> {
    /// [T, H, F]
    pub phi_q: ViewMut<'a>,
    /// [L, G, F]
    pub phi_k: ViewMut<'a>,
    /// [L, 2, G, E]
    pub log_decay: ViewMut<'a>,
    /// [2, H]
    pub gamma: ViewMut<'a>,
    /// [H]
    pub mix: ViewMut<'a>,
    /// [H]
    pub slope: ViewMut<'a>,
    /// [2, G, F, D]
    pub s: ViewMut<'a>,
    /// [2, G, F]
    pub z: ViewMut<'a>,
    /// Gradients of q [T, H, D], k and v [R + T, G, D], sink_k and sink_v [N, G, D]: wanted only when the projections
    /// train.
    pub qkv: Option<[ViewMut<'a>; 5]>,
}

/// The backward pass. `s0`, `z0`: the initial states; `den`, `peak`: from [`Saved`]; out, d_out: [T, H, D].
pub fn backward(args: &Args, s0: View, z0: View, den: View, peak: View, out: View, d_out: View, grads: Grads) -> Result<()> {
    let n = args.dims()?;
    if args.phi_q.dtype() != DType::F32 {
        return Err(Error::DType { op: OP, arg: "phi_q", got: args.phi_q.dtype(), want: "f32" });
    }
    let device = args.q.device();
    let states = [2, n.g, n.f, n.d];
    let q_shape = [n.t, n.h, n.d];
    for (x, arg, want) in [
        (s0, "s0", &states[..]),
        (z0, "z0", &states[..3]),
        (den, "den", &q_shape[..2]),
        (peak, "peak", &q_shape[..2]),
        (out, "out", &q_shape),
        (d_out, "d_out", &q_shape),
        (grads.phi_q.as_view(), "d_phi_q", &[n.t, n.h, n.f]),
        (grads.phi_k.as_view(), "d_phi_k", &[n.l, n.g, n.f]),
        (grads.log_decay.as_view(), "d_log_decay", &[n.l, 2, n.g, n.e]),
        (grads.gamma.as_view(), "d_gamma", &[2, n.h]),
        (grads.mix.as_view(), "d_mix", &[n.h]),
        (grads.slope.as_view(), "d_slope", &[n.h]),
        (grads.s.as_view(), "d_s", &states),
        (grads.z.as_view(), "d_z", &states[..3]),
    ] {
        x.expect_on(OP, arg, device, DType::F32, want)?;
    }
    if device != Device::Cpu {
        return cuda::backward(args, n, cuda::Forward { s0, z0, den, peak, out, d_out }, grads);
    }
    let fwd = backward::Forward {
        s0: s0.expect_f32(OP, "s0", &[2, n.g, n.f, n.d])?,
        z0: z0.expect_f32(OP, "z0", &[2, n.g, n.f])?,
        den: den.expect_f32(OP, "den", &[n.t, n.h])?,
        peak: peak.expect_f32(OP, "peak", &[n.t, n.h])?,
        out: out.expect_f32(OP, "out", &[n.t, n.h, n.d])?,
        d_out: d_out.expect_f32(OP, "d_out", &[n.t, n.h, n.d])?,
    };
    let into = backward::Into {
        phi_q: grads.phi_q.expect_f32(OP, "d_phi_q", &[n.t, n.h, n.f])?,
        phi_k: grads.phi_k.expect_f32(OP, "d_phi_k", &[n.l, n.g, n.f])?,
        log_decay: grads.log_decay.expect_f32(OP, "d_log_decay", &[n.l, 2, n.g, n.e])?,
        gamma: grads.gamma.expect_f32(OP, "d_gamma", &[2, n.h])?,
        mix: grads.mix.expect_f32(OP, "d_mix", &[n.h])?,
        slope: grads.slope.expect_f32(OP, "d_slope", &[n.h])?,
        s: grads.s.expect_f32(OP, "d_s", &[2, n.g, n.f, n.d])?,
        z: grads.z.expect_f32(OP, "d_z", &[2, n.g, n.f])?,
        qkv: match grads.qkv {
            Some([q, k, v, sink_k, sink_v]) => Some([
                q.expect_f32(OP, "d_q", &[n.t, n.h, n.d])?,
                k.expect_f32(OP, "d_k", &[n.r + n.t, n.g, n.d])?,
                v.expect_f32(OP, "d_v", &[n.r + n.t, n.g, n.d])?,
                sink_k.expect_f32(OP, "d_sink_k", &[n.n, n.g, n.d])?,
                sink_v.expect_f32(OP, "d_sink_v", &[n.n, n.g, n.d])?,
            ]),
            None => None,
        },
    };
    backward::backward(args, n, fwd, into);
    Ok(())
}
