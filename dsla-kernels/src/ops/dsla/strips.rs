//! The window on AMX tiles, put together with what queries read beyond it while that is in the cache.

use super::cpu::{EPS, LOG_WEIGHT, Merge};
use super::pairs::{EXTRA, Far, put};
use super::window::{Keys, Window};
use crate::bf16;
use crate::gemm::PairProducts;
use crate::host::Host;
use crate::pair_panels::PairPanels;
use crate::simd::lanes::{lanes, tree};
use crate::simd::{exp, exp2_fall};
use crate::strip::{KEYS, Pass, ROWS, Strip, WEIGHTS, fits};

/// The window of all queries, and where their outputs go.
pub struct Strips<'a> {
    window: &'a Window,
    near: &'a PairPanels,
    sinks: &'a PairPanels,
    into: &'a Merge<'a>,
}

impl<'a> Strips<'a> {
    /// None where this is not for such keys.
    pub fn of(window: &'a Window, into: &'a Merge<'a>) -> Option<Strips<'a>> {
        match &window.keys {
            Keys::Pairs { near, sinks } if fits(into.n.d) && into.peak.is_none() => {
                Some(Strips { window, near, sinks, into })
            }
            _ => None,
        }
    }

    /// Queries t0..t0 + m of kv head g, whose rows of the outputs are the caller's alone.
    pub fn queries(&self, g: usize, t0: usize, m: usize) -> Queries<'_> {
        let n = self.into.n;
        let (d, group) = (n.d, n.h / n.g);
        let mut rows = Host::scratch(group * m.next_multiple_of(ROWS) * d);
        let (q, at) = (self.into.q, (t0 * n.h + g * group) * d);
        let size = [m, group, d, n.h * d, m.next_multiple_of(ROWS) * d];
        assert!(q.len() >= at + (m - 1) * n.h * d + group * d);
        // SAFETY: m rows of `group` heads, n.h heads apart, and as many of each head.
        unsafe { narrow_rows(q[at..].as_ptr(), size, rows.as_mut_ptr() as *mut u16) }
        // A window and sixteen tokens, or the sinks.
        let most = (n.w + 3 * ROWS).max(n.n).div_ceil(KEYS);
        let weights = Host::scratch(WEIGHTS * most.max(4));
        Queries { of: self, g, t0, m, rows, acc: Host::scratch(ROWS * d), weights }
    }
}

/// Queries of one kv head, and memory to work in.
pub struct Queries<'a> {
    of: &'a Strips<'a>,
    g: usize,
    t0: usize,
    m: usize,
    /// [H / G, M, D], M whole strips.
    rows: Host<bf16>,
    acc: Host<f32>,
    weights: Host<bf16>,
}

impl Queries<'_> {
    /// The outputs of head h, of its window and of what the queries read beyond it, if they do.
    pub fn head(&mut self, by: &mut PairProducts, h: usize, far: Option<&Far>) {
        let Strips { window, near, sinks, into } = *self.of;
        let (n, g, m) = (into.n, self.g, self.m);
        let d = n.d;
        let (root, scale) = ((d as f32).sqrt(), std::f32::consts::LOG2_E / (d as f32).sqrt());
        for r0 in (0..m).step_by(ROWS) {
            let (t, count) = (self.t0 + r0, ROWS.min(m - r0));
            let q = &self.rows[((h - g * (n.h / n.g)) * m.next_multiple_of(ROWS) + r0) * d..][..ROWS * d];
            self.acc.fill(0.0);
            let mut strip = Strip::NONE;
            // (Rows that are not there see what the last sees.)
            let query = |row: usize| t + row.min(count - 1);
            let first = window.place(n, t) / 16 * 16;
            let of_near = std::array::from_fn(|r| {
                let t = query(r);
                [window.place(n, t) - first, window.lead + t + n.r + 1 - first]
            });
            let of_sinks = std::array::from_fn(|r| [0, n.sinks(query(r))]);
            // SAFETY: the level is AMX, by `Strips::of`.
            unsafe { by.whole() }
            let mut pass = |panels: &PairPanels, first: usize, seen: &[[usize; 2]; ROWS], begins: bool| {
                let blocks = seen[ROWS - 1][1].div_ceil(KEYS);
                let (k, v) = panels.head(g, first);
                let (k, v) = (&k[..blocks * KEYS * d], &v[..blocks * KEYS * d]);
                let pass = Pass { q, k, v, d, begins, seen, whole: 0, scale };
                // SAFETY: the level is AMX and the tiles are whole.
                unsafe { pass.run::<true>(&mut strip, &mut self.weights, &mut self.acc) }
            };
            pass(near, first, &of_near, true);
            if of_sinks[ROWS - 1][1] > 0 {
                pass(sinks, 0, &of_sinks, false);
            }
            let far = far.map(|x| x.from(r0));
            let far = far.as_ref();
            let at = (t * n.h + h) * d;
            // SAFETY: these (query, head) rows are the caller's alone.
            let done = unsafe {
                let rounded = into.rounded.as_ref().map_or(std::ptr::null_mut(), |x| x.get().add(at) as *mut u16);
                let to = Outputs { out: into.out.get().add(at), rounded, ld: n.h * d };
                let all = Near { strip: &strip, acc: &self.acc, count, d, root, mix: into.mix[h], slope: into.slope[h], far };
                let mut done = false;
                finish(&all, to, &mut done);
                done
            };
            if !done {
                self.again(h, t, count, far);
            }
        }
    }

    /// Where scores spread more than f32 holds against the first block's peak: by [`Window::tile`].
    #[cold]
    fn again(&self, h: usize, t: usize, count: usize, far: Option<&Far>) {
        let Strips { window, into, .. } = *self.of;
        let (n, at) = (into.n, t * into.n.h + h);
        let mut q = Host::<f32>::scratch(count * n.d);
        for (r, q) in q.chunks_exact_mut(n.d).enumerate() {
            let at = at + r * n.h;
            q.copy_from_slice(&into.q[at * n.d..][..n.d]);
            // SAFETY: these (query, head) rows are the caller's alone.
            unsafe {
                into.out.slice(at * n.d, n.d).fill(0.0);
                *into.den.get().add(at) = 0.0;
            }
        }
        if let Some(far) = far {
            let far = Far { sums: &far.sums[..count], ..*far };
            // SAFETY: as above.
            unsafe { put(&far, into.out.get().add(at * n.d), into.den.get().add(at), n.h) }
        }
        into.rows(h, t, count, &window.tile(n, self.g, t, count, q));
    }
}

