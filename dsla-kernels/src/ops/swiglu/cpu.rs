//! Rows in parallel, elements in vectors.

use crate::vec::nearest_bf16;
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
                *y = gate_of::<FMA>(g) * u;
            }
        }
    }
}

/// silu(g).
#[inline(always)]
fn gate_of<const FMA: bool>(g: f32) -> f32 {
    g / (1.0 + simd::exp::<FMA>(-g))
}

multiversion! {
    /// Sixteen columns of y, rows `ld` apart, from rows of sixteen gates and sixteen ups.
    ///
    /// # Safety
    /// The columns are there, for as many rows, and the caller's alone.
    pub unsafe fn gated<const FMA: bool>(both: &[f32], y: *mut f32, ld: usize) {
        for (r, both) in both.chunks_exact(32).enumerate() {
            // SAFETY: the caller's.
            let y = unsafe { &mut *(y.add(r * ld) as *mut [f32; 16]) };
            for l in 0..16 {
                y[l] = gate_of::<FMA>(both[l]) * both[16 + l];
            }
        }
    }
}

multiversion! {
    /// [`gated`], rounded.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn gated_bf16<const FMA: bool>(both: &[f32], y: *mut bf16, ld: usize) {
        for (r, both) in both.chunks_exact(32).enumerate() {
            // SAFETY: the caller's.
            let y = unsafe { &mut *(y.add(r * ld) as *mut [bf16; 16]) };
            for l in 0..16 {
                y[l] = nearest_bf16(gate_of::<FMA>(both[l]) * both[16 + l]);
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
