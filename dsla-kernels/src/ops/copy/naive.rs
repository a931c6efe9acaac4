//! The specification.

use crate::real::Real;

/// y with a block of n columns of x [T, X] in it.
pub fn columns<R: Real>(x: &[R], from: usize, n: usize, y: &[R], to: usize, rows: usize) -> Vec<R> {
    let (xs, ys) = (x.len() / rows, y.len() / rows);
    let mut out = y.to_vec();
    for t in 0..rows {
        for i in 0..n {
            out[t * ys + to + i] = x[t * xs + from + i];
        }
    }
    out
}

/// x [N, R], rows [T] -> [T, R].
pub fn gather<R: Real>(x: &[R], rows: &[R], r: usize) -> Vec<R> {
    rows.iter().flat_map(|i| x[i.f64() as usize * r..][..r].to_vec()).collect()
}

/// x [T, R], rows [T], y [N, R] -> [N, R].
pub fn scatter<R: Real>(x: &[R], rows: &[R], y: &[R], r: usize) -> Vec<R> {
    let mut out = y.to_vec();
    for (i, row) in rows.iter().enumerate() {
        for j in 0..r {
            out[row.f64() as usize * r + j] = x[i * r + j];
        }
    }
    out
}
