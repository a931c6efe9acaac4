//! Blocks of tokens in parallel; the weights are transposed once per call.

use super::{Dims, MIN_LOG_DECAY};
use crate::gemm::{Into, gemm, rows, transposed};
use crate::host::Host;
use crate::simd::{exp_fall, madd};
use crate::vec::transpose;
use crate::{multiversion, par};

const BLOCK: usize = 64;

/// The c-th of the outputs [2, G, E] that read input `x`.
fn output(n: Dims, x: usize, c: usize) -> usize {
    if n.x == 1 { c } else { (c / n.e * n.g + x) * n.e + c % n.e }
}

pub fn forward(x: &[f32], w: &[f32], b: &[f32], scale: f32, y: &mut [f32], n: Dims) {
    let all = 2 * n.g * n.e;
    // Each input has its share of the outputs.
    let cols = all / n.x;
    let mut wt = Host::<f32>::scratch(n.x * n.k * cols);
    for (i, wt) in wt.chunks_exact_mut(n.k * cols).enumerate() {
        for c in 0..cols {
            let j = output(n, i, c);
            transpose(&w[j * n.k..(j + 1) * n.k], n.k, 1, n.k, &mut wt[c..], cols);
        }
    }
    let block = |i: usize, y: &mut [f32]| {
        let (t0, m) = (i * BLOCK, y.len() / all);
        let mut z = Host::<f32>::scratch(m * cols);
        for (i, wt) in wt.chunks_exact(n.k * cols).enumerate() {
            let a = rows(&x[(t0 * n.x + i) * n.k..], n.x * n.k);
            gemm(Into::Store, m, cols, n.k, a, wt, cols, &mut z, cols);
            for r in 0..m {
                for c in 0..cols {
                    let j = output(n, i, c);
                    y[r * all + j] = z[r * cols + c] + b[j];
                }
            }
        }
        log_sigmoids(y, scale);
    };
    if n.t < 8 { block(0, y) } else { par::for_each_chunk(y, BLOCK * all, block) }
}

multiversion! {
    /// x <- max(log sigmoid(x) / scale, the least).
    fn log_sigmoids<const FMA: bool>(x: &mut [f32], scale: f32) {
        for x in x {
            let below = if *x < 0.0 { *x } else { 0.0 };
            let y = (below - ln_1p::<FMA>(exp_fall::<FMA>(-x.abs()))) / scale;
            // (NaN stays NaN.)
            *x = if y < MIN_LOG_DECAY { MIN_LOG_DECAY } else { y };
        }
    }
}

/// ln(1 + x) for x in [0, 1] to about 2 ulp: 2 atanh(s) for s = x / (2 + x), at most 1/3, by its series.
#[inline(always)]
fn ln_1p<const FMA: bool>(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let (t, mut p) = (s * s, 1.0 / 17.0);
    for odd in [15.0f32, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = madd::<FMA>(p, t, 1.0 / odd);
    }
    // The first term apart: it has most of the sum.
    2.0 * madd::<FMA>(p * t, s, s)
}

/// d log d / d logit = (1 - sigmoid) / scale, and sigmoid is e^(scale log d); nothing flows through the clamp.
fn slope(y: f32, scale: f32) -> f32 {
    if y <= MIN_LOG_DECAY { 0.0 } else { -(y * scale).exp_m1() / scale }
}

pub fn backward(x: &[f32], w: &[f32], scale: f32, y: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32], dx: Option<&mut [f32]>, n: Dims) {
    let all = 2 * n.g * n.e;
    let d: Vec<f32> = y.iter().zip(dy).map(|(&y, &g)| g * slope(y, scale)).collect();
    for row in d.chunks_exact(all) {
        db.iter_mut().zip(row).for_each(|(b, d)| *b += d);
    }
    // Rows of w in blocks that share an input: e rows of one state and kv head, or everything.
    let rows_per = if n.x == 1 { all.min(64) } else { n.e };
    par::for_each_chunk(dw, rows_per * n.k, |i, dw| {
        let j0 = i * rows_per;
        let input = if n.x == 1 { 0 } else { j0 / n.e % n.g };
        gemm(Into::Add, dw.len() / n.k, n.k, n.t, transposed(&d[j0..], all), &x[input * n.k..], n.x * n.k, dw, n.k);
    });
    let Some(dx) = dx else { return };
    par::for_each_chunk(dx, BLOCK * n.x * n.k, |i, dx| {
        let (t0, m) = (i * BLOCK, dx.len() / (n.x * n.k));
        dx.fill(0.0);
        for input in 0..n.x {
            for s in 0..if n.x == 1 { 1 } else { 2 } {
                let (j0, cols) = if n.x == 1 { (0, all) } else { ((s * n.g + input) * n.e, n.e) };
                gemm(Into::Add, m, n.k, cols, rows(&d[t0 * all + j0..], all), &w[j0 * n.k..], n.k, &mut dx[input * n.k..], n.x * n.k);
            }
        }
    });
}
