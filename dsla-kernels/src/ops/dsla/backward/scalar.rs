//! Chunks under scalar decays, as matrix products over all heads of a kv head at once.
//!
//! The normaliser is one more column of values, all ones, and w one more column of u: states are [D + 1, F] here (transposed,
//! z their last row), and every sum over u and v has the normaliser's part in it.

use super::sweep::{Borders, Queries, sweep};
use super::{Forward, Out, Rows};
use crate::gemm::{Into, gemm, panels, product_panels, rows, transposed};
use crate::host::Host;
use crate::multiversion;
use crate::ops::dsla::Dims;
use crate::ops::dsla::chunk::{CHUNK, Linear, decay_matrix};
use crate::ops::dsla::keys::{BLOCK, Keys};
use crate::par;
use crate::simd::lanes::tree;
use crate::simd::madd;
use crate::vec::{dot, dot_lanes};

/// Gradients of everything but the window; `d_s`, `d_z` enter as those of the final states and leave as those of the initial.
pub fn backward(x: &Linear, n: Dims, fwd: &Forward, r: &Rows, d_s: &mut [f32], d_z: &mut [f32], out: &Out) {
    let chunks = n.l.div_ceil(CHUNK);
    let [states, grads] = sweep(x, n, fwd, r, d_s, d_z, chunks);
    par::for_each(chunks * n.g, |task| {
        let (at, g) = (task / n.g, task % n.g);
        let keys = Keys::load(x, n, g, at);
        let queries = Queries::load(x, n, fwd, r, g, &keys);
        chunk_back(x, n, g, at, &keys, queries, [&states, &grads], out);
    });
    grads.unpack(n, 0, d_s, d_z);
}

