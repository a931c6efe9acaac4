//! Chunks under vector decays: a decay per feature, so scores inside a (short) chunk are pairwise.

use super::{Forward, Out, Rows};
use crate::gemm::{self, gemm, rows, transposed};
use crate::host::Host;
use crate::multiversion;
use crate::ops::dsla::Dims;
use crate::ops::dsla::chunk::{Chunk, Linear, States, chunk_len, decay_rows, pairwise, scale_keys, scale_queries};
use crate::par;
use crate::simd::exp;
use crate::vec::{axpy, dot, transpose};

/// Gradients of everything but the window; `d_s`, `d_z` enter as those of the final states and leave as those of the initial.
pub fn backward(x: &Linear, n: Dims, fwd: &Forward, r: &Rows, d_s: &mut [f32], d_z: &mut [f32], out: &Out) {
    let (len, chunks) = (chunk_len(n.e), n.l.div_ceil(chunk_len(n.e)));
    let states = States::forward(x, n, 0, chunks, fwd.s0, fwd.z0);
    let grads = sweep_back(x, n, chunks, fwd, r, d_s, d_z);
    par::for_each(chunks * n.g, |task| {
        let (at, g) = (task / n.g, task % n.g);
        let chunk = Chunk::load(x, n, g, at * len, len.min(n.l - at * len));
        chunk_back(x, n, g, &chunk, at, &states, &grads, fwd, r, out);
    });
    grads.copy_out(n, 0, d_s, d_z);
}

/// u and w [len, D + 1] of head h for the queries that read a chunk.
fn gathered(n: Dims, chunk: &Chunk, fwd: &Forward, r: &Rows, h: usize) -> Host<f32> {
    let mut u = Host::<f32>::scratch(chunk.len * (n.d + 1));
    for (s, u) in u.chunks_exact_mut(n.d + 1).enumerate() {
        let at = (n.lag() + chunk.a + s) * n.h + h;
        r.gather(fwd, at, r.weight(at), u);
    }
    u
}

/// Gradients of the states: index `at` is the gradient of the state before chunk `at`, so the one after it is `at + 1`.
fn sweep_back(x: &Linear, n: Dims, chunks: usize, fwd: &Forward, r: &Rows, ds: &[f32], dz: &[f32]) -> States {
    let (len, size, group, wide) = (chunk_len(n.e), n.f * n.d, n.h / n.g, n.d + 1);
    States::build(n, chunks, |i, g, s, z| {
        let j = i * n.g + g;
        s[chunks * size..].copy_from_slice(&ds[j * size..(j + 1) * size]);
        z[chunks * n.f..].copy_from_slice(&dz[j * n.f..(j + 1) * n.f]);
        let mut scaled = Host::<f32>::scratch(len * n.f);
        for at in (0..chunks).rev() {
            let a = at * len;
            let chunk = Chunk::load(x, n, g, a, len.min(n.l - a));
            s.copy_within((at + 1) * size..(at + 2) * size, at * size);
            z.copy_within((at + 1) * n.f..(at + 2) * n.f, at * n.f);
            let (s, z) = (&mut s[at * size..(at + 1) * size], &mut z[at * n.f..(at + 1) * n.f]);
            decay_rows(s, chunk.last(i, n.e), n.d);
            decay_rows(z, chunk.last(i, n.e), 1);
            let scaled = &mut scaled[..chunk.len * n.f];
            for h in g * group..(g + 1) * group {
                let row = (n.lag() + a) * n.h + h;
                let u = gathered(n, &chunk, fwd, r, h);
                scale_queries(&x.phi_q[row * n.f..], n.h * n.f, &chunk.c[i], x.gamma[i * n.h + h], n.f, n.e, scaled);
                gemm(gemm::Into::Add, n.f, n.d, chunk.len, transposed(scaled, n.f), &u, wide, s, n.d);
                for (q, u) in scaled.chunks_exact(n.f).zip(u.chunks_exact(wide)) {
                    axpy(u[n.d], q, z);
                }
            }
        }
    })
}

