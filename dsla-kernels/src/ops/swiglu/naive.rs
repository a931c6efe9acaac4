//! The specification.

use crate::real::Real;

/// gate_up: [T, 2F] -> y: [T, F].
pub fn forward<R: Real>(gate_up: &[R], f: usize) -> Vec<R> {
    let mut y = Vec::with_capacity(gate_up.len() / 2);
    for row in gate_up.chunks(2 * f) {
        for (&g, &u) in row[..f].iter().zip(&row[f..]) {
            y.push(g / (R::one() + (-g).exp()) * u);
        }
    }
    y
}
