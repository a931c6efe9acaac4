//! The backward pass: states swept forward, their gradients swept backward, then every chunk and tile in parallel.
//!
//! With u = weight * d_num and w = weight * d_den per query, the weight of key t for query s has gradient
//! dA[s, t] = u_s . v_t + w_s. The gradient of the cumulative log decay c is
//! `phi_q . d_phi_q - phi_k . d_phi_k` per token and state plus `<S, dS>` at a chunk's end, so the gates need no
//! kernel of their own: d log_decay is its reverse cumulative sum inside the chunk.

use super::chunk::{Chunk, Linear, States, chunk_len, scale_keys, scale_queries};
use super::cpu::{Scores, Tile, f32s, linear, log_weight};
use super::{Args, Dims, Normalizer};
use crate::gemm::{self, gemm, rows, transposed};
use crate::multiversion;
use crate::par::{self, SendPtr};
use crate::simd::exp;
use crate::vec::{axpy, dot, transpose};

pub struct Forward<'a> {
    pub s0: &'a [f32],
    pub z0: &'a [f32],
    pub den: &'a [f32],
    pub peak: &'a [f32],
    pub out: &'a [f32],
    pub d_out: &'a [f32],
}

pub struct Into<'a> {
    pub phi_q: &'a mut [f32],
    pub phi_k: &'a mut [f32],
    pub log_decay: &'a mut [f32],
    pub gamma: &'a mut [f32],
    pub mix: &'a mut [f32],
    pub slope: &'a mut [f32],
    pub s: &'a mut [f32],
    pub z: &'a mut [f32],
    pub qkv: Option<[&'a mut [f32]; 5]>,
}

/// Gradients of num and den per (query, head) row, and the same times the states' weight.
struct Rows {
    d_num: Vec<f32>,
    d_den: Vec<f32>,
    u: Vec<f32>,
    w: Vec<f32>,
}

fn gradient_rows(x: &Args, n: Dims, fwd: &Forward) -> Rows {
    let count = n.t * n.h;
    let mut r = Rows { d_num: vec![0.0; count * n.d], d_den: vec![0.0; count], u: vec![0.0; count * n.d], w: vec![0.0; count] };
    let (mix, slope) = (f32s(&x.mix), f32s(&x.slope));
    for at in 0..count {
        let span = at * n.d..(at + 1) * n.d;
        let (o, d_o) = (&fwd.out[span.clone()], &fwd.d_out[span.clone()]);
        let inv = 1.0 / fwd.den[at];
        let along = dot(o, d_o);
        let d_num = &mut r.d_num[span.clone()];
        match x.normalizer {
            Normalizer::None => d_num.copy_from_slice(d_o),
            Normalizer::Sum => {
                d_num.iter_mut().zip(d_o).for_each(|(d, g)| *d = g * inv);
                r.d_den[at] = -along * inv;
            }
            Normalizer::Rms => {
                let k = along / n.d as f32;
                d_num.iter_mut().zip(d_o).zip(o).for_each(|((d, g), o)| *d = (g - o * k) * inv);
            }
        }
        let weight = if n.w > 0 { log_weight(mix[at % n.h], slope[at % n.h], fwd.peak[at]).exp() } else { 1.0 };
        r.w[at] = r.d_den[at] * weight;
        r.u[span].iter_mut().zip(&*d_num).for_each(|(u, d)| *u = d * weight);
    }
    r
}

