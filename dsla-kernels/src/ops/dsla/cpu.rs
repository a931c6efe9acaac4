//! The chunked forward pass: states at chunk borders first, then every chunk and every tile of the window in parallel.

use super::chunk::{Chunk, Linear, States, chunk_len};
use super::window::{Read, Window};
#[cfg(target_arch = "x86_64")]
use super::strips::Strips;
use super::{Args, Dims, Normalizer, pairs, read, step};
#[cfg(target_arch = "x86_64")]
use crate::gemm::PairProducts;
use crate::gemm::{Into, gemm, rows};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::simd::{self, madd};
use crate::vec::{dot, exp_sub_sum, head_rows, max, narrow, transpose};
use crate::{Slice, SliceMut, View, bf16, multiversion};

/// Added to the normaliser.
pub const EPS: f32 = 1e-6;
/// Bound on the log weight of the states against the window: e^40 against a row that sums to at least 1.
pub const LOG_WEIGHT: f64 = 40.0;
/// Chunks whose border states are kept at a time: 16 x 64 KB per state pair and kv head.
pub const RUN: usize = 16;
/// Elements rounded at a time.
const NARROW: usize = 1 << 14;
/// Queries per tile of the window.
pub const TILE: usize = 32;

pub fn f32s<'a>(x: &View<'a>) -> &'a [f32] {
    match x.slice() {
        Slice::F32(v) => v,
        _ => unreachable!("dtypes were checked"),
    }
}

pub fn linear<'a>(x: &Args<'a>) -> Linear<'a> {
    Linear { phi_q: f32s(&x.phi_q), phi_k: f32s(&x.phi_k), v: x.v, log_decay: f32s(&x.log_decay), gamma: f32s(&x.gamma) }
}

