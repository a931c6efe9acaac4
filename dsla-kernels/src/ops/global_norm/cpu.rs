//! Blocks in parallel, each with its own f64 sum in fixed lanes; the blocks' sums are added in order.

use crate::{multiversion, par};

const BLOCK: usize = 16_384;
const LANES: usize = 16;

pub fn forward(x: &[f32]) -> f32 {
    let mut sums = vec![0.0f64; x.len().div_ceil(BLOCK)];
    par::for_each_chunk(&mut sums, 1, |i, sum| {
        let start = i * BLOCK;
        sum[0] = squares(&x[start..(start + BLOCK).min(x.len())]);
    });
    sums.iter().sum::<f64>().sqrt() as f32
}

multiversion! {
    fn squares<const FMA: bool>(x: &[f32]) -> f64 {
        let square = |v: f32| v as f64 * v as f64;
        let mut lanes = [0.0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        let tail: f64 = chunks.remainder().iter().map(|&v| square(v)).sum();
        for x in chunks {
            for l in 0..LANES {
                lanes[l] += square(x[l]);
            }
        }
        lanes.iter().sum::<f64>() + tail
    }
}