fn chunk_back(
    x: &Linear,
    n: Dims,
    g: usize,
    chunk: &Chunk,
    at: usize,
    states: &States,
    grads: &States,
    fwd: &Forward,
    r: &Rows,
    out: &Out,
) {
    let (len, group, f, d, wide) = (chunk.len, n.h / n.g, n.f, n.d, n.d + 1);
    let scratch = Host::<f32>::scratch;
    let (mut vt, mut d_k, mut d_v) = (scratch(d * len), Host::<f32>::zeros(len * f), Host::<f32>::zeros(len * d));
    transpose(&chunk.v, d, len, d, &mut vt, len);
    let mut d_c = [Host::<f32>::zeros(len * f), Host::<f32>::zeros(len * f)];
    let (mut p, mut d_a, mut inter, mut sum) = (scratch(len * len), scratch(len * len), scratch(len * f), scratch(f));
    let mut st = [0, 1].map(|i| {
        let mut t = scratch(d * f);
        transpose(states.s(n, i, g, at), d, f, d, &mut t, f);
        t
    });
    for h in g * group..(g + 1) * group {
        let row = (n.lag() + chunk.a) * n.h + h;
        let (q, ld) = (&x.phi_q[row * f..], n.h * f);
        let gamma = [x.gamma[h], x.gamma[n.h + h]];
        let u = gathered(n, chunk, fwd, r, h);
        let w = |s: usize| u[s * wide + d];
        // SAFETY: query rows of head h inside this chunk belong to this task alone.
        let dq = |s: usize| unsafe { std::slice::from_raw_parts_mut(out.phi_q.get().add((row + s * n.h) * f), f) };
        let mut d_gamma = [0.0f32; 2];
        gemm(gemm::Into::Store, len, len, d, rows(&u, wide), &vt, len, &mut d_a, len);
        for s in 0..len {
            d_a[s * len..s * len + s + 1].iter_mut().for_each(|a| *a += w(s));
            dq(s).fill(0.0);
        }
        if out.dv.is_some() {
            p.fill(0.0);
            for i in 0..2 {
                pairwise(q, ld, &chunk.k, &chunk.c[i], gamma[i], f, &mut p);
            }
            gemm(gemm::Into::Add, len, d, len, transposed(&p, len), &u, wide, &mut d_v, d);
        }
        for i in 0..2 {
            sum.fill(0.0);
            for s in 0..len {
                let (q, d_a) = (&q[s * ld..s * ld + f], &d_a[s * len..]);
                pair_row(s, q, &chunk.k, &chunk.c[i], d_a, gamma[i], dq(s), &mut d_k, &mut d_c[i], &mut sum);
            }
            d_gamma[i] += sum.iter().sum::<f32>();
        }
        // From the states before the chunk.
        for i in 0..2 {
            gemm(gemm::Into::Store, len, f, d, rows(&u, wide), &st[i], f, &mut inter, f);
            for s in 0..len {
                let rowi = &mut inter[s * f..(s + 1) * f];
                axpy(w(s), states.z(n, i, g, at), rowi);
                // inter = S u + z w: its product with the decayed query is this state's share.
                let (c, d_c) = (&chunk.c[i][s * f..(s + 1) * f], &mut d_c[i][s * f..(s + 1) * f]);
                d_gamma[i] += inter_row(&q[s * ld..s * ld + f], c, gamma[i], rowi, dq(s), d_c);
            }
        }
        for s in 0..len {
            // SAFETY: as above.
            unsafe { *out.d_log.get().add(row + s * n.h) = dot(&q[s * ld..s * ld + f], dq(s)) };
        }
        for (i, d_gamma) in d_gamma.into_iter().enumerate() {
            // SAFETY: a chunk has its own sums.
            unsafe { *out.d_gamma.get().add((at * n.h + h) * 2 + i) = d_gamma };
        }
    }
    // Into the states after the chunk.
    let mut scaled = scratch(len * f);
    for i in 0..2 {
        let (ds, dz) = (grads.s(n, i, g, at + 1), grads.z(n, i, g, at + 1));
        let last = chunk.last(i, f);
        if out.dv.is_some() {
            scale_keys(&chunk.k, &chunk.c[i], last, f, f, &mut scaled);
            gemm(gemm::Into::Add, len, d, f, rows(&scaled, f), ds, d, &mut d_v, d);
        }
        transpose(ds, d, f, d, &mut st[i], f);
        gemm(gemm::Into::Store, len, f, d, rows(&chunk.v, d), &st[i], f, &mut inter, f);
        for t in 0..len {
            let rowi = &mut inter[t * f..(t + 1) * f];
            axpy(1.0, dz, rowi);
            let c = &chunk.c[i][t * f..(t + 1) * f];
            for j in 0..f {
                let grad = rowi[j] * ((last[j] - c[j]) as f32).exp();
                d_k[t * f + j] += grad;
                d_c[i][t * f + j] -= grad * chunk.k[t * f + j];
            }
        }
        // The chunk's end carries <S_after, dS_after>.
        let (s1, z1) = (states.s(n, i, g, at + 1), states.z(n, i, g, at + 1));
        for j in 0..f {
            let end = dot(&s1[j * d..(j + 1) * d], &ds[j * d..(j + 1) * d]) + z1[j] * dz[j];
            d_c[i][(len - 1) * f + j] += end;
        }
        for j in 0..f {
            let mut sum = 0.0;
            for t in (0..len).rev() {
                sum += d_c[i][t * f + j];
                // SAFETY: log decays of this (chunk, kv head) are this task's alone.
                unsafe { *out.log_decay.get().add((((chunk.a + t) * 2 + i) * n.g + g) * f + j) = sum };
            }
        }
    }
    for t in 0..len {
        // SAFETY: keys of this (chunk, kv head) are this task's alone.
        unsafe {
            let at = ((chunk.a + t) * n.g + g) * f;
            std::slice::from_raw_parts_mut(out.phi_k.get().add(at), f).copy_from_slice(&d_k[t * f..(t + 1) * f]);
            if let Some(dv) = out.dv {
                let at = ((chunk.a + t) * n.g + g) * d;
                std::slice::from_raw_parts_mut(dv.get().add(at), d).copy_from_slice(&d_v[t * d..(t + 1) * d]);
            }
        }
    }
}

