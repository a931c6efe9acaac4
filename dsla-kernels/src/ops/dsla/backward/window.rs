//! The window's own q, k and v: tiles of queries, all heads of a kv head together.
//!
//! A key is in several tiles. A task walks a run of them and adds up what their keys get in memory of its own; keys before the
//! run's first query are other runs' too and are handed over, added in order afterwards.

use super::{Forward, Rows};
use crate::gemm::{Into, gemm, rows, transposed};
use crate::host::Host;
use crate::multiversion;
use crate::ops::dsla::cpu::{LOG_WEIGHT, TILE, Tile, f32s};
use crate::ops::dsla::{Args, Dims};
use crate::par::{self, SendPtr};
use crate::vec::{axpy, max, transpose};

/// Tiles per task.
const RUN: usize = 8;

/// Gradients of q, k, v, sink_k, sink_v: q written, the others added to. d_log [T, H]: gradient of a row's log weight.
pub fn backward(x: &Args, n: Dims, fwd: &Forward, r: &Rows, d_log: &[f32], [dq, dk, dv, dsk, dsv]: [&mut [f32]; 5]) {
    let runs = Tile::count(n).div_ceil(RUN);
    // What each run hands over: of sinks, then of at most W - 1 keys.
    let over = n.n + n.w - 1;
    let mut handed = [0, 1].map(|_| Host::<f32>::scratch(runs * n.g * over * n.d));
    let hp = handed.each_mut().map(|h| SendPtr(h.as_mut_ptr()));
    let (qp, kp) = (SendPtr(dq.as_mut_ptr()), [&mut *dk, &mut *dv].map(|x| SendPtr(x.as_mut_ptr())));
    par::for_each(runs * n.g, |task| {
        let (run, g) = (task / n.g, task % n.g);
        let (first, mine) = keys_of(n, run);
        let last = ((run + 1) * RUN * TILE).min(n.t) + n.r;
        let mut sums = [0, 1].map(|_| Host::<f32>::zeros((n.n + last - first) * n.d));
        for tile in run * RUN..((run + 1) * RUN).min(Tile::count(n)) {
            tile_back(x, n, fwd, r, d_log, g, tile, first, qp, &mut sums);
        }
        let given = n.n + mine - first;
        for ((sums, handed), out) in sums.iter().zip(hp).zip(kp) {
            // SAFETY: (run, kv head) owns its part, of `over` rows at least as many as are given.
            let handed = unsafe { std::slice::from_raw_parts_mut(handed.get().add(task * over * n.d), given * n.d) };
            let (give, keep) = sums.split_at(given * n.d);
            handed.copy_from_slice(give);
            for (j, row) in keep.chunks_exact(n.d.max(1)).enumerate() {
                // SAFETY: a key from the run's first query on belongs to this (run, kv head) alone.
                axpy(1.0, row, unsafe { std::slice::from_raw_parts_mut(out.get().add(((mine + j) * n.g + g) * n.d), n.d) });
            }
        }
    });
    for (handed, (of_keys, of_sinks)) in handed.iter().zip([(dk, dsk), (dv, dsv)]) {
        for (task, handed) in handed.chunks_exact((over * n.d).max(1)).enumerate() {
            let (run, g) = (task / n.g, task % n.g);
            let (first, mine) = keys_of(n, run);
            for (j, row) in handed.chunks_exact(n.d.max(1)).take(n.n + mine - first).enumerate() {
                let (out, key) = if j < n.n { (&mut *of_sinks, j) } else { (&mut *of_keys, first + j - n.n) };
                axpy(1.0, row, &mut out[(key * n.g + g) * n.d..][..n.d]);
            }
        }
    }
}

/// The call's first key that a run's queries see, and the first that no run before it sees.
fn keys_of(n: Dims, run: usize) -> (usize, usize) {
    let query = run * RUN * TILE + n.r;
    ((query + 1).saturating_sub(n.w), query)
}

