//! Rows in parallel; sums in sixteen lanes so that they vectorise and do not depend on the width of the machine.

use crate::host::Host;
use crate::vec::{axpy, dot_lanes, narrow};
use crate::simd::lanes::{lanes, tree};
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
    if !c.is_multiple_of(16) {
        return par::for_each_chunk(y, ROWS * c, |i, y| {
            let mut rows = Host::<f32>::scratch(y.len());
            forward_rows(&x[i * ROWS * c..][..y.len()], w, eps, &mut rows);
            narrow(&rows, y);
        });
    }
    assert!(w.len() == c && x.len() == y.len());
    par::for_each_chunk(y, ROWS * c, |i, y| {
        let (x, rows) = (x[i * ROWS * c..].as_ptr(), y.len() / c);
        // SAFETY: as many rows of c, whole vectors, of either.
        unsafe { round_rows(x, w.as_ptr(), eps, [rows, c], y.as_mut_ptr() as *mut u16) }
    });
}

lanes! {
    /// Rows of c.
    unsafe fn round_rows<V>(x: *const f32, w: *const f32, eps: f32, size: [usize; 2], y: *mut u16) {
        let [rows, c] = size;
        for r in 0..rows {
            // SAFETY: the caller's.
            unsafe {
                let (x, y) = (x.add(r * c), y.add(r * c));
                let mut sum = V::splat(0.0);
                for j in (0..c).step_by(16) {
                    let x = V::load(x.add(j));
                    sum = sum.fma(x, x);
                }
                let mut lanes = [0.0f32; 16];
                sum.store(lanes.as_mut_ptr());
                let (zero, inv) = (V::splat(0.0), V::splat(1.0 / (tree(lanes) / c as f32 + eps).sqrt()));
                for j in (0..c).step_by(16) {
                    zero.fma(zero.fma(V::load(x.add(j)), inv), V::load(w.add(j))).store_bf16(y.add(j));
                }
            }
        }
    }
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
