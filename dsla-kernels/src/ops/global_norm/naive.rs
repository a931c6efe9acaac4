//! The specification.

use crate::real::Real;

/// x: [N] -> norm: [1].
pub fn forward<R: Real>(x: &[R]) -> Vec<R> {
    let mut sum = R::zero();
    for &v in x {
        sum += v * v;
    }
    vec![sum.sqrt()]
}