/// One tile: dq written; `sums` of keys and of values [N + keys from `first` on, D] added to.
fn tile_back(
    x: &Args,
    n: Dims,
    fwd: &Forward,
    r: &Rows,
    d_log: &[f32],
    g: usize,
    tile: usize,
    first: usize,
    dq: SendPtr<f32>,
    sums: &mut [Host<f32>; 2],
) {
    let (q, slope, mix) = (f32s(&x.q), f32s(&x.slope), f32s(&x.mix));
    let (group, d, wide) = (n.h / n.g, n.d, n.d + 1);
    let w = Tile::load(x, n, g, tile);
    let (cols, height) = (w.cols, group * w.m);
    // Rows (head, query); the normaliser is one more column of values, all ones.
    let at = |row: usize| (w.t0 + row % w.m) * n.h + g * group + row / w.m;
    let scratch = Host::<f32>::scratch;
    let (mut qs, mut num, mut vt) = (scratch(height * d), scratch(height * wide), scratch(wide * cols));
    for (row, (qs, num)) in qs.chunks_exact_mut(d.max(1)).zip(num.chunks_exact_mut(wide)).enumerate() {
        qs.copy_from_slice(&q[at(row) * d..][..d]);
        r.gather(fwd, at(row), 1.0, num);
    }
    transpose(&w.v, d, cols, d, &mut vt, cols);
    vt[d * cols..].fill(1.0);
    let (mut a, mut da) = (scratch(height * cols), scratch(height * cols));
    w.weights(n, &qs, &mut a, |_, _, _| {});
    gemm(Into::Store, height, cols, wide, rows(&num, wide), &vt, cols, &mut da, cols);
    let scale = 1.0 / (d as f32).sqrt();
    for (row, (a, da)) in a.chunks_exact(cols).zip(da.chunks_exact_mut(cols)).enumerate() {
        let (at, h) = (at(row), g * group + row / w.m);
        let clamped = (mix[h] - slope[h] * fwd.peak[at]).abs() >= LOG_WEIGHT as f32;
        let d_peak = if clamped { 0.0 } else { -slope[h] * d_log[at] };
        softmax_back(a, da, d_peak, scale);
    }
    let near = n.n + w.j0 - first;
    for (sums, (weights, from, ld)) in sums.iter_mut().zip([(&da, &qs, d), (&a, &num, wide)]) {
        gemm(Into::Add, n.n, d, height, transposed(weights, cols), from, ld, sums, d);
        let weights = transposed(&weights[n.n..], cols);
        gemm(Into::Add, cols - n.n, d, height, weights, from, ld, &mut sums[near * d..], d);
    }
    let mut rows_of_q = qs;
    gemm(Into::Store, height, d, cols, rows(&da, cols), &w.k, d, &mut rows_of_q, d);
    for (row, from) in rows_of_q.chunks_exact(d.max(1)).enumerate() {
        // SAFETY: (query, head) rows belong to this (tile, kv head) alone.
        unsafe { std::slice::from_raw_parts_mut(dq.get().add(at(row) * d), d) }.copy_from_slice(from);
    }
}

multiversion! {
    /// da <- scale a da, with d_peak less their sum given to the largest weight: scores were taken from it.
    fn softmax_back<const FMA: bool>(a: &[f32], da: &mut [f32], d_peak: f32, scale: f32) {
        let _ = FMA;
        let mut lanes = [0.0f32; 16];
        let (ac, mut dc) = (a.chunks_exact(16), da.chunks_exact_mut(16));
        let tail = ac.remainder();
        for (a, d) in ac.zip(&mut dc) {
            for l in 0..16 {
                d[l] *= a[l];
                lanes[l] += d[l];
            }
        }
        let mut sum = crate::simd::lanes::tree(lanes);
        for (a, d) in tail.iter().zip(dc.into_remainder()) {
            *d *= a;
            sum += *d;
        }
        let peak = max(a);
        if let Some(top) = a.iter().position(|&v| v == peak) {
            da[top] += d_peak - sum;
        }
        da.iter_mut().for_each(|d| *d *= scale);
    }
}
