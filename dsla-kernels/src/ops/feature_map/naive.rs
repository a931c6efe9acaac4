//! The specification.

use crate::real::Real;

/// u: [T, H, D], w: [H, D, D] -> [T, H, 2 D].
pub fn forward<R: Real>(u: &[R], w: &[R], h: usize, d: usize) -> Vec<R> {
    let mut y = Vec::with_capacity(2 * u.len());
    for (at, row) in u.chunks(d).enumerate() {
        let w = &w[at % h * d * d..];
        let z: Vec<R> = (0..d)
            .map(|j| {
                let mut sum = R::zero();
                for i in 0..d {
                    sum += row[i].model() * w[i * d + j].model();
                }
                sum
            })
            .collect();
        for sign in [R::one(), -R::one()] {
            let peak = z.iter().map(|&v| v * sign).reduce(R::max).expect("D > 0");
            let e: Vec<R> = z.iter().map(|&v| (v * sign - peak).exp()).collect();
            let mut sum = R::zero();
            for &v in &e {
                sum += v;
            }
            y.extend(e.iter().map(|&v| v / sum));
        }
    }
    y
}
