//! Reductions over one row of logits, in fixed lanes so that they vectorise and give the same bits on any number of
//! threads: what the softmax-shaped ops (cross_entropy, kl_div, sample) share.

use crate::{multiversion, simd};

/// Partial results side by side: one AVX-512 register.
pub const LANES: usize = 16;
/// f32 lanes are emptied into an f64 after this many elements: their rounding does not grow with the vocabulary.
pub const BLOCK: usize = 1024;

/// Rows of `v` elements that make a piece of work worth handing to a thread; a function of the shape only.
pub fn per_piece(v: usize) -> usize {
    (32_768 / v.max(1)).max(1)
}

/// The largest element; minus infinity for none. NaN is passed over.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for x in chunks {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], x[l]);
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |m, &v| larger(m, v))
}

/// Sum of e^(x - max).
#[inline(always)]
pub fn sum_exp<const FMA: bool>(x: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    for x in x.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        let tail: f32 = chunks.remainder().iter().map(|&x| simd::exp_fall::<FMA>(x - max)).sum();
        for x in chunks {
            for l in 0..LANES {
                lanes[l] += simd::exp_fall::<FMA>(x[l] - max);
            }
        }
        total += total_of(&lanes) + tail as f64;
    }
    total
}

/// y = e^(x - max), and its sum.
#[inline(always)]
pub fn exp_into<const FMA: bool>(x: &[f32], max: f32, y: &mut [f32]) -> f64 {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = simd::exp_fall::<FMA>(x - max);
    }
    let mut total = 0.0;
    for y in y.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let chunks = y.chunks_exact(LANES);
        let tail: f32 = chunks.remainder().iter().sum();
        for y in chunks {
            for l in 0..LANES {
                lanes[l] += y[l];
            }
        }
        total += total_of(&lanes) + tail as f64;
    }
    total
}

/// The lanes' sum, in f64.
#[inline(always)]
pub fn total_of(lanes: &[f32; LANES]) -> f64 {
    lanes.iter().map(|&l| l as f64).sum()
}

multiversion! {
    /// Index of the largest element, the lowest of equals; 0 when there is nothing but NaN.
    pub fn argmax<const FMA: bool>(x: &[f32]) -> usize {
        let m = max(x);
        x.iter().position(|&v| v == m).unwrap_or(0)
    }
}