multiversion! {
    /// One query's share from the state before the chunk: dq += gamma e^c x, d_c += q . that; returns q e^c . x.
    fn inter_row<const FMA: bool>(q: &[f32], c: &[f64], gamma: f32, x: &[f32], dq: &mut [f32], d_c: &mut [f32]) -> f32 {
        let mut total = 0.0;
        for j in 0..q.len() {
            let grad = exp::<FMA>(c[j] as f32) * x[j];
            dq[j] += gamma * grad;
            d_c[j] += gamma * grad * q[j];
            total += grad * q[j];
        }
        total
    }
}

multiversion! {
    /// One query row against the keys of its own short chunk.
    fn pair_row<const FMA: bool>(s: usize, q: &[f32], k: &[f32], c: &[f64], d_a: &[f32], gamma: f32, dq: &mut [f32], d_k: &mut [f32], d_c: &mut [f32], sum: &mut [f32]) {
        let f = q.len();
        for t in 0..=s {
            for j in 0..f {
                let decay = exp::<FMA>((c[s * f + j] - c[t * f + j]) as f32) * d_a[t];
                let (k, dk) = (k[t * f + j], &mut d_k[t * f + j]);
                dq[j] += gamma * decay * k;
                *dk += gamma * decay * q[j];
                let both = decay * k * q[j];
                sum[j] += both;
                d_c[s * f + j] += gamma * both;
                d_c[t * f + j] -= gamma * both;
            }
        }
    }
}
