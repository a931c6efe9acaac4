//! The specification.

use crate::real::Real;

/// x: [M, K], w: [N, K] -> y: [M, N]. `model()` rounds x as the contract says for a bf16 or f16 weight.
pub fn forward<R: Real>(x: &[R], w: &[R], bias: Option<&[R]>, k: usize) -> Vec<R> {
    let n = w.len() / k;
    let mut y = Vec::with_capacity(x.len() / k * n);
    for row in x.chunks(k) {
        for j in 0..n {
            let mut sum = R::zero();
            for i in 0..k {
                sum += row[i].model() * w[j * k + i];
            }
            y.push(bias.map_or(sum, |b| sum + b[j]));
        }
    }
    y
}

/// x: [M, K], w: [2F, K] -> y: [M, F], silu of the first half times the second.
pub fn forward_swiglu<R: Real>(x: &[R], w: &[R], k: usize) -> Vec<R> {
    crate::ops::swiglu::naive::forward(&forward(x, w, None, k), w.len() / k / 2)
}
