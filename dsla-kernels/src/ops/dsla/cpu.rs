//! The chunked forward pass: states at chunk borders first, then every chunk and every tile of the window in parallel.

use super::chunk::{Chunk, Linear, States, chunk_len};
use super::window::Window;
use super::{Args, Dims, Normalizer, pairs, read, step};
use crate::gemm::{Into, gemm, rows};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::simd::{self, madd};
use crate::vec::{dot, exp_sub_sum, head_rows, max, transpose};
use crate::{Slice, View, multiversion};

/// Added to the normaliser.
pub const EPS: f32 = 1e-6;
/// Bound on the log weight of the states against the window: e^40 against a row that sums to at least 1.
pub const LOG_WEIGHT: f64 = 40.0;
/// Chunks whose border states are kept at a time: 16 x 64 KB per state pair and kv head.
const RUN: usize = 16;
/// Queries per tile of the window.
pub const TILE: usize = 32;

pub fn f32s<'a>(x: &View<'a>) -> &'a [f32] {
    match x.slice() {
        Slice::F32(v) => v,
        _ => unreachable!("dtypes were checked"),
    }
}

pub fn linear<'a>(x: &Args<'a>) -> Linear<'a> {
    let rest = Linear { phi_q: &[], phi_k: &[], rounded: None, v: x.v, log_decay: f32s(&x.log_decay), gamma: f32s(&x.gamma) };
    match (x.phi_q.slice(), x.phi_k.slice()) {
        (Slice::BF16(q), Slice::BF16(k)) => Linear { rounded: Some([q, k]), ..rest },
        _ => Linear { phi_q: f32s(&x.phi_q), phi_k: f32s(&x.phi_k), ..rest },
    }
}

/// Log weight of the states against a window whose peak is `m`.
pub fn log_weight(mix: f32, slope: f32, m: f32) -> f32 {
    (mix - slope * m).clamp(-LOG_WEIGHT as f32, LOG_WEIGHT as f32)
}

pub fn forward(
    x: &Args,
    n: Dims,
    s: &mut [f32],
    z: &mut [f32],
    saved: Option<(&mut [f32], &mut [f32])>,
    out: &mut [f32],
) {
    // (A backward pass computes all of it again, in f32, from what is saved.)
    let exact = saved.is_some() || !simd::pairs();
    let (den, peak) = match saved {
        Some((d, p)) => (Some(d), Some(p)),
        None => (None, None),
    };
    if n.t == 1 && n.f > 0 {
        return step::step(x, n, s, z, den, peak, out);
    }
    let lin = linear(x);
    if lin.rounded.is_some() && (exact || !pairs::fits(&x.v, [n.d, n.f, n.e])) {
        unreachable!("features are rounded where `rounds_features` says so")
    }
    let mut own_den = vec![];
    let den = den.unwrap_or_else(|| {
        own_den.resize(n.t * n.h, 0.0);
        &mut own_den
    });
    // The first queries of a sequence read no state; all others are written where they read theirs.
    let unread = n.lag().min(n.t) * n.h;
    out[..unread * n.d].fill(0.0);
    den[..unread].fill(0.0);
    let len = chunk_len(n.e);
    let chunks = n.l.div_ceil(len);
    for first in (0..chunks).step_by(RUN) {
        let count = RUN.min(chunks - first);
        let states = States::forward(&lin, n, first, count, s, z);
        let (op, dp) = (SendPtr(out.as_mut_ptr()), SendPtr(den.as_mut_ptr()));
        par::for_each(count * n.g, |task| {
            let into = read::Into { out: op, den: dp };
            read::chunk(&lin, n, task % n.g, first + task / n.g, &states, task / n.g, into, exact);
        });
        states.copy_out(n, count, s, z);
    }
    merge(x, n, den, peak, out, exact);
}

pub fn fold(phi_k: View, v: View, log_decay: View, n: Dims, s: &mut [f32], z: &mut [f32]) {
    let lin = Linear { phi_q: &[], phi_k: f32s(&phi_k), rounded: None, v, log_decay: f32s(&log_decay), gamma: &[] };
    let len = chunk_len(n.e);
    let size = n.f * n.d;
    let (sp, zp) = (SendPtr(s.as_mut_ptr()), SendPtr(z.as_mut_ptr()));
    par::for_each(2 * n.g, |j| {
        // SAFETY: pair j owns its own state.
        let (s, z) = unsafe {
            (
                std::slice::from_raw_parts_mut(sp.get().add(j * size), size),
                std::slice::from_raw_parts_mut(zp.get().add(j * n.f), n.f),
            )
        };
        for a in (0..n.l).step_by(len) {
            Chunk::load(&lin, n, j % n.g, a, len.min(n.l - a)).advance(n, j / n.g, s, z);
        }
    });
}

/// One tile of queries of one kv head against the sinks and its window's keys.
pub struct Tile {
    /// Queries t0..t0 + m.
    pub t0: usize,
    pub m: usize,
    /// The call's key behind the first column after the sinks.
    pub j0: usize,
    /// Sinks, then window keys.
    pub cols: usize,
    /// K [cols, D], K transposed [D, cols], V [cols, D].
    pub k: Host<f32>,
    kt: Host<f32>,
    pub v: Host<f32>,
}

impl Tile {
    pub fn count(n: Dims) -> usize {
        n.t.div_ceil(TILE)
    }

