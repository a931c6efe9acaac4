//! The window on AMX tiles, put together with what the states gave while it is in the cache.

use super::cpu::{EPS, LOG_WEIGHT, Merge};
use super::window::{Keys, Window};
use crate::amx::Tiles;
use crate::bf16;
use crate::host::Host;
use crate::pair_panels::PairPanels;
use crate::simd::lanes::{lanes, tree};
use crate::simd::{exp, exp2_fall};
use crate::strip::{KEYS, Pass, ROWS, Strip, WEIGHTS, fits};

/// Queries t0..t0 + m of kv head g, whose rows of `into` are the caller's alone. False, and nothing is done, where this is not for
/// such keys.
pub fn merge(window: &Window, into: &Merge, g: usize, t0: usize, m: usize) -> bool {
    let n = into.n;
    let Keys::Pairs { near, sinks } = &window.keys else { return false };
    if !fits(n.d) || into.peak.is_some() {
        return false;
    }
    let (d, group) = (n.d, n.h / n.g);
    let mut tiles = Tiles::new();
    // SAFETY: the level is AMX, by `fits`.
    unsafe { tiles.whole() }
    let (mut rows, mut acc) = (Host::<bf16>::zeros(ROWS * d), Host::<f32>::scratch(ROWS * d));
    // A window and sixteen tokens, or the sinks.
    let most = (n.w + 3 * ROWS).max(n.n).div_ceil(KEYS);
    let mut weights = Host::<bf16>::scratch(WEIGHTS * most.max(4));
    let (root, scale) = ((d as f32).sqrt(), std::f32::consts::LOG2_E / (d as f32).sqrt());
    for h in g * group..(g + 1) * group {
        for t in (t0..t0 + m).step_by(ROWS) {
            let count = ROWS.min(t0 + m - t);
            let at = t * n.h + h;
            // (Rows that are not there are some former queries.)
            let q = into.q[at * d..][..(count - 1) * n.h * d + d].as_ptr();
            // SAFETY: `count` rows of d, n.h heads apart, and as many in one piece.
            unsafe { narrow_rows(q, n.h * d, count, d, rows.as_mut_ptr() as *mut u16) }
            acc.fill(0.0);
            let mut strip = Strip::NONE;
            let query = |row: usize| t + row.min(count - 1);
            let first = window.place(n, t) / 16 * 16;
            let of_near = std::array::from_fn(|r| {
                let t = query(r);
                [window.place(n, t) - first, window.lead + t + n.r + 1 - first]
            });
            let of_sinks = std::array::from_fn(|r| [0, n.sinks(query(r))]);
            let mut pass = |panels: &PairPanels, first: usize, seen: &[[usize; 2]; ROWS], begins: bool| {
                let blocks = seen[ROWS - 1][1].div_ceil(KEYS);
                let (k, v) = panels.head(g, first);
                let (k, v) = (&k[..blocks * KEYS * d], &v[..blocks * KEYS * d]);
                let pass = Pass { q: &rows, k, v, d, begins, seen, whole: 0, scale };
                // SAFETY: the level is AMX and the tiles are whole.
                unsafe { pass.run::<true>(&mut strip, &mut weights, &mut acc) }
            };
            pass(near, first, &of_near, true);
            if of_sinks[ROWS - 1][1] > 0 {
                pass(sinks, 0, &of_sinks, false);
            }
            let all = Near { strip: &strip, acc: &acc, count, d, h: n.h, root, mix: into.mix[h], slope: into.slope[h] };
            let mut done = false;
            // SAFETY: these (query, head) rows are the caller's alone.
            unsafe {
                let rounded = into.rounded.as_ref().map_or(std::ptr::null_mut(), |x| x.get().add(at * d) as *mut u16);
                finish(&all, into.out.get().add(at * d), into.den.get().add(at), rounded, &mut done)
            }
            if !done {
                // Scores spread more than f32 holds against the first block's peak.
                let mut q = Host::<f32>::scratch(count * d);
                for (r, q) in q.chunks_exact_mut(d).enumerate() {
                    q.copy_from_slice(&into.q[(at + r * n.h) * d..][..d]);
                }
                into.rows(h, t, count, &window.tile(n, g, t, count, q));
                // SAFETY: as above; the products of that gave them back.
                unsafe {
                    tiles = Tiles::new();
                    tiles.whole()
                }
            }
        }
    }
    true
}

lanes! {
    /// `count` rows of d, `ld` apart, to rounded ones in one piece.
    unsafe fn narrow_rows<V>(x: *const f32, ld: usize, count: usize, d: usize, out: *mut u16) {
        for r in 0..count {
            for j in (0..d).step_by(16) {
                // SAFETY: the caller's: whole vectors.
                unsafe { V::load(x.add(r * ld + j)).store_bf16(out.add(r * d + j)) }
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
    /// Rows of the output between two of theirs.
    h: usize,
    /// Of d.
    root: f32,
    mix: f32,
    slope: f32,
}

lanes! {
    /// out and den, which have what the states gave, become the outputs (or they go to `rounded`, if it is not null) and what they
    /// were divided by; or nothing is done, where a row's weights left what f32 holds.
    unsafe fn finish<V>(x: &Near, out: *mut f32, den: *mut f32, rounded: *mut u16, done: &mut bool) {
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
        for r in 0..x.count {
            // SAFETY: the caller's: whole vectors of every row.
            unsafe {
                let (out, den) = (out.add(r * x.h * x.d), den.add(r * x.h));
                *den = *den * weight[r] + sum[r] * fade[r] + EPS;
                let (zero, inverse) = (V::splat(0.0), 1.0 / *den);
                let (of_far, of_near) = (V::splat(weight[r] * inverse), V::splat(fade[r] * inverse));
                for j in (0..x.d).step_by(16) {
                    let far = zero.fma(V::load(out.add(j)), of_far);
                    let y = far.fma(V::load(x.acc.as_ptr().add(r * x.d + j)), of_near);
                    if rounded.is_null() { y.store(out.add(j)) } else { y.store_bf16(rounded.add(r * x.h * x.d + j)) }
                }
            }
        }
    }
}
