//! Heads by blocks of tokens in parallel; one small matrix product per block.

use crate::View;
use crate::gemm::{Into, gemm, rows, transposed};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::vec::{dot, exp_sub_sum, head_rows, max, transpose};

/// Tokens per block.
const BLOCK: usize = 64;

pub fn forward(u: View, w: &[f32], y: &mut [f32], [t, h, d]: [usize; 3]) {
    let blocks = t.div_ceil(BLOCK);
    let out = SendPtr(y.as_mut_ptr());
    let block = |task: usize| {
        let (head, t0) = (task % h, task / h * BLOCK);
        let m = BLOCK.min(t - t0);
        let (mut x, mut z) = (Host::<f32>::scratch(m * d), Host::<f32>::scratch(m * d));
        head_rows(&u, head, t0, m, &mut x);
        gemm(Into::Store, m, d, d, rows(&x, d), &w[head * d * d..(head + 1) * d * d], d, &mut z, d);
        for r in 0..m {
            // SAFETY: (token, head) rows belong to this (block, head) task alone.
            let y = unsafe { std::slice::from_raw_parts_mut(out.get().add(((t0 + r) * h + head) * 2 * d), 2 * d) };
            let (plus, minus) = y.split_at_mut(d);
            plus.copy_from_slice(&z[r * d..(r + 1) * d]);
            minus.iter_mut().zip(&*plus).for_each(|(m, p)| *m = -p);
            for half in [plus, minus] {
                let peak = max(half);
                let inv = 1.0 / exp_sub_sum(half, peak);
                half.iter_mut().for_each(|v| *v *= inv);
            }
        }
    };
    // A few tokens are not worth waking the pool.
    if blocks == 1 && t < 8 { (0..h).for_each(block) } else { par::for_each(blocks * h, block) }
}

pub fn backward(u: View, w: &[f32], y: &[f32], dy: &[f32], dw: &mut [f32], du: Option<&mut [f32]>, [t, h, d]: [usize; 3]) {
    let dup = du.map(|x| SendPtr(x.as_mut_ptr()));
    par::for_each_chunk(dw, d * d, |head, dw| {
        let mut wt = vec![0.0; if dup.is_some() { d * d } else { 0 }];
        if dup.is_some() {
            transpose(&w[head * d * d..(head + 1) * d * d], d, d, d, &mut wt, d);
        }
        for t0 in (0..t).step_by(BLOCK) {
            let m = BLOCK.min(t - t0);
            let (mut x, mut dz) = (vec![0.0; m * d], vec![0.0; m * d]);
            head_rows(&u, head, t0, m, &mut x);
            for r in 0..m {
                let at = ((t0 + r) * h + head) * 2 * d;
                let (p, dp) = (&y[at..at + d], &dy[at..at + d]);
                let (n, dn) = (&y[at + d..at + 2 * d], &dy[at + d..at + 2 * d]);
                let (kp, kn) = (dot(p, dp), dot(n, dn));
                for j in 0..d {
                    dz[r * d + j] = p[j] * (dp[j] - kp) - n[j] * (dn[j] - kn);
                }
            }
            gemm(Into::Add, d, d, m, transposed(&x, d), &dz, d, dw, d);
            if let Some(du) = dup {
                // SAFETY: rows of this head are this task's alone.
                let du = unsafe { std::slice::from_raw_parts_mut(du.get().add((t0 * h + head) * d), (m - 1) * h * d + d) };
                gemm(Into::Store, m, d, d, rows(&dz, d), &wt, d, du, h * d);
            }
        }
    });
}
