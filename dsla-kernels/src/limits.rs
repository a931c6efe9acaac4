//! What this machine can do, measured here and now: speeds are quoted as shares of it.

use crate::ops::linear::{self, Into, Packed};
use crate::{DType, Result, Tensor, View};
use std::time::Instant;

/// The two limits of every op on the CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Floating-point operations per second of a large product.
    pub flops: f64,
    /// Bytes read per second from memory that no cache holds.
    pub bandwidth: f64,
}

impl Limits {
    /// With weights packed by `pack` from f32 [N, K]. Takes a few tenths of a second.
    ///
    /// Errors: what `pack` refuses.
    pub fn measure(pack: impl Fn(View) -> Result<Packed>) -> Result<Limits> {
        let (m, n, k) = (1024, 2048, 1024);
        let numbers = |rows: usize, of: usize| {
            Tensor::from_f32([rows, k], (0..rows * k).map(|i| (i % of) as f32).collect())
        };
        let w = pack(numbers(n, 5).view())?;
        let flops = (2 * m * n * k) as f64 / best(5, &numbers(m, 7), &w)?;
        // A product with one row is a read of its weight: 128 MB. The best of many, since other users of a machine only
        // ever make it slower.
        let w = Packed::new(Tensor::zeros([32_768, k], DType::F32).view())?;
        let bandwidth = w.bytes() as f64 / best(12, &numbers(1, 7), &w)?;
        Ok(Limits { flops, bandwidth })
    }

    /// Seconds below which no run of these operations and bytes can get.
    pub fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops).max(bytes / self.bandwidth)
    }
}

/// Seconds of the fastest of `runs` products.
fn best(runs: usize, x: &Tensor, w: &Packed) -> Result<f64> {
    let mut y = Tensor::empty([x.dims()[0], w.n()], DType::F32);
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        linear::forward(x.view(), w, None, Into::Store, y.view_mut())?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_flops_and_bytes_is_the_limit() {
        let limits = Limits { flops: 100.0, bandwidth: 10.0 };
        assert_eq!((limits.seconds(200.0, 10.0), limits.seconds(200.0, 30.0)), (2.0, 3.0));
    }
}
