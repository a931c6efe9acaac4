//! Blocks of columns in parallel, each with one f64 sum per column: no sum depends on the number of threads.

use crate::{multiversion, par};

const COLUMNS: usize = 64;
const ROWS: usize = 16;

pub fn forward(y: &[f32], target: &[f32], c: usize) -> f32 {
    let (error, variance) = sums(y, target, c);
    (error / variance) as f32
}

pub fn backward(y: &[f32], target: &[f32], dloss: f32, dy: &mut [f32], c: usize) {
    let (_, variance) = sums(y, target, c);
    let k = (2.0 * dloss as f64 / variance) as f32;
    par::for_each_chunk(dy, ROWS * c, |i, dy| {
        let a = i * ROWS * c;
        let b = a + dy.len();
        scaled_difference(&y[a..b], &target[a..b], k, dy);
    });
}

multiversion! {
    fn scaled_difference<const FMA: bool>(y: &[f32], target: &[f32], k: f32, dy: &mut [f32]) {
        for ((d, &y), &t) in dy.iter_mut().zip(y).zip(target) {
            *d = k * (y - t);
        }
    }
}

/// Sum of squared differences and of squared deviations from the columns' means.
fn sums(y: &[f32], target: &[f32], c: usize) -> (f64, f64) {
    let mut parts = vec![(0.0, 0.0); c.div_ceil(COLUMNS)];
    par::for_each_chunk(&mut parts, 1, |i, part| {
        let start = i * COLUMNS;
        part[0] = block(y, target, c, start, (start + COLUMNS).min(c));
    });
    let (error, variance) = parts.iter().fold((0.0, 0.0), |(e, v), p| (e + p.0, v + p.1));
    (error, if variance == 0.0 { 1e-12 } else { variance })
}

multiversion! {
    fn block<const FMA: bool>(y: &[f32], target: &[f32], c: usize, start: usize, end: usize) -> (f64, f64) {
        let mut mean = [0.0f64; COLUMNS];
        for t in target.chunks_exact(c) {
            for (m, &t) in mean.iter_mut().zip(&t[start..end]) {
                *m += t as f64;
            }
        }
        let rows = (target.len() / c) as f64;
        for m in &mut mean {
            *m /= rows;
        }
        let (mut error, mut variance) = ([0.0f64; COLUMNS], [0.0f64; COLUMNS]);
        for (y, t) in y.chunks_exact(c).zip(target.chunks_exact(c)) {
            let columns = error.iter_mut().zip(&mut variance).zip(&mean).zip(&y[start..end]).zip(&t[start..end]);
            for ((((e, v), m), &y), &t) in columns {
                let (a, b) = (y as f64 - t as f64, t as f64 - m);
                *e += a * a;
                *v += b * b;
            }
        }
        (error.iter().sum(), variance.iter().sum())
    }
}
