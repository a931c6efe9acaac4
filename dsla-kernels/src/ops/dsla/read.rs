//! What the queries of one chunk read: its keys as far as they see them, and the states before it.

use super::Dims;
use super::chunk::{Chunk, Linear, States, chunk_len, decay_matrix, pairwise, scale_queries};
use super::keys::{BLOCK, Keys, PAD};
use crate::gemm::{self, gemm, panels, product_panels, rows};
use crate::host::Host;
use crate::multiversion;
use crate::par::SendPtr;
use crate::simd::lanes::tree;
use crate::simd::madd;
use crate::vec::{axpy, dot};

/// num [T, H, D] and den [T, H], written where a query reads a chunk.
#[derive(Clone, Copy)]
pub struct Into {
    pub out: SendPtr<f32>,
    pub den: SendPtr<f32>,
}

impl Into {
    /// # Safety
    /// (query, head) `row` must be this caller's alone.
    pub unsafe fn put(self, row: usize, num: &[f32], den: f32) {
        // SAFETY: the caller's.
        unsafe {
            std::slice::from_raw_parts_mut(self.out.get().add(row * num.len()), num.len()).copy_from_slice(num);
            *self.den.get().add(row) = den;
        }
    }
}

/// All heads of kv head g against chunk `number`, number `at` of the run whose states are given. The rows are the caller's alone.
pub fn chunk(x: &Linear, n: Dims, g: usize, number: usize, states: &States, at: usize, into: Into) {
    if n.e == 1 {
        return scalar(x, n, g, &Keys::load(x, n, g, number), states, at, into);
    }
    let a = number * chunk_len(n.e);
    vector(x, n, g, &Chunk::load(x, n, g, a, chunk_len(n.e).min(n.l - a)), states, at, into)
}

/// Scalar decays: one product serves both states inside the chunk, and a state's decay scales what a row reads.
fn scalar(x: &Linear, n: Dims, g: usize, keys: &Keys, states: &States, at: usize, into: Into) {
    let (len, ld, group, wide) = (keys.len, keys.ld, n.h / n.g, n.d + 1);
    let (padded, far) = (len.next_multiple_of(16), n.d + PAD);
    let scratch = Host::<f32>::scratch;
    let mut kt = scratch(padded * n.f);
    panels(&keys.k, ld, len, n.f, &mut kt);
    let e = [0, 1].map(|i| {
        let mut e = Host::<f32>::zeros(len * padded);
        decay_matrix(&keys.c[i], &mut e, padded);
        e
    });
    let s = [0, 1].map(|i| {
        let mut s = scratch(n.f * far);
        let rows = states.s(n, i, g, at).chunks_exact(n.d.max(1));
        s.chunks_exact_mut(far).zip(rows).for_each(|(to, s)| to[..n.d].copy_from_slice(s));
        s
    });
    let tall = group * BLOCK;
    let (mut q, mut p, mut num) = (scratch(tall * ld), scratch(tall * padded), scratch(tall * n.d));
    let mut read = [scratch(tall * n.d), scratch(tall * n.d)];
    let mut sums = vec![0.0f32; tall];
    let first = (n.lag() + keys.a) * n.h + g * group;
    for s0 in (0..len).step_by(BLOCK) {
        let m = BLOCK.min(len - s0);
        let (height, cols) = (group * m, len.min(s0 + BLOCK));
        let across = cols.next_multiple_of(16);
        // Rows (head, query).
        let place = |row: usize| first + (s0 + row % m) * n.h + row / m;
        for (row, q) in q.chunks_exact_mut(ld).take(height).enumerate() {
            q[..n.f].copy_from_slice(&x.phi_q[place(row) * n.f..][..n.f]);
        }
        product_panels(gemm::Into::Store, height, across, n.f, rows(&q, ld), &kt, &mut p, padded);
        for i in 0..group {
            let gamma = [0, 1].map(|state| x.gamma[state * n.h + g * group + i]);
            let e = [&e[0][s0 * padded..], &e[1][s0 * padded..]];
            let of = i * m..(i + 1) * m;
            decay_scores(&mut p[of.start * padded..of.end * padded], e, padded, across, gamma, &mut sums[of]);
        }
        gemm(gemm::Into::Store, height, n.d, cols, rows(&p, padded), &keys.v, wide, &mut num, n.d);
        for (s, read) in s.iter().zip(&mut read) {
            gemm(gemm::Into::Store, height, n.d, n.f, rows(&q, ld), s, far, read, n.d);
        }
        for row in 0..height {
            let (h, num) = (g * group + row / m, &mut num[row * n.d..][..n.d]);
            for i in 0..2 {
                let weight = x.gamma[i * n.h + h] * keys.reach[i][s0 + row % m];
                axpy(weight, &read[i][row * n.d..][..n.d], num);
                sums[row] += weight * dot(&q[row * ld..][..n.f], states.z(n, i, g, at));
            }
            // SAFETY: the caller's.
            unsafe { into.put(place(row), num, sums[row]) };
        }
    }
}

multiversion! {
    /// One head's rows of a block, `across` columns of rows `ld` apart: p *= gamma_1 e_1 + gamma_2 e_2, and its rows' sums.
    fn decay_scores<const FMA: bool>(p: &mut [f32], e: [&[f32]; 2], ld: usize, across: usize, gamma: [f32; 2], sums: &mut [f32]) {
        let rows = p.chunks_exact_mut(ld).zip(e[0].chunks_exact(ld).zip(e[1].chunks_exact(ld)));
        for ((p, (e0, e1)), sum) in rows.zip(sums) {
            let mut lanes = [0.0f32; 16];
            for j in (0..across).step_by(16) {
                let (p, e0, e1) = (&mut p[j..j + 16], &e0[j..j + 16], &e1[j..j + 16]);
                for l in 0..16 {
                    p[l] *= madd::<FMA>(gamma[0], e0[l], gamma[1] * e1[l]);
                    lanes[l] += p[l];
                }
            }
            *sum = tree(lanes);
        }
    }
}

/// Vector decays: scores pair by pair, queries scaled by their decay.
fn vector(x: &Linear, n: Dims, g: usize, chunk: &Chunk, states: &States, at: usize, into: Into) {
    let (len, group) = (chunk.len, n.h / n.g);
    let scratch = Host::<f32>::scratch;
    let (mut a, mut num, mut scaled) = (scratch(len * len), scratch(len * n.d), scratch(len * n.f));
    for h in g * group..(g + 1) * group {
        let first = (n.lag() + chunk.a) * n.h + h;
        let (q, ld) = (&x.phi_q[first * n.f..], n.h * n.f);
        a.fill(0.0);
        for i in 0..2 {
            pairwise(q, ld, &chunk.k, &chunk.c[i], x.gamma[i * n.h + h], n.f, &mut a);
        }
        gemm(gemm::Into::Store, len, n.d, len, rows(&a, len), &chunk.v, n.d, &mut num, n.d);
        let mut sums: Vec<f32> = a.chunks_exact(len).map(|row| row.iter().sum()).collect();
        for i in 0..2 {
            scale_queries(q, ld, &chunk.c[i], x.gamma[i * n.h + h], n.f, n.e, &mut scaled);
            gemm(gemm::Into::Add, len, n.d, n.f, rows(&scaled, n.f), states.s(n, i, g, at), n.d, &mut num, n.d);
            for (sum, row) in sums.iter_mut().zip(scaled.chunks_exact(n.f)) {
                *sum += dot(row, states.z(n, i, g, at));
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { into.put(first + r * n.h, &num[r * n.d..(r + 1) * n.d], sum) };
        }
    }
}
