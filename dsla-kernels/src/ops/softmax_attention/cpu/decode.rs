//! Decode: fixed splits of the keys in parallel, combined in order, so that the result does not depend on the number of
//! threads. Keys and values are widened on the way into the registers: every byte of the cache is read once.

use super::super::{Dims, Paged};
use crate::cache::{Rows, WIDE, scale_weights, scores, weighted};
use crate::host::Host;
use crate::par;
use crate::vec::{axpy, exp_sub_sum, max};
use crate::View;

/// Keys per task, wherever pages end: a sequence's bits do not depend on how its keys are kept.
const SPLIT: usize = 256;
/// Splits from which on a task takes all kv heads of one.
const WHOLE: usize = 4;
/// Keys that all heads of a task take before the next ones: they stay in the first cache meanwhile.
const PIECE: usize = 32;

/// Sequences whose keys lie in pages, one after the other.
pub fn paged<'a>(q: &[f32], k: View<'a>, v: View<'a>, table: &[u32], lens: &[u32], n: Paged, out: &mut [f32]) {
    let width = n.h * n.d;
    for (b, &s) in lens.iter().enumerate() {
        let used = &table[b * n.pages..][..(s as usize).div_ceil(n.page)];
        let page = |pool: &View<'a>, id: u32| pool.rows(id as usize, id as usize + 1).reshape([n.page, n.g, n.d]);
        let keys: Vec<_> = used.iter().map(|&id| page(&k, id)).collect();
        let values: Vec<_> = used.iter().map(|&id| page(&v, id)).collect();
        let one = Dims { t: 1, s: s as usize, h: n.h, g: n.g, d: n.d };
        let (q, out) = (&q[b * width..][..width], &mut out[b * width..][..width]);
        if s == 0 {
            out.fill(0.0);
        } else {
            decode_one(q, Rows::Float(&keys), Rows::Float(&values), one, out);
        }
    }
}

/// One query token.
pub fn decode_one(q: &[f32], k: Rows, v: Rows, n: Dims, out: &mut [f32]) {
    let (group, splits, wide) = (n.h / n.g, n.s.div_ceil(SPLIT), n.d.next_multiple_of(WIDE));
    let scale = 1.0 / (n.d as f32).sqrt();
    let mut qs = Host::<f32>::zeros(n.h * wide);
    for (o, q) in qs.chunks_exact_mut(wide.max(1)).zip(q.chunks_exact(n.d.max(1))) {
        o.iter_mut().zip(q).for_each(|(o, q)| *o = q * scale);
    }
    // Per (split, query head): peak, sum, then D sums.
    let size = wide + 16;
    let mut parts = Host::<f32>::zeros(splits * n.h * size);
    // All heads of a split in one task where there are tasks enough: a key's heads lie side by side in memory. Of those
    // splits a task takes some one after the other, for it begins with keys that nobody has asked for ahead.
    let (heads, run) = match splits {
        WHOLE.. => (n.g, (splits / (2 * par::threads())).max(1)),
        _ => (1, 1),
    };
    par::for_each_chunk(&mut parts, run * heads * group * size, |task, parts| {
        let mut buf = vec![];
        let mut all = Host::<f32>::scratch(heads * group * SPLIT.min(n.s));
        for (at, part) in parts.chunks_exact_mut(heads * group * size).enumerate() {
            let (split, g0) = ((task * run + at) * heads / n.g, (task * run + at) * heads % n.g);
            let j0 = split * SPLIT;
            let cols = SPLIT.min(n.s - j0);
            let all = &mut all[..heads * group * cols];
            // A head's share of the rows that all heads read after a piece: the next piece's, after the keys the values',
            // after those the next split's keys.
            let after = |rows: &Rows, i: usize, from: usize| match heads {
                1 => std::ptr::null(),
                _ if from < cols => rows.share(i, j0 + from, PIECE),
                _ if std::ptr::eq(rows, &k) => v.share(i, j0, PIECE),
                _ if at + 1 < run => k.share(i, j0 + cols, PIECE),
                _ => std::ptr::null(),
            };
            for from in (0..cols).step_by(PIECE) {
                for (i, a) in all.chunks_exact_mut(group * cols).enumerate() {
                    let q = &qs[(g0 + i) * group * wide..][..group * wide];
                    let next = after(&k, i, from + PIECE);
                    k.runs(g0 + i, j0 + from, PIECE.min(cols - from), &mut buf, |at, len, run, scales| {
                        let at = from + at;
                        // SAFETY: the run is `len` rows of `wide`; q and a hold `group` rows, those of a from `at` on `len` more.
                        unsafe { scores(run, len, q.as_ptr(), group, wide, a.as_mut_ptr().add(at), cols, next) }
                        scale_weights(a, cols, at, len, scales);
                    });
                }
            }
            for (row, part) in all.chunks_exact_mut(cols).zip(part.chunks_exact_mut(size)) {
                part[0] = max(row);
                part[1] = exp_sub_sum(row, part[0]);
            }
            for from in (0..cols).step_by(PIECE) {
                let each = all.chunks_exact_mut(group * cols).zip(part.chunks_exact_mut(group * size));
                for (i, (a, part)) in each.enumerate() {
                    let next = after(&v, i, from + PIECE);
                    v.runs(g0 + i, j0 + from, PIECE.min(cols - from), &mut buf, |at, len, run, scales| {
                        let at = from + at;
                        scale_weights(a, cols, at, len, scales);
                        // SAFETY: as above; part holds `group` rows of `size`, sums from 16 on.
                        unsafe {
                            let (a, sums) = (a.as_ptr().add(at), part.as_mut_ptr().add(16));
                            weighted(run, len, a, cols, group, wide, sums, size, next)
                        }
                    });
                }
            }
        }
    });
    let mut row = Host::<f32>::scratch(wide);
    for h in 0..n.h {
        let part = |split: usize| &parts[(split * n.h + h) * size..][..size];
        let peak = (0..splits).fold(f32::NEG_INFINITY, |m, s| m.max(part(s)[0]));
        let (mut sum, o) = (0.0, &mut out[h * n.d..(h + 1) * n.d]);
        row.fill(0.0);
        for split in 0..splits {
            let w = (part(split)[0] - peak).exp();
            sum += w * part(split)[1];
            axpy(w, &part(split)[16..], &mut row);
        }
        o.iter_mut().zip(&*row).for_each(|(o, x)| *o = x / sum);
    }
}
