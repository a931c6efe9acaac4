//! The specification.

use crate::real::Real;

/// The angles are part of the contract, f32 products; what follows them is in R.
/// x: [T, H, D], positions: [T], inv_freq: [D/2] -> [T, H, D].
pub fn forward<R: Real>(
    x: &[R],
    positions: &[R],
    inv_freq: &[f64],
    scale: f32,
    heads: usize,
    inverse: bool,
) -> Vec<R> {
    let half = inv_freq.len();
    let scale = R::of(scale as f64);
    let mut y = Vec::with_capacity(x.len());
    for (i, head) in x.chunks(2 * half).enumerate() {
        let position = positions[i / heads].f64() as f32;
        let (a, b) = head.split_at(half);
        let turn = |j: usize| {
            let angle = (inv_freq[j] as f32 * position) as f64;
            if inverse {
                (R::of(angle.cos()) / scale, -R::of(angle.sin()) / scale)
            } else {
                (R::of(angle.cos()) * scale, R::of(angle.sin()) * scale)
            }
        };
        for j in 0..half {
            let (cos, sin) = turn(j);
            y.push(a[j] * cos - b[j] * sin);
        }
        for j in 0..half {
            let (cos, sin) = turn(j);
            y.push(b[j] * cos + a[j] * sin);
        }
    }
    y
}
