//! The backward pass: log-sum-exp of every row first, then gradients block of keys by block of keys.

use super::super::Dims;
use crate::View;
use crate::gemm::{Into, gemm, rows, transposed};
use crate::par::{self, SendPtr};
use crate::vec::{dot, exp_sub_sum, head_rows, max, transpose};

/// Queries per tile and keys per block.
const TILE: usize = 64;
const BLOCK: usize = 128;

pub fn backward(
    q: &[f32],
    k: View,
    v: View,
    n: Dims,
    out: &[f32],
    d_out: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    let group = n.h / n.g;
    let scale = 1.0 / (n.d as f32).sqrt();
    let (qp, kp, vp) = (SendPtr(dq.as_mut_ptr()), SendPtr(dk.as_mut_ptr()), SendPtr(dv.as_mut_ptr()));
    par::for_each(n.g, |g| {
        let mut block = Block::new(n);
        let (mut a, mut da) = (vec![0.0; TILE * BLOCK], vec![0.0; TILE * BLOCK]);
        let (mut dkb, mut dvb, mut vt) =
            (vec![0.0; BLOCK * n.d], vec![0.0; BLOCK * n.d], vec![0.0; BLOCK * n.d]);
        // log-sum-exp per (query, head of the group), by one pass over the keys first.
        let mut stats = vec![(f32::NEG_INFINITY, 0.0f32); n.t * group];
        for pass in 0..2 {
            for j0 in (0..n.s).step_by(BLOCK) {
                block.load(&k, &v, n, g, j0, BLOCK.min(n.s - j0));
                let cols = block.cols;
                transpose(&block.v, n.d, cols, n.d, &mut vt, cols);
                dkb.fill(0.0);
                dvb.fill(0.0);
                let first = j0.saturating_sub(n.s - n.t) / TILE * TILE;
                for t0 in (first..n.t).step_by(TILE) {
                    let m = TILE.min(n.t - t0);
                    for i in 0..group {
                        let row = t0 * n.h + g * group + i;
                        let a = &mut a[..m * cols];
                        block.scores(&q[row * n.d..], n, t0, m, a);
                        if pass == 0 {
                            for r in 0..m {
                                let (peak, sum) = &mut stats[(t0 + r) * group + i];
                                let x = &mut a[r * cols..(r + 1) * cols];
                                let top = max(x).max(*peak);
                                if top > f32::NEG_INFINITY {
                                    *sum = *sum * (*peak - top).exp() + exp_sub_sum(x, top);
                                    *peak = top;
                                }
                            }
                            continue;
                        }
                        let d_o = &d_out[row * n.d..];
                        let da = &mut da[..m * cols];
                        gemm(Into::Store, m, cols, n.d, rows(d_o, n.h * n.d), &vt, cols, da, cols);
                        for r in 0..m {
                            let (peak, sum) = stats[(t0 + r) * group + i];
                            let at = (row + r * n.h) * n.d;
                            let along = dot(&out[at..at + n.d], &d_out[at..at + n.d]);
                            let (x, dx) =
                                (&mut a[r * cols..(r + 1) * cols], &mut da[r * cols..(r + 1) * cols]);
                            exp_sub_sum(x, peak);
                            for (x, dx) in x.iter_mut().zip(dx) {
                                *x /= sum;
                                *dx = *x * (*dx - along) * scale;
                            }
                        }
                        gemm(Into::Add, cols, n.d, m, transposed(a, cols), d_o, n.h * n.d, &mut dvb, n.d);
                        gemm(
                            Into::Add,
                            cols,
                            n.d,
                            m,
                            transposed(da, cols),
                            &q[row * n.d..],
                            n.h * n.d,
                            &mut dkb,
                            n.d,
                        );
                        // SAFETY: query rows of heads of kv head g are this task's alone.
                        let dq = unsafe {
                            std::slice::from_raw_parts_mut(qp.get().add(row * n.d), (m - 1) * n.h * n.d + n.d)
                        };
                        gemm(Into::Add, m, n.d, cols, rows(da, cols), &block.k, n.d, dq, n.h * n.d);
                    }
                }
                if pass == 1 {
                    for j in 0..cols {
                        let at = ((j0 + j) * n.g + g) * n.d;
                        // SAFETY: keys of kv head g are this task's alone.
                        unsafe {
                            std::slice::from_raw_parts_mut(kp.get().add(at), n.d)
                                .copy_from_slice(&dkb[j * n.d..(j + 1) * n.d]);
                            std::slice::from_raw_parts_mut(vp.get().add(at), n.d)
                                .copy_from_slice(&dvb[j * n.d..(j + 1) * n.d]);
                        }
                    }
                }
            }
        }
    });
}

/// One block of keys of one kv head as f32: K transposed [D, cols] and V [cols, D].
struct Block {
    j0: usize,
    cols: usize,
    kt: Vec<f32>,
    v: Vec<f32>,
    k: Vec<f32>,
}

impl Block {
    fn new(n: Dims) -> Block {
        let buf = || vec![0.0; BLOCK * n.d];
        Block { j0: 0, cols: 0, kt: buf(), v: buf(), k: buf() }
    }

    fn load(&mut self, k: &View, v: &View, n: Dims, g: usize, j0: usize, cols: usize) {
        (self.j0, self.cols) = (j0, cols);
        head_rows(k, g, j0, cols, &mut self.k);
        head_rows(v, g, j0, cols, &mut self.v);
        transpose(&self.k, n.d, cols, n.d, &mut self.kt, cols);
    }

    /// Scaled scores of queries t0..t0 + m, masked, into a [m, cols].
    fn scores(&self, q: &[f32], n: Dims, t0: usize, m: usize, a: &mut [f32]) {
        gemm(Into::Store, m, self.cols, n.d, rows(q, n.h * n.d), &self.kt, self.cols, a, self.cols);
        let scale = 1.0 / (n.d as f32).sqrt();
        for r in 0..m {
            let row = &mut a[r * self.cols..(r + 1) * self.cols];
            let seen = (n.s - n.t + t0 + r + 1).saturating_sub(self.j0).min(self.cols);
            row[..seen].iter_mut().for_each(|s| *s *= scale);
            row[seen..].fill(f32::NEG_INFINITY);
        }
    }
}