pub fn backward(x: &Args, n: Dims, fwd: Forward, into: Into) {
    let lin = linear(x);
    let rows = gradient_rows(x, n, &fwd);
    into.phi_q.fill(0.0);
    let mut qkv = into.qkv;
    if let Some(qkv) = &mut qkv {
        qkv.iter_mut().for_each(|x| x.fill(0.0));
    }
    let chunks = n.l.div_ceil(chunk_len(n.e));
    let states = States::forward(&lin, n, 0, chunks, fwd.s0, fwd.z0);
    let grads = sweep_back(&lin, n, chunks, &rows, into.s, into.z);
    let shared = Shared {
        phi_q: SendPtr(into.phi_q.as_mut_ptr()),
        phi_k: SendPtr(into.phi_k.as_mut_ptr()),
        log_decay: SendPtr(into.log_decay.as_mut_ptr()),
        dv: qkv.as_mut().map(|q| SendPtr(q[2].as_mut_ptr())),
    };
    // Per chunk and head: d gamma (two), summed in order afterwards.
    let mut d_gamma = vec![0.0f32; chunks * n.h * 2];
    let gp = SendPtr(d_gamma.as_mut_ptr());
    par::for_each(chunks * n.g, |task| {
        let (at, g) = (task / n.g, task % n.g);
        let a = at * chunk_len(n.e);
        let chunk = Chunk::load(&lin, n, g, a, chunk_len(n.e).min(n.l - a));
        let group = n.h / n.g;
        // SAFETY: (chunk, heads of g) is this task's alone.
        let d_gamma = unsafe { std::slice::from_raw_parts_mut(gp.get().add((at * n.h + g * group) * 2), group * 2) };
        chunk_back(&lin, n, g, &chunk, at, &states, &grads, &rows, &shared, d_gamma);
    });
    for c in d_gamma.chunks_exact(n.h * 2) {
        for h in 0..n.h {
            into.gamma[h] += c[2 * h];
            into.gamma[n.h + h] += c[2 * h + 1];
        }
    }
    grads.copy_out(n, 0, into.s, into.z);
    if n.w == 0 {
        return;
    }
    // d log weight of a row is its whole linear part: phi_q . d_phi_q.
    let d_log: Vec<f32> = lin.phi_q.chunks_exact(n.f).zip(into.phi_q.chunks_exact(n.f)).map(|(a, b)| dot(a, b)).collect();
    let (mix, slope) = (f32s(&x.mix), f32s(&x.slope));
    for at in 0..n.t * n.h {
        let h = at % n.h;
        if (mix[h] - slope[h] * fwd.peak[at]).abs() < super::cpu::LOG_WEIGHT as f32 {
            into.mix[h] += d_log[at];
            into.slope[h] -= fwd.peak[at] * d_log[at];
        }
    }
    if let Some(qkv) = qkv {
        window_back(x, n, &fwd, &rows, &d_log, qkv);
    }
}

struct Shared {
    phi_q: SendPtr<f32>,
    phi_k: SendPtr<f32>,
    log_decay: SendPtr<f32>,
    dv: Option<SendPtr<f32>>,
}

/// Gradients of the states after each chunk: index `at` of the result is the gradient of the state before chunk
/// `at`, so the one after it is `at + 1`.
fn sweep_back(x: &Linear, n: Dims, chunks: usize, r: &Rows, ds: &[f32], dz: &[f32]) -> States {
    let (len, size, group) = (chunk_len(n.e), n.f * n.d, n.h / n.g);
    States::build(n, chunks, |i, g, s, z| {
        let j = i * n.g + g;
        s[chunks * size..].copy_from_slice(&ds[j * size..(j + 1) * size]);
        z[chunks * n.f..].copy_from_slice(&dz[j * n.f..(j + 1) * n.f]);
        let mut scaled = vec![0.0; len * n.f];
        for at in (0..chunks).rev() {
            let a = at * len;
            let chunk = Chunk::load(x, n, g, a, len.min(n.l - a));
            s.copy_within((at + 1) * size..(at + 2) * size, at * size);
            z.copy_within((at + 1) * n.f..(at + 2) * n.f, at * n.f);
            let (s, z) = (&mut s[at * size..(at + 1) * size], &mut z[at * n.f..(at + 1) * n.f]);
            super::chunk::decay_rows(s, chunk.last(i, n.e), n.d);
            super::chunk::decay_rows(z, chunk.last(i, n.e), 1);
            let scaled = &mut scaled[..chunk.len * n.f];
            for h in g * group..(g + 1) * group {
                let row = (n.lag() + a) * n.h + h;
                scale_queries(&x.phi_q[row * n.f..], n.h * n.f, &chunk.c[i], x.gamma[i * n.h + h], n.f, n.e, scaled);
                let u = &r.u[row * n.d..];
                gemm(gemm::Into::Add, n.f, n.d, chunk.len, transposed(scaled, n.f), u, n.h * n.d, s, n.d);
                for (q, row) in scaled.chunks_exact(n.f).zip((0..chunk.len).map(|t| row + t * n.h)) {
                    axpy(r.w[row], q, z);
                }
            }
        }
    })
}