    pub fn load(x: &Args, n: Dims, g: usize, tile: usize) -> Tile {
        let t0 = tile * TILE;
        let m = TILE.min(n.t - t0);
        let j0 = (t0 + n.r + 1).saturating_sub(n.w);
        let near = t0 + m + n.r - j0;
        let cols = n.n + near;
        let buffer = || Host::<f32>::scratch(cols * n.d);
        let (mut k, mut v, mut kt) = (buffer(), buffer(), buffer());
        for (rows, sinks, out) in [(&x.k, &x.sink_k, &mut k), (&x.v, &x.sink_v, &mut v)] {
            head_rows(sinks, g, 0, n.n, out);
            head_rows(rows, g, j0, near, &mut out[n.n * n.d..]);
        }
        transpose(&k, n.d, cols, n.d, &mut kt, cols);
        Tile { t0, m, j0, cols, k, kt, v }
    }

    /// The window's columns that row r sees.
    fn band(&self, n: Dims, r: usize) -> std::ops::Range<usize> {
        let last = self.t0 + r + n.r;
        n.n + (last + 1).saturating_sub(n.w) - self.j0..n.n + last + 1 - self.j0
    }

    /// a [rows, cols] = e^(s - peak) where a row sees the key, else 0, for rows (head, query) of q [rows, D]; `stats(row, peak,
    /// sum)` is told of each.
    pub fn weights(&self, n: Dims, q: &[f32], a: &mut [f32], mut stats: impl FnMut(usize, f32, f32)) {
        let (cols, height) = (self.cols, a.len() / self.cols);
        gemm(Into::Store, height, cols, n.d, rows(q, n.d), &self.kt, cols, a, cols);
        let scale = 1.0 / (n.d as f32).sqrt();
        for (row, a) in a.chunks_exact_mut(cols).enumerate() {
            let r = row % self.m;
            let band = self.band(n, r);
            a[n.sinks(self.t0 + r)..band.start].fill(f32::NEG_INFINITY);
            a[band.end..].fill(f32::NEG_INFINITY);
            let (peak, sum) = scaled_softmax(a, scale);
            stats(row, peak, sum);
        }
    }
}

multiversion! {
    /// x <- e^(scale x - peak); returns the peak of scale x, and the sum.
    pub fn scaled_softmax<const FMA: bool>(x: &mut [f32], scale: f32) -> (f32, f32) {
        x.iter_mut().for_each(|x| *x *= scale);
        let peak = max(x);
        let _ = FMA;
        (peak, exp_sub_sum(x, peak))
    }
}

multiversion! {
    /// out <- out weight + near.
    fn blend<const FMA: bool>(out: &mut [f32], weight: f32, near: &[f32]) {
        out.iter_mut().zip(near).for_each(|(o, x)| *o = madd::<FMA>(*o, weight, *x));
    }
}

/// Put the window's part and the states' part together and normalise, in place.
fn merge(x: &Args, n: Dims, den: &mut [f32], peak: Option<&mut [f32]>, out: &mut [f32], exact: bool) {
    let (q, mix, slope) = (f32s(&x.q), f32s(&x.mix), f32s(&x.slope));
    let group = n.h / n.g;
    let (op, dp) = (SendPtr(out.as_mut_ptr()), SendPtr(den.as_mut_ptr()));
    let pp = peak.map(|p| SendPtr(p.as_mut_ptr()));
    let window = (n.w > 0 && n.d > 0).then(|| Window::new(x, n, exact));
    par::for_each(Tile::count(n) * n.g, |task| {
        let (tile, g) = (task / n.g, task % n.g);
        let (t0, m) = (tile * TILE, TILE.min(n.t - tile * TILE));
        let height = group * m;
        // Rows (head, query).
        let place = |row: usize| (t0 + row % m) * n.h + g * group + row / m;
        let window = window.as_ref().map(|w| {
            let mut qs = Host::<f32>::scratch(height * n.d);
            for (row, qs) in qs.chunks_exact_mut(n.d.max(1)).enumerate() {
                qs.copy_from_slice(&q[place(row) * n.d..][..n.d]);
            }
            w.tile(n, g, t0, m, qs)
        });
        for row in 0..height {
            let (at, h) = (place(row), g * group + row / m);
            // SAFETY: (query, head) rows belong to this (tile, kv head) task alone.
            let (out, den) = unsafe { (std::slice::from_raw_parts_mut(op.get().add(at * n.d), n.d), &mut *dp.get().add(at)) };
            let mut top = 0.0;
            if let Some((num, stats)) = &window {
                let (peak, sum) = stats[row];
                let weight = log_weight(mix[h], slope[h], peak).exp();
                blend(out, weight, &num[row * n.d..(row + 1) * n.d]);
                *den = *den * weight + sum;
                top = peak;
            }
            if let Some(p) = pp {
                // SAFETY: as above.
                unsafe { *p.get().add(at) = top };
            }
            normalize(x.normalizer, out, den);
        }
    });
}

/// row <- row / den; den becomes what was divided by.
pub fn normalize(normalizer: Normalizer, row: &mut [f32], den: &mut f32) {
    *den = match normalizer {
        Normalizer::None => 1.0,
        Normalizer::Sum => *den + EPS,
        Normalizer::Rms => (dot(row, row) / row.len() as f32 + EPS).sqrt(),
    };
    let inv = 1.0 / *den;
    row.iter_mut().for_each(|v| *v *= inv);
}
