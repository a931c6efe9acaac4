//! The specification.

use crate::real::Real;

/// x, y: [N] -> a x + b y.
pub fn forward<R: Real>(a: R, x: &[R], b: R, y: &[R]) -> Vec<R> {
    x.iter().zip(y).map(|(&x, &y)| a * x + b * y).collect()
}