lanes! {
    /// m rows of `group` heads of d, `ld` apart, rounded and head by head, those `out_ld` apart.
    unsafe fn narrow_rows<V>(x: *const f32, size: [usize; 5], out: *mut u16) {
        let [m, group, d, ld, out_ld] = size;
        for r in 0..m {
            for head in 0..group {
                for j in (0..d).step_by(16) {
                    // SAFETY: the caller's: whole vectors.
                    unsafe { V::load(x.add(r * ld + head * d + j)).store_bf16(out.add(head * out_ld + r * d + j)) }
                }
            }
        }
    }
}

/// What `count` queries of one head read in their windows.
struct Near<'a> {
    strip: &'a Strip,
    /// Sums of values [ROWS, D].
    acc: &'a [f32],
    count: usize,
    d: usize,
    /// Of d.
    root: f32,
    mix: f32,
    slope: f32,
    /// What they read beyond those.
    far: Option<&'a Far<'a>>,
}

/// Rows of the output, `ld` apart: of f32, or rounded ones if they are not null.
struct Outputs {
    out: *mut f32,
    rounded: *mut u16,
    ld: usize,
}

lanes! {
    /// The outputs, or nothing is done, where a row's weights left what f32 holds.
    unsafe fn finish<V>(x: &Near, to: Outputs, done: &mut bool) {
        let (mut peak, mut sum, mut fade, mut weight) = ([0.0f32; ROWS], [0.0f32; ROWS], [0.0f32; ROWS], [0.0f32; ROWS]);
        for r in 0..ROWS {
            let mut lanes = x.strip.peaks[r];
            let mut half = 8;
            while half > 0 {
                for l in 0..half {
                    lanes[l] = if lanes[l + half] > lanes[l] { lanes[l + half] } else { lanes[l] };
                }
                half /= 2;
            }
            peak[r] = lanes[0] / x.root;
            sum[r] = tree(x.strip.sums[r]);
        }
        for r in 0..ROWS {
            // From the first block's peak to that of all.
            fade[r] = exp2_fall::<true>(-(peak[r] * std::f32::consts::LOG2_E + x.strip.shift[r]));
            let log = x.mix - x.slope * peak[r];
            weight[r] = exp::<true>(if log > LOG_WEIGHT as f32 { LOG_WEIGHT as f32 } else if log < -LOG_WEIGHT as f32 { -LOG_WEIGHT as f32 } else { log });
        }
        for r in 0..x.count {
            if !(fade[r] > 0.0 && sum[r].is_finite()) {
                return;
            }
        }
        *done = true;
        let (d, wide) = (x.d, x.d + EXTRA);
        for r in 0..x.count {
            // SAFETY: the caller's: whole vectors of every row.
            unsafe {
                let acc = x.acc.as_ptr().add(r * d);
                let (mut w, mut den, mut at) = ([0.0; 2], 0.0, [acc; 3]);
                if let Some(far) = x.far {
                    w = [far.gamma[0] * far.reach[0][r], far.gamma[1] * far.reach[1][r]];
                    at = [far.near[r * d..][..d].as_ptr(), far.far[0][r * wide..][..wide].as_ptr(), far.far[1][r * wide..][..wide].as_ptr()];
                    den = far.sums[r] + w[0] * *at[1].add(d) + w[1] * *at[2].add(d);
                }
                let inverse = 1.0 / (den * weight[r] + sum[r] * fade[r] + EPS);
                // (Without what is far its parts are those of the window, and weigh nothing.)
                let of_far = if x.far.is_some() { weight[r] * inverse } else { 0.0 };
                let of = [fade[r] * inverse, of_far, of_far * w[0], of_far * w[1]];
                for j in (0..d).step_by(16) {
                    let y = V::splat(0.0).fma(V::load(acc.add(j)), V::splat(of[0]));
                    let y = y.fma(V::load(at[0].add(j)), V::splat(of[1])).fma(V::load(at[1].add(j)), V::splat(of[2]));
                    let y = y.fma(V::load(at[2].add(j)), V::splat(of[3]));
                    if to.rounded.is_null() { y.store(to.out.add(r * to.ld + j)) } else { y.store_bf16(to.rounded.add(r * to.ld + j)) }
                }
            }
        }
    }
}
