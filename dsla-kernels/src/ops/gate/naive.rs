//! The specification.

use super::{Dims, MIN_LOG_DECAY};
use crate::real::Real;

/// x: [T, X, K], w: [2, G, E, K], b: [2, G, E] -> [T, 2, G, E].
pub fn forward<R: Real>(x: &[R], w: &[R], b: &[R], scale: R, n: Dims) -> Vec<R> {
    let mut y = Vec::with_capacity(n.t * b.len());
    for t in 0..n.t {
        for j in 0..b.len() {
            let g = if n.x == 1 { 0 } else { j / n.e % n.g };
            let mut logit = b[j];
            for i in 0..n.k {
                logit += w[j * n.k + i] * x[(t * n.x + g) * n.k + i];
            }
            // logsigmoid, safe on both sides
            let log = if logit > R::zero() {
                -(R::one() + (-logit).exp()).ln()
            } else {
                logit - (R::one() + logit.exp()).ln()
            };
            y.push((log / scale).max(R::of(MIN_LOG_DECAY as f64)));
        }
    }
    y
}
