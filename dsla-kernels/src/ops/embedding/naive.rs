//! The specification.

use crate::real::Real;

/// table: [V, C], ids: [T] -> y: [T, C].
pub fn forward<R: Real>(table: &[R], ids: &[R], c: usize) -> Vec<R> {
    let mut y = Vec::with_capacity(ids.len() * c);
    for id in ids {
        let row = id.f64() as usize;
        y.extend_from_slice(&table[row * c..(row + 1) * c]);
    }
    y
}
