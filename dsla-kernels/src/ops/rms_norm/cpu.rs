//! Rows in parallel; sums in sixteen lanes so that they vectorise and do not depend on the width of the machine.

use crate::host::Host;
use crate::vec::{axpy, dot_lanes, narrow};
use crate::{bf16, multiversion, par, simd::madd};

const ROWS: usize = 16;
const BLOCK: usize = 16_384;

pub fn forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], c: usize) {
    par::for_each_chunk(y, ROWS * c, |i, y| {
        let start = i * ROWS * c;
        forward_rows(&x[start..start + y.len()], w, eps, y);
    });
}

/// [`forward`], rounded.
pub fn forward_bf16(x: &[f32], w: &[f32], eps: f32, y: &mut [bf16], c: usize) {
    par::for_each_chunk(y, ROWS * c, |i, y| {
        let mut rows = Host::<f32>::scratch(y.len());
        forward_rows(&x[i * ROWS * c..][..y.len()], w, eps, &mut rows);
        narrow(&rows, y);
    });
}

/// x += r.
pub fn add(x: &mut [f32], r: &[f32]) {
    par::for_each_chunk(x, BLOCK, |i, x| axpy(1.0, &r[i * BLOCK..][..x.len()], x));
}

multiversion! {
    fn forward_rows<const FMA: bool>(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
        let c = w.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            let inv = 1.0 / (dot_lanes::<FMA>(x, x) / c as f32 + eps).sqrt();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = x * inv * w;
            }
        }
    }
}

/// dx = inv * (w dy - x * inv^2 * mean(x w dy)); dw += sum over rows of x inv dy.
pub fn backward(x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dw: Option<&mut [f32]>, c: usize) {
    par::for_each_chunk(dx, ROWS * c, |i, dx| {
        let s = i * ROWS * c;
        backward_rows(&x[s..s + dx.len()], w, eps, &dy[s..s + dx.len()], dx);
    });
    if let Some(dw) = dw {
        backward_weight(x, eps, dy, dw);
    }
}

multiversion! {
    fn backward_rows<const FMA: bool>(x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
        let c = w.len();
        for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            let inv = 1.0 / (dot_lanes::<FMA>(x, x) / c as f32 + eps).sqrt();
            for ((d, &g), &w) in dx.iter_mut().zip(dy).zip(w) {
                *d = g * w;
            }
            let k = dot_lanes::<FMA>(x, dx) / c as f32 * inv * inv;
            for (d, &x) in dx.iter_mut().zip(x) {
                *d = inv * (*d - x * k);
            }
        }
    }
}

multiversion! {
    fn backward_weight<const FMA: bool>(x: &[f32], eps: f32, dy: &[f32], dw: &mut [f32]) {
        let c = dw.len();
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            let inv = 1.0 / (dot_lanes::<FMA>(x, x) / c as f32 + eps).sqrt();
            for ((d, &x), &g) in dw.iter_mut().zip(x).zip(dy) {
                *d = madd::<FMA>(x * inv, g, *d);
            }
        }
    }
}