fn chunk_back(x: &Linear, n: Dims, g: usize, at: usize, keys: &Keys, queries: Queries, [states, grads]: [&Borders; 2], out: &Out) {
    let (len, ld, group, f, wide) = (keys.len, keys.ld, n.h / n.g, n.f, n.d + 1);
    let padded = len.next_multiple_of(16);
    let scratch = Host::<f32>::scratch;
    let (mut kt, mut vt) = (scratch(padded * f), scratch(padded * wide));
    panels(&keys.k, ld, len, f, &mut kt);
    panels(&keys.v, wide, len, wide, &mut vt);
    let e = [0, 1].map(|i| {
        let mut e = Host::<f32>::zeros(len * padded);
        decay_matrix(&keys.c[i], &mut e, padded);
        e
    });
    let (mut d_k, mut d_v) = (Host::<f32>::zeros(len * ld), Host::<f32>::zeros(len * n.d));
    let mut d_c = [[0.0f32; CHUNK]; 2];
    let tall = group * BLOCK;
    let (mut d_a, mut p, mut d_q) = (scratch(tall * padded), scratch(tall * padded), scratch(tall * f));
    let mut inter = [scratch(tall * f), scratch(tall * f)];
    let mut near = vec![[0.0f32; 2]; tall];
    for s0 in (0..len).step_by(BLOCK) {
        let m = BLOCK.min(len - s0);
        let (height, cols) = (group * m, len.min(s0 + BLOCK));
        let across = cols.next_multiple_of(16);
        let (q, u) = (&queries.q[group * s0 * ld..], &queries.u[group * s0 * wide..]);
        product_panels(Into::Store, height, across, wide, rows(u, wide), &vt, &mut d_a, padded);
        product_panels(Into::Store, height, across, f, rows(q, ld), &kt, &mut p, padded);
        for i in 0..group {
            let (gamma, span) = ([0, 1].map(|state| x.gamma[state * n.h + g * group + i]), i * m * padded..(i + 1) * m * padded);
            let e = [&e[0][s0 * padded..], &e[1][s0 * padded..]];
            inside(&mut p[span.clone()], &mut d_a[span], e, padded, across, gamma, &mut near[i * m..(i + 1) * m], &mut d_c);
        }
        gemm(Into::Store, height, f, cols, rows(&d_a, padded), &keys.k, ld, &mut d_q, f);
        gemm(Into::Add, cols, f, height, transposed(&d_a, padded), q, ld, &mut d_k, ld);
        if out.dv.is_some() {
            gemm(Into::Add, cols, n.d, height, transposed(&p, padded), u, wide, &mut d_v, n.d);
        }
        for i in 0..2 {
            product_panels(Into::Store, height, f, wide, rows(u, wide), states.state(n, i, g, at), &mut inter[i], f);
        }
        for row in 0..height {
            let (s, head) = (s0 + row % m, row / m);
            let (h, place) = (g * group + head, queries.first + s * n.h + head);
            let gamma = [x.gamma[h], x.gamma[n.h + h]];
            let reach = [keys.reach[0][s], keys.reach[1][s]];
            // SAFETY: rows of heads of g inside this chunk belong to this task alone.
            let to = unsafe { std::slice::from_raw_parts_mut(out.phi_q.get().add(place * f), f) };
            to.copy_from_slice(&d_q[row * f..(row + 1) * f]);
            let far = [&inter[0][row * f..(row + 1) * f], &inter[1][row * f..(row + 1) * f]];
            let read = from_states(&q[row * ld..][..f], far, [gamma[0] * reach[0], gamma[1] * reach[1]], to);
            let mut d_log = 0.0;
            for i in 0..2 {
                let d_gamma = near[row][i] + reach[i] * read[i];
                d_c[i][s] += gamma[i] * d_gamma;
                d_log += gamma[i] * d_gamma;
                // SAFETY: as above; a chunk has its own sums.
                unsafe { *out.d_gamma.get().add((at * n.h + h) * 2 + i) += d_gamma };
            }
            // SAFETY: as above.
            unsafe { *out.d_log.get().add(place) = d_log };
        }
    }
    into_states(n, g, at, keys, &kt, &mut d_k, out.dv.map(|_| &mut d_v), &mut d_c, [states, grads]);
    for i in 0..2 {
        // The chunk's end carries <S_after, dS_after>.
        let mut sum = dot(states.state(n, i, g, at + 1), grads.state(n, i, g, at + 1));
        for t in (0..len).rev() {
            sum += d_c[i][t];
            // SAFETY: log decays of this (chunk, kv head) are this task's alone.
            unsafe { *out.log_decay.get().add(((keys.a + t) * 2 + i) * n.g + g) = sum };
        }
    }
    for t in 0..len {
        let key = (keys.a + t) * n.g + g;
        // SAFETY: keys of this (chunk, kv head) are this task's alone.
        unsafe {
            std::slice::from_raw_parts_mut(out.phi_k.get().add(key * f), f).copy_from_slice(&d_k[t * ld..][..f]);
            if let Some(dv) = out.dv {
                let from = &d_v[t * n.d..(t + 1) * n.d];
                std::slice::from_raw_parts_mut(dv.get().add(key * n.d), n.d).copy_from_slice(from);
            }
        }
    }
}

