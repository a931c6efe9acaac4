//! Rows in parallel. A row of a large vocabulary is read twice (maximum, sum) and stays in the cache in between; the
//! backward pass keeps the exponentials in its output instead of computing them again.

use super::rows;
use crate::{multiversion, par};

pub fn forward(x: &[f32], targets: &[u32], loss: &mut [f32], v: usize) {
    let n = rows::per_piece(v);
    par::for_each_chunk(loss, n, |i, loss| {
        let (a, b) = (i * n, i * n + loss.len());
        forward_rows(&x[a * v..b * v], &targets[a..b], loss, v);
    });
}

multiversion! {
    fn forward_rows<const FMA: bool>(x: &[f32], targets: &[u32], loss: &mut [f32], v: usize) {
        for ((x, &target), loss) in x.chunks_exact(v).zip(targets).zip(loss) {
            let max = rows::max(x);
            let ln = rows::sum_exp::<FMA>(x, max).ln();
            // In f64: the maximum may dwarf the logarithm, and the target's logit cancels most of it.
            *loss = (ln + (max as f64 - x[target as usize] as f64)) as f32;
        }
    }
}

pub fn backward(x: &[f32], targets: &[u32], dloss: &[f32], dx: &mut [f32], v: usize) {
    let n = rows::per_piece(v);
    par::for_each_chunk(dx, n * v, |i, dx| {
        let (a, b) = (i * n, i * n + dx.len() / v);
        backward_rows(&x[a * v..b * v], &targets[a..b], &dloss[a..b], dx, v);
    });
}

multiversion! {
    fn backward_rows<const FMA: bool>(x: &[f32], targets: &[u32], dloss: &[f32], dx: &mut [f32], v: usize) {
        let rows = x.chunks_exact(v).zip(targets).zip(dloss).zip(dx.chunks_exact_mut(v));
        for (((x, &target), &dloss), dx) in rows {
            let sum = rows::exp_into::<FMA>(x, rows::max(x), dx);
            let k = (dloss as f64 / sum) as f32;
            for d in dx.iter_mut() {
                *d *= k;
            }
            dx[target as usize] -= dloss;
        }
    }
}
