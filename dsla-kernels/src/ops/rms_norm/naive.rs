//! The specification.

use crate::real::Real;

/// x: [T, C], w: [C] -> y: [T, C].
pub fn forward<R: Real>(x: &[R], w: &[R], eps: R) -> Vec<R> {
    let c = w.len();
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(c) {
        let mut sum = R::zero();
        for &v in row {
            sum += v * v;
        }
        let inv = R::one() / (sum / R::of(c as f64) + eps).sqrt();
        for (&v, &g) in row.iter().zip(w) {
            y.push(v * inv * g);
        }
    }
    y
}

/// x, r: [T, C], w: [C] -> x + r, y.
pub fn add_forward<R: Real>(x: &[R], r: &[R], w: &[R], eps: R) -> Vec<Vec<R>> {
    let x: Vec<R> = x.iter().zip(r).map(|(&x, &r)| x + r).collect();
    let y = forward(&x, w, eps);
    vec![x, y]
}