/// What the chunk's keys and values wrote into the states after it.
fn into_states(
    n: Dims,
    g: usize,
    at: usize,
    keys: &Keys,
    kt: &[f32],
    d_k: &mut [f32],
    d_v: Option<&mut Host<f32>>,
    d_c: &mut [[f32; CHUNK]; 2],
    [_, grads]: [&Borders; 2],
) {
    let (len, f, wide) = (keys.len, n.f, n.d + 1);
    let mut written = Host::<f32>::scratch(len * f);
    for i in 0..2 {
        product_panels(Into::Store, len, f, wide, rows(&keys.v, wide), grads.state(n, i, g, at + 1), &mut written, f);
        for t in 0..len {
            let (k, to) = (&keys.k[t * keys.ld..][..f], &mut d_k[t * keys.ld..][..f]);
            d_c[i][t] -= keys.keep[i][t] * add_and_dot(&written[t * f..(t + 1) * f], keys.keep[i][t], k, to);
        }
    }
    let Some(d_v) = d_v else { return };
    // (dS phi_k) transposed [D, len]: the transposed state times the transposed keys, panel by panel along F.
    let padded = len.next_multiple_of(16);
    let mut values = Host::<f32>::scratch(n.d * padded);
    for i in 0..2 {
        let state = grads.state(n, i, g, at + 1);
        for (j, panel) in state.chunks_exact(wide * 16).enumerate() {
            let depth = 16.min(f - j * 16);
            for (c, kt) in kt.chunks_exact(f * 16).enumerate() {
                let into = if j == 0 { Into::Store } else { Into::Add };
                gemm(into, n.d, 16, depth, rows(panel, 16), &kt[j * 256..], 16, &mut values[c * 16..], padded);
            }
        }
        for t in 0..len {
            for d in 0..n.d {
                d_v[t * n.d + d] += keys.keep[i][t] * values[d * padded + t];
            }
        }
    }
}

multiversion! {
    /// One head's rows of a block, `across` columns of rows `ld` apart; p = phi_q phi_k^T and d_a on entry. p becomes the
    /// weights, d_a the gradient of p; `sums` [rows]: of d_a p e_i over a row; d_c loses gamma_i times those over a column.
    fn inside<const FMA: bool>(p: &mut [f32], d_a: &mut [f32], e: [&[f32]; 2], ld: usize, across: usize, gamma: [f32; 2], sums: &mut [[f32; 2]], d_c: &mut [[f32; CHUNK]; 2]) {
        let rows = p.chunks_exact_mut(ld).zip(d_a.chunks_exact_mut(ld)).zip(e[0].chunks_exact(ld).zip(e[1].chunks_exact(ld)));
        let [c0, c1] = d_c;
        for (((p, d_a), (e0, e1)), sum) in rows.zip(sums) {
            let (mut l0, mut l1) = ([0.0f32; 16], [0.0f32; 16]);
            for j in (0..across).step_by(16) {
                let (p, d_a) = (&mut p[j..j + 16], &mut d_a[j..j + 16]);
                let (e0, e1, c0, c1) = (&e0[j..j + 16], &e1[j..j + 16], &mut c0[j..j + 16], &mut c1[j..j + 16]);
                for l in 0..16 {
                    let decay = madd::<FMA>(gamma[0], e0[l], gamma[1] * e1[l]);
                    let both = p[l] * d_a[l];
                    let (m0, m1) = (both * e0[l], both * e1[l]);
                    l0[l] += m0;
                    l1[l] += m1;
                    c0[l] = madd::<FMA>(-gamma[0], m0, c0[l]);
                    c1[l] = madd::<FMA>(-gamma[1], m1, c1[l]);
                    p[l] *= decay;
                    d_a[l] *= decay;
                }
            }
            *sum = [tree(l0), tree(l1)];
        }
    }
}

multiversion! {
    /// to += by_0 x_0 + by_1 x_1; returns q . x_0 and q . x_1.
    fn from_states<const FMA: bool>(q: &[f32], x: [&[f32]; 2], by: [f32; 2], to: &mut [f32]) -> [f32; 2] {
        for ((o, x0), x1) in to.iter_mut().zip(x[0]).zip(x[1]) {
            *o = madd::<FMA>(by[0], *x0, madd::<FMA>(by[1], *x1, *o));
        }
        [dot_lanes::<FMA>(q, x[0]), dot_lanes::<FMA>(q, x[1])]
    }
}

multiversion! {
    /// to += by x; returns k . x.
    fn add_and_dot<const FMA: bool>(x: &[f32], by: f32, k: &[f32], to: &mut [f32]) -> f32 {
        to.iter_mut().zip(x).for_each(|(o, x)| *o = madd::<FMA>(by, *x, *o));
        dot_lanes::<FMA>(k, x)
    }
}
