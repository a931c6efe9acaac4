//! The specification.

use super::Dims;
use crate::real::Real;

/// q: [T, H, D], k, v: [S, G, D] -> [T, H, D].
pub fn forward<R: Real>(q: &[R], k: &[R], v: &[R], n: Dims) -> Vec<R> {
    let Dims { t, s, h, g, d } = n;
    let mut out = Vec::with_capacity(t * h * d);
    for time in 0..t {
        for head in 0..h {
            let kv = head * g / h;
            let score = |j: usize| {
                let mut sum = R::zero();
                for b in 0..d {
                    sum += q[(time * h + head) * d + b].model() * k[(j * g + kv) * d + b].model();
                }
                sum / R::of(d as f64).sqrt()
            };
            let seen = s - t + time + 1;
            let peak = (0..seen).map(score).reduce(R::max).expect("a token sees itself");
            let (mut num, mut den) = (vec![R::zero(); d], R::zero());
            for j in 0..seen {
                let a = (score(j) - peak).exp();
                den += a;
                for b in 0..d {
                    num[b] += a.model() * v[(j * g + kv) * d + b].model();
                }
            }
            out.extend(num.iter().map(|&x| x / den));
        }
    }
    out
}
