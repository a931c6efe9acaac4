//! Rows in parallel, elements in vectors.

use crate::simd::exp2_fall;
use crate::simd::lanes::lanes;
use crate::{bf16, multiversion, par, simd};

const ROWS: usize = 16;

pub fn forward(gate_up: &[f32], y: &mut [f32], f: usize) {
    par::for_each_chunk(y, ROWS * f, |i, y| {
        let start = i * ROWS * 2 * f;
        forward_rows(&gate_up[start..start + 2 * y.len()], y, f);
    });
}

multiversion! {
    fn forward_rows<const FMA: bool>(gate_up: &[f32], y: &mut [f32], f: usize) {
        for (row, y) in gate_up.chunks_exact(2 * f).zip(y.chunks_exact_mut(f)) {
            let (gate, up) = row.split_at(f);
            for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                *y = g / (1.0 + simd::exp::<FMA>(-g)) * u;
            }
        }
    }
}

lanes! {
    /// Sixteen columns of y, rows `ld` apart, from rows of sixteen gates and sixteen ups. What is rounded needs no exponential
    /// and no division to the last bits.
    ///
    /// # Safety
    /// The columns are there, for as many rows, and the caller's alone.
    pub unsafe fn gated<V>(both: &[f32], y: *mut bf16, ld: usize) {
        for (r, both) in both.chunks_exact(32).enumerate() {
            let mut e = [0.0f32; 16];
            for l in 0..16 {
                let x = both[l] * -std::f32::consts::LOG2_E;
                e[l] = 1.0 + exp2_fall::<true>(if x > 100.0 { 100.0 } else { x });
            }
            // SAFETY: the caller's; a row holds sixteen gates and sixteen ups.
            unsafe {
                let (gate, up, zero) = (V::load(both.as_ptr()), V::load(both.as_ptr().add(16)), V::splat(0.0));
                let product = zero.fma(zero.fma(gate, up), V::load(e.as_ptr()).rough_inverse());
                product.store_bf16(y.add(r * ld) as *mut u16);
            }
        }
    }
}

pub fn backward(gate_up: &[f32], dy: &[f32], d: &mut [f32], f: usize) {
    par::for_each_chunk(d, ROWS * 2 * f, |i, d| {
        let (start, rows) = (i * ROWS * f, d.len() / 2);
        backward_rows(&gate_up[2 * start..2 * start + d.len()], &dy[start..start + rows], d, f);
    });
}

multiversion! {
    /// With s = 1 / (1 + e^-g): d silu / dg = s (1 + g (1 - s)).
    fn backward_rows<const FMA: bool>(gate_up: &[f32], dy: &[f32], d: &mut [f32], f: usize) {
        for ((row, dy), d) in gate_up.chunks_exact(2 * f).zip(dy.chunks_exact(f)).zip(d.chunks_exact_mut(2 * f)) {
            let ((gate, up), (dgate, dup)) = (row.split_at(f), d.split_at_mut(f));
            for ((((dg, du), &g), &u), &dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
                let s = 1.0 / (1.0 + simd::exp::<FMA>(-g));
                *dg = dy * u * s * simd::madd::<FMA>(g, 1.0 - s, 1.0);
                *du = dy * g * s;
            }
        }
    }
}
