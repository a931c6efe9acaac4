//! Heads by blocks of tokens in parallel; one small matrix product per block.

use crate::gemm::{Into, gemm, rows, transposed};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::simd::lanes::tree;
use crate::simd::{exp_fall, madd};
use crate::vec::{axpy, dot_lanes, head_rows, transpose};
use crate::{View, multiversion};

/// Tokens per block.
const BLOCK: usize = 64;
/// Tokens per task of the backward pass: each has a sum of its own for dw.
const RUN: usize = 512;

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
            both_signs(&z[r * d..(r + 1) * d], y);
        }
    };
    // A few tokens are not worth waking the pool.
    if blocks == 1 && t < 8 { (0..h).for_each(block) } else { par::for_each(blocks * h, block) }
}

multiversion! {
    /// y = [softmax(z), softmax(-z)].
    fn both_signs<const FMA: bool>(z: &[f32], y: &mut [f32]) {
        let (mut most, mut least) = ([f32::NEG_INFINITY; 16], [f32::INFINITY; 16]);
        let chunks = z.chunks_exact(16);
        for (l, &z) in chunks.remainder().iter().enumerate() {
            (most[l], least[l]) = (z, z);
        }
        for z in chunks {
            for l in 0..16 {
                most[l] = if z[l] > most[l] { z[l] } else { most[l] };
                least[l] = if z[l] < least[l] { z[l] } else { least[l] };
            }
        }
        let most = most.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        let least = least.iter().fold(f32::INFINITY, |m, &v| if v < m { v } else { m });
        let (plus, minus) = y.split_at_mut(z.len());
        for (half, sign, peak) in [(plus, 1.0, most), (minus, -1.0, -least)] {
            let mut lanes = [0.0f32; 16];
            let (mut hc, zc) = (half.chunks_exact_mut(16), z.chunks_exact(16));
            let tail = zc.remainder();
            for (h, z) in (&mut hc).zip(zc) {
                for l in 0..16 {
                    h[l] = exp_fall::<FMA>(madd::<FMA>(sign, z[l], -peak));
                    lanes[l] += h[l];
                }
            }
            let mut sum = tree(lanes);
            for (h, z) in hc.into_remainder().iter_mut().zip(tail) {
                *h = exp_fall::<FMA>(madd::<FMA>(sign, *z, -peak));
                sum += *h;
            }
            let inv = 1.0 / sum;
            half.iter_mut().for_each(|v| *v *= inv);
        }
    }
}

pub fn backward(u: View, w: &[f32], y: &[f32], dy: &[f32], dw: &mut [f32], du: Option<&mut [f32]>, [t, h, d]: [usize; 3]) {
    let runs = t.div_ceil(RUN);
    // Per run and head its part of dw, added in order afterwards.
    let mut parts = Host::<f32>::zeros(runs * h * d * d);
    let (dup, pp) = (du.map(|x| SendPtr(x.as_mut_ptr())), SendPtr(parts.as_mut_ptr()));
    par::for_each(runs * h, |task| {
        let (run, head) = (task / h, task % h);
        // SAFETY: (run, head) has its own part.
        let part = unsafe { std::slice::from_raw_parts_mut(pp.get().add(task * d * d), d * d) };
        let mut wt = Host::<f32>::scratch(if dup.is_some() { d * d } else { 0 });
        if dup.is_some() {
            transpose(&w[head * d * d..(head + 1) * d * d], d, d, d, &mut wt, d);
        }
        for t0 in (run * RUN..t.min((run + 1) * RUN)).step_by(BLOCK) {
            let m = BLOCK.min(t - t0);
            let (mut x, mut dz) = (Host::<f32>::scratch(m * d), Host::<f32>::scratch(m * d));
            head_rows(&u, head, t0, m, &mut x);
            for (r, dz) in dz.chunks_exact_mut(d.max(1)).enumerate() {
                let at = ((t0 + r) * h + head) * 2 * d;
                softmax_back(&y[at..at + 2 * d], &dy[at..at + 2 * d], dz);
            }
            gemm(Into::Add, d, d, m, transposed(&x, d), &dz, d, part, d);
            if let Some(du) = dup {
                // SAFETY: rows of this (run, head) are this task's alone.
                let du = unsafe { std::slice::from_raw_parts_mut(du.get().add((t0 * h + head) * d), (m - 1) * h * d + d) };
                gemm(Into::Store, m, d, d, rows(&dz, d), &wt, d, du, h * d);
            }
        }
    });
    par::for_each_chunk(dw, d * d, |head, dw| {
        for run in 0..runs {
            axpy(1.0, &parts[(run * h + head) * d * d..][..d * d], dw);
        }
    });
}

multiversion! {
    /// dz of both halves' softmaxes, the second of which is of -z.
    fn softmax_back<const FMA: bool>(y: &[f32], dy: &[f32], dz: &mut [f32]) {
        let d = dz.len();
        let ((p, n), (dp, dn)) = (y.split_at(d), dy.split_at(d));
        let (kp, kn) = (dot_lanes::<FMA>(p, dp), dot_lanes::<FMA>(n, dn));
        for ((((dz, p), dp), n), dn) in dz.iter_mut().zip(p).zip(dp).zip(n).zip(dn) {
            *dz = p * (dp - kp) - n * (dn - kn);
        }
    }
}