/// Features as bf16: a copy where they are not.
fn rounded<'a>(x: &View<'a>, copy: &'a mut Host<bf16>) -> &'a [bf16] {
    match x.slice() {
        Slice::BF16(v) => v,
        _ => {
            let x = f32s(x);
            *copy = Host::scratch(x.len());
            par::for_each_chunk(copy, NARROW, |i, out| narrow(&x[i * NARROW..][..out.len()], out));
            copy
        }
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
    out: SliceMut,
) {
    // (A backward pass computes all of it again, in f32, from what is saved.)
    let exact = saved.is_some() || !simd::pairs();
    let (den, peak) = match saved {
        Some((d, p)) => (Some(d), Some(p)),
        None => (None, None),
    };
    // What becomes bf16 is summed elsewhere.
    let mut sums;
    let (out, rounded_out) = match out {
        SliceMut::F32(out) => (out, None),
        SliceMut::BF16(out) => {
            sums = Host::scratch(out.len());
            (&mut *sums, Some(SendPtr(out.as_mut_ptr())))
        }
        _ => unreachable!("the dtype was checked"),
    };
    if n.t == 1 && n.f > 0 {
        return step::step(x, n, s, z, den, peak, out);
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
    let [q, mix, slope] = [&x.q, &x.mix, &x.slope].map(f32s);
    let peak = peak.map(|p| SendPtr(p.as_mut_ptr()));
    let [out, den] = [out, den].map(|x| SendPtr(x.as_mut_ptr()));
    let merge = Merge { n, q, mix, slope, normalizer: x.normalizer, out, den, peak, rounded: rounded_out };
    let window = (n.w > 0 && n.d > 0).then(|| Window::new(x, n, exact));
    #[cfg(target_arch = "x86_64")]
    let strips = window.as_ref().and_then(|w| Strips::of(w, &merge));
    let sums = read::Into { out: SendPtr(out.get()), den: SendPtr(den.get()) };
    match x.v.slice() {
        Slice::BF16(v) if !exact && pairs::fits(&x.v, [n.d, n.f, n.e]) => {
            let mut copies = [Host::scratch(0), Host::scratch(0)];
            let [of_q, of_k] = &mut copies;
            let (phi_q, phi_k) = (rounded(&x.phi_q, of_q), rounded(&x.phi_k, of_k));
            let x = pairs::Rounded { phi_q, phi_k, v, log_decay: f32s(&x.log_decay), gamma: f32s(&x.gamma) };
            #[cfg(target_arch = "x86_64")]
            if let Some(strips) = &strips {
                merge.unread(strips);
                return pairs::forward(&x, n, s, z, &pairs::Into::Outputs(strips));
            }
            pairs::forward(&x, n, s, z, &pairs::Into::Sums(sums));
        }
        _ => states(&linear(x), n, s, z, sums),
    }
    merge.all(window.as_ref());
}

/// num and den of every query that reads a chunk; the states move on.
fn states(x: &Linear, n: Dims, s: &mut [f32], z: &mut [f32], into: read::Into) {
    let chunks = n.l.div_ceil(chunk_len(n.e));
    for first in (0..chunks).step_by(RUN) {
        let count = RUN.min(chunks - first);
        let states = States::forward(x, n, first, count, s, z);
        par::for_each(count * n.g, |task| {
            read::chunk(x, n, task % n.g, first + task / n.g, &states, task / n.g, into);
        });
        states.copy_out(n, count, s, z);
    }
}

pub fn fold(phi_k: View, v: View, log_decay: View, n: Dims, s: &mut [f32], z: &mut [f32]) {
    if let (Slice::BF16(phi_k), Slice::BF16(v)) = (phi_k.slice(), v.slice()) {
        let x = pairs::Rounded { phi_q: &[], phi_k, v, log_decay: f32s(&log_decay), gamma: &[] };
        return pairs::fold(&x, n, s, z);
    }
    let lin = Linear { phi_q: &[], phi_k: f32s(&phi_k), v, log_decay: f32s(&log_decay), gamma: &[] };
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

/// Where the window's part and the states' part are put together, in place, and normalised.
pub struct Merge<'a> {
    pub n: Dims,
    pub q: &'a [f32],
    pub mix: &'a [f32],
    pub slope: &'a [f32],
    normalizer: Normalizer,
    pub out: SendPtr<f32>,
    pub den: SendPtr<f32>,
    pub peak: Option<SendPtr<f32>>,
    /// Where the outputs go that are to be bf16.
    pub rounded: Option<SendPtr<bf16>>,
}

impl Merge<'_> {
    /// Of all queries, which have read their states.
    fn all(&self, window: Option<&Window>) {
        let n = self.n;
        let group = n.h / n.g;
        par::for_each(Tile::count(n) * n.g, |task| {
            let (tile, g) = (task / n.g, task % n.g);
            let (t0, m) = (tile * TILE, TILE.min(n.t - tile * TILE));
            let Some(window) = window else {
                return (g * group..(g + 1) * group).for_each(|h| self.rows(h, t0, m, &(Host::scratch(0), vec![])));
            };
            // Rows (head, query).
            let mut q = Host::<f32>::scratch(group * m * n.d);
            for (row, q) in q.chunks_exact_mut(n.d).enumerate() {
                q.copy_from_slice(&self.q[((t0 + row % m) * n.h + g * group + row / m) * n.d..][..n.d]);
            }
            self.rows(g * group, t0, m, &window.tile(n, g, t0, m, q));
        });
    }

    /// Of the first queries of a sequence, which read no state.
    #[cfg(target_arch = "x86_64")]
    fn unread(&self, strips: &Strips) {
        let n = self.n;
        let (group, unread) = (n.h / n.g, n.lag().min(n.t));
        par::for_each(unread.div_ceil(TILE) * n.g, |task| {
            let (t0, g) = (task / n.g * TILE, task % n.g);
            let (mut by, mut queries) = (PairProducts::new(), strips.queries(g, t0, TILE.min(unread - t0)));
            (g * group..(g + 1) * group).for_each(|h| queries.head(&mut by, h, None));
        });
    }

    /// Queries t0..t0 + m of heads from h0 on, rows (head, query) of what they read in their windows; of one head where there are
    /// none. The rows are the caller's alone.
    pub fn rows(&self, h0: usize, t0: usize, m: usize, (num, stats): &Read) {
        let n = self.n;
        for row in 0..m.max(stats.len()) {
            let h = h0 + row / m;
            let at = (t0 + row % m) * n.h + h;
            // SAFETY: (query, head) rows are the caller's alone.
            let (out, den) = unsafe { (self.out.slice(at * n.d, n.d), &mut *self.den.get().add(at)) };
            let mut top = 0.0;
            if let Some(&(peak, sum)) = stats.get(row) {
                let weight = log_weight(self.mix[h], self.slope[h], peak).exp();
                blend(out, weight, &num[row * n.d..(row + 1) * n.d]);
                *den = *den * weight + sum;
                top = peak;
            }
            if let Some(p) = &self.peak {
                // SAFETY: as above.
                unsafe { *p.get().add(at) = top };
            }
            normalize(self.normalizer, out, den);
            if let Some(rounded) = &self.rounded {
                // SAFETY: as above.
                narrow(out, unsafe { rounded.slice(at * n.d, n.d) });
            }
        }
    }
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