fn chunk_back(x: &Linear, n: Dims, g: usize, chunk: &Chunk, at: usize, states: &States, grads: &States, r: &Rows, out: &Shared, d_gamma: &mut [f32]) {
    let (len, group, f, d, e) = (chunk.len, n.h / n.g, n.f, n.d, n.e);
    let scores = Scores::new(n, chunk);
    let mut vt = vec![0.0; d * len];
    transpose(&chunk.v, d, len, d, &mut vt, len);
    let mut d_k = vec![0.0; len * f];
    let mut d_v = vec![0.0; len * d];
    let mut d_c = [vec![0.0; len * e], vec![0.0; len * e]];
    let (mut p, mut d_a, mut d_p) = (vec![0.0; len * len], vec![0.0; len * len], vec![0.0; len * len]);
    let mut inter = vec![0.0; len * f];
    let mut st: [Vec<f32>; 2] = [0, 1].map(|i| {
        let mut t = vec![0.0; d * f];
        transpose(states.s(n, i, g, at), d, f, d, &mut t, f);
        t
    });
    for h in g * group..(g + 1) * group {
        let row = (n.lag() + chunk.a) * n.h + h;
        let (q, ld) = (&x.phi_q[row * f..], n.h * f);
        let gamma = [x.gamma[h], x.gamma[n.h + h]];
        let d_gamma = &mut d_gamma[2 * (h - g * group)..][..2];
        d_gamma.fill(0.0);
        let (u, ldu) = (&r.u[row * d..], n.h * d);
        let w = |s: usize| r.w[row + s * n.h];
        // SAFETY: query rows of head h inside this chunk belong to this task alone.
        let dq = |s: usize| unsafe { std::slice::from_raw_parts_mut(out.phi_q.get().add((row + s * n.h) * f), f) };
        gemm(gemm::Into::Store, len, len, d, rows(u, ldu), &vt, len, &mut d_a, len);
        for s in 0..len {
            d_a[s * len..s * len + s + 1].iter_mut().for_each(|a| *a += w(s));
        }
        if out.dv.is_some() {
            scores.weights(n, chunk, q, ld, gamma, &mut p);
            gemm(gemm::Into::Add, len, d, len, transposed(&p, len), u, ldu, &mut d_v, d);
        }
        if e == 1 {
            // Inside the chunk, all matrix products; P holds phi_q phi_k^T.
            gemm(gemm::Into::Store, len, len, f, rows(q, ld), &scores.kt, len, &mut p, len);
            for i in 0..2 {
                for s in 0..len {
                    let (mut sum, base) = (0.0, s * len);
                    for t in 0..=s {
                        let m = d_a[base + t] * p[base + t] * scores.e[i][base + t];
                        sum += m;
                        d_c[i][t] -= gamma[i] * m;
                    }
                    d_c[i][s] += gamma[i] * sum;
                    d_gamma[i] += sum;
                }
            }
            for (((dp, da), e0), e1) in d_p.iter_mut().zip(&d_a).zip(&*scores.e[0]).zip(&*scores.e[1]) {
                *dp = da * (gamma[0] * e0 + gamma[1] * e1);
            }
            // SAFETY: writes the query rows of head h in this chunk, `ld` apart, this task's alone.
            let dq_rows = unsafe { std::slice::from_raw_parts_mut(out.phi_q.get().add(row * f), (len - 1) * ld + f) };
            gemm(gemm::Into::Store, len, f, len, rows(&d_p, len), &chunk.k, f, dq_rows, ld);
            gemm(gemm::Into::Add, len, f, len, transposed(&d_p, len), q, ld, &mut d_k, f);
        } else {
            for i in 0..2 {
                let mut sum = vec![0.0; f];
                for s in 0..len {
                    pair_row(s, &q[s * ld..s * ld + f], &chunk.k, &chunk.c[i], &d_a[s * len..], gamma[i], dq(s), &mut d_k, &mut d_c[i], &mut sum);
                }
                d_gamma[i] += sum.iter().sum::<f32>();
            }
        }
        // From the states before the chunk.
        for i in 0..2 {
            gemm(gemm::Into::Store, len, f, d, rows(u, ldu), &st[i], f, &mut inter, f);
            for s in 0..len {
                let rowi = &mut inter[s * f..(s + 1) * f];
                axpy(w(s), states.z(n, i, g, at), rowi);
                // inter = S u + z w: its product with the decayed query is this state's share.
                d_gamma[i] += inter_row(&q[s * ld..s * ld + f], &chunk.c[i][s * e..(s + 1) * e], gamma[i], rowi, dq(s), &mut d_c[i][s * e..(s + 1) * e]);
            }
        }
    }
    // Into the states after the chunk.
    let mut scaled = vec![0.0; len * f];
    for i in 0..2 {
        let (ds, dz) = (grads.s(n, i, g, at + 1), grads.z(n, i, g, at + 1));
        let last = chunk.last(i, e);
        if out.dv.is_some() {
            scale_keys(&chunk.k, &chunk.c[i], last, f, e, &mut scaled);
            gemm(gemm::Into::Add, len, d, f, rows(&scaled, f), ds, d, &mut d_v, d);
        }
        transpose(ds, d, f, d, &mut st[i], f);
        gemm(gemm::Into::Store, len, f, d, rows(&chunk.v, d), &st[i], f, &mut inter, f);
        for t in 0..len {
            let rowi = &mut inter[t * f..(t + 1) * f];
            axpy(1.0, dz, rowi);
            let c = &chunk.c[i][t * e..(t + 1) * e];
            for j in 0..f {
                let je = if e == 1 { 0 } else { j };
                let grad = rowi[j] * ((last[je] - c[je]) as f32).exp();
                d_k[t * f + j] += grad;
                d_c[i][t * e + je] -= grad * chunk.k[t * f + j];
            }
        }
        // The chunk's end carries <S_after, dS_after>.
        let (s1, z1) = (states.s(n, i, g, at + 1), states.z(n, i, g, at + 1));
        for j in 0..f {
            let end = dot(&s1[j * d..(j + 1) * d], &ds[j * d..(j + 1) * d]) + z1[j] * dz[j];
            d_c[i][(len - 1) * e + if e == 1 { 0 } else { j }] += end;
        }
        for j in 0..e {
            let mut sum = 0.0;
            for t in (0..len).rev() {
                sum += d_c[i][t * e + j];
                // SAFETY: log decays of this (chunk, kv head) are this task's alone.
                unsafe { *out.log_decay.get().add((((chunk.a + t) * 2 + i) * n.g + g) * e + j) = sum };
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
        if c.len() == 1 {
            let w = exp::<FMA>(c[0] as f32);
            let mut lanes = [0.0f32; 16];
            for j in 0..q.len() {
                dq[j] += gamma * w * x[j];
                lanes[j % 16] += q[j] * x[j];
            }
            let sum = lanes.iter().sum::<f32>() * w;
            d_c[0] += gamma * sum;
            sum
        } else {
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
}

multiversion! {
    /// Vector decays: one query row against the keys of its own short chunk.
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

/// Gradients of the window's own q, k, v: dq written, dk and dv added to (a key is in several tiles).
fn window_back(x: &Args, n: Dims, fwd: &Forward, r: &Rows, d_log: &[f32], qkv: [&mut [f32]; 5]) {
    let (q, slope, group) = (f32s(&x.q), f32s(&x.slope), n.h / n.g);
    let scale = 1.0 / (n.d as f32).sqrt();
    let [qp, kp, vp, skp, svp] = qkv.map(|x| SendPtr(x.as_mut_ptr()));
    // Tiles share keys with their neighbours, so one task walks all tiles of its kv head.
    par::for_each(n.g, |g| {
        for tile in 0..Tile::count(n) {
            let w = Tile::load(x, n, g, tile);
            let mut vt = vec![0.0; n.d * w.cols];
            transpose(&w.v, n.d, w.cols, n.d, &mut vt, w.cols);
            let mut k = vec![0.0; w.cols * n.d];
            transpose(&w.kt, w.cols, n.d, w.cols, &mut k, n.d);
            let (mut a, mut da) = (vec![0.0; w.m * w.cols], vec![0.0; w.m * w.cols]);
            let mut stats = vec![(0.0, 0.0); w.m];
            let (mut dkt, mut dvt) = (vec![0.0; w.cols * n.d], vec![0.0; w.cols * n.d]);
            for h in g * group..(g + 1) * group {
                let row = w.t0 * n.h + h;
                w.weights(n, &q[row * n.d..], &mut a, &mut stats);
                let d_num = &r.d_num[row * n.d..];
                gemm(gemm::Into::Add, w.cols, n.d, w.m, transposed(&a, w.cols), d_num, n.h * n.d, &mut dvt, n.d);
                gemm(gemm::Into::Store, w.m, w.cols, n.d, rows(d_num, n.h * n.d), &vt, w.cols, &mut da, w.cols);
                for s in 0..w.m {
                    let at = row + s * n.h;
                    let (a, da) = (&a[s * w.cols..(s + 1) * w.cols], &mut da[s * w.cols..(s + 1) * w.cols]);
                    let clamped = (f32s(&x.mix)[h] - slope[h] * fwd.peak[at]).abs() >= super::cpu::LOG_WEIGHT as f32;
                    let mut d_peak = if clamped { 0.0 } else { -slope[h] * d_log[at] };
                    let mut top = 0;
                    for j in 0..w.cols {
                        da[j] = a[j] * (da[j] + r.d_den[at]);
                        d_peak -= da[j];
                        if a[j] > a[top] {
                            top = j;
                        }
                    }
                    da[top] += d_peak;
                    da.iter_mut().for_each(|v| *v *= scale);
                }
                // SAFETY: query rows of head h, this task's alone, `n.h * n.d` apart.
                let dq = unsafe { std::slice::from_raw_parts_mut(qp.get().add(row * n.d), (w.m - 1) * n.h * n.d + n.d) };
                gemm(gemm::Into::Store, w.m, n.d, w.cols, rows(&da, w.cols), &k, n.d, dq, n.h * n.d);
                gemm(gemm::Into::Add, w.cols, n.d, w.m, transposed(&da, w.cols), &q[row * n.d..], n.h * n.d, &mut dkt, n.d);
            }
            for j in 0..w.cols {
                let (kp, vp, key) = if j < n.n { (skp, svp, j) } else { (kp, vp, w.j0 + j - n.n) };
                let at = (key * n.g + g) * n.d;
                // SAFETY: keys of kv head g are this task's alone.
                unsafe {
                    axpy(1.0, &dkt[j * n.d..(j + 1) * n.d], std::slice::from_raw_parts_mut(kp.get().add(at), n.d));
                    axpy(1.0, &dvt[j * n.d..(j + 1) * n.d], std::slice::from_raw_parts_mut(vp.get().add(at), n.d));
                }
            }
        }
    });
}
