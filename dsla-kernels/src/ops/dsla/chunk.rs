//! What forward and backward share: chunks, cumulative decays, and the sweep that carries the states over them.

use super::Dims;
use crate::gemm::{Into, gemm, transposed};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::simd::{exp, exp_fall};
use crate::vec::head_rows;
use crate::{View, multiversion};

/// Keys per chunk with scalar decays.
pub const CHUNK: usize = 64;

/// Keys per chunk: with vector decays 16, because its scores are pairwise then.
pub fn chunk_len(e: usize) -> usize {
    if e == 1 { CHUNK } else { 16 }
}

/// Inputs of the linear part as slices.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    pub phi_q: &'a [f32],
    pub phi_k: &'a [f32],
    pub v: View<'a>,
    pub log_decay: &'a [f32],
    pub gamma: &'a [f32],
}

/// Inclusive cumulative log decays per state [len, E] of keys a..a + len; f64, because only their differences matter.
pub fn cumulative(log_decay: &[f32], n: Dims, g: usize, a: usize, len: usize) -> [Host<f64>; 2] {
    [0, 1].map(|i| {
        let mut c = Host::<f64>::scratch(len * n.e);
        for r in 0..len {
            for j in 0..n.e {
                let before = if r > 0 { c[(r - 1) * n.e + j] } else { 0.0 };
                c[r * n.e + j] = before + log_decay[(((a + r) * 2 + i) * n.g + g) * n.e + j] as f64;
            }
        }
        c
    })
}

/// One chunk of keys of one kv head, gathered and contiguous.
pub struct Chunk {
    /// Keys a..a + len.
    pub a: usize,
    pub len: usize,
    /// phi_k [len, F]
    pub k: Host<f32>,
    /// v [len, D]
    pub v: Host<f32>,
    /// [`cumulative`] log decays per state [len, E].
    pub c: [Host<f64>; 2],
}

impl Chunk {
    pub fn load(x: &Linear, n: Dims, g: usize, a: usize, len: usize) -> Chunk {
        let mut k = Host::scratch(len * n.f);
        for r in 0..len {
            let at = ((a + r) * n.g + g) * n.f;
            k[r * n.f..(r + 1) * n.f].copy_from_slice(&x.phi_k[at..at + n.f]);
        }
        let mut v = Host::scratch(len * n.d);
        head_rows(&x.v, g, a, len, &mut v);
        Chunk { a, len, k, v, c: cumulative(x.log_decay, n, g, a, len) }
    }

    /// The whole chunk's log decay of state i [E].
    pub fn last(&self, i: usize, e: usize) -> &[f64] {
        &self.c[i][(self.len - 1) * e..]
    }

    /// The state after this chunk from the state before it:
    /// S <- e^c_last S + (phi_k e^(c_last - c))^T V, and z likewise.
    pub fn advance(&self, n: Dims, i: usize, s: &mut [f32], z: &mut [f32]) {
        let width = n.uniform();
        decay_rows(s, self.last(i, n.e), width * n.d);
        decay_rows(z, self.last(i, n.e), width);
        self.add(n, i, s, z);
    }

    /// The same, from the state before it to another place.
    fn advance_from(&self, n: Dims, i: usize, [s0, z0]: [&[f32]; 2], s: &mut [f32], z: &mut [f32]) {
        let width = n.uniform();
        decayed_rows(s0, self.last(i, n.e), width * n.d, s);
        decayed_rows(z0, self.last(i, n.e), width, z);
        self.add(n, i, s, z);
    }

    /// What the chunk adds to a state that has decayed.
    fn add(&self, n: Dims, i: usize, s: &mut [f32], z: &mut [f32]) {
        let mut scaled = Host::<f32>::scratch(self.len * n.f);
        scale_keys(&self.k, &self.c[i], self.last(i, n.e), n.f, n.e, &mut scaled);
        gemm(Into::Add, n.f, n.d, self.len, transposed(&scaled, n.f), &self.v, n.d, s, n.d);
        for row in scaled.chunks_exact(n.f) {
            z.iter_mut().zip(row).for_each(|(z, k)| *z += k);
        }
    }
}

multiversion! {
    /// out = k e^(last - c), row by row.
    pub fn scale_keys<const FMA: bool>(k: &[f32], c: &[f64], last: &[f64], f: usize, e: usize, out: &mut [f32]) {
        for (r, (k, out)) in k.chunks_exact(f).zip(out.chunks_exact_mut(f)).enumerate() {
            let c = &c[r * e..(r + 1) * e];
            if e == 1 {
                let w = exp::<FMA>((last[0] - c[0]) as f32);
                out.iter_mut().zip(k).for_each(|(o, k)| *o = k * w);
            } else {
                for j in 0..f {
                    out[j] = k[j] * exp::<FMA>((last[j] - c[j]) as f32);
                }
            }
        }
    }
}

multiversion! {
    /// out = x e^c gamma, row by row; rows of x are `ld` apart.
    pub fn scale_queries<const FMA: bool>(x: &[f32], ld: usize, c: &[f64], gamma: f32, f: usize, e: usize, out: &mut [f32]) {
        for (r, out) in out.chunks_exact_mut(f).enumerate() {
            let (x, c) = (&x[r * ld..r * ld + f], &c[r * e..(r + 1) * e]);
            if e == 1 {
                let w = exp::<FMA>(c[0] as f32) * gamma;
                out.iter_mut().zip(x).for_each(|(o, x)| *o = x * w);
            } else {
                for j in 0..f {
                    out[j] = x[j] * (exp::<FMA>(c[j] as f32) * gamma);
                }
            }
        }
    }
}

multiversion! {
    /// Row j of x (width elements) times e^(log[j]), or e^(log[0]) for all.
    pub fn decay_rows<const FMA: bool>(x: &mut [f32], log: &[f64], width: usize) {
        for (j, row) in x.chunks_exact_mut(width).enumerate() {
            let w = exp::<FMA>(log[if log.len() == 1 { 0 } else { j }] as f32);
            row.iter_mut().for_each(|v| *v *= w);
        }
    }
}

multiversion! {
    /// As [`decay_rows`], to `out`.
    fn decayed_rows<const FMA: bool>(x: &[f32], log: &[f64], width: usize, out: &mut [f32]) {
        for (j, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let w = exp::<FMA>(log[if log.len() == 1 { 0 } else { j }] as f32);
            out.iter_mut().zip(x).for_each(|(o, x)| *o = x * w);
        }
    }
}

multiversion! {
    /// e [len, len], rows `ld` apart: e^(c[s] - c[t]) for t <= s, else 0 (masked before exp). Scalar decays.
    pub fn decay_matrix<const FMA: bool>(c: &[f64], out: &mut [f32], ld: usize) {
        for (s, row) in out.chunks_exact_mut(ld).enumerate() {
            let cs = c[s];
            let (seen, later) = row.split_at_mut(s + 1);
            seen.iter_mut().zip(c).for_each(|(e, c)| *e = exp_fall::<FMA>((cs - c) as f32));
            later.fill(0.0);
        }
    }
}

/// The states before each chunk of a run of chunks, and after the last: [2 G][count + 1][F D] and [..][F].
pub struct States {
    pub s: Host<f32>,
    pub z: Host<f32>,
    count: usize,
}

impl States {
    /// S before chunk `at` of the run.
    pub fn s(&self, n: Dims, i: usize, g: usize, at: usize) -> &[f32] {
        let size = n.f * n.d;
        let from = ((i * n.g + g) * (self.count + 1) + at) * size;
        &self.s[from..from + size]
    }

    /// z before chunk `at` of the run.
    pub fn z(&self, n: Dims, i: usize, g: usize, at: usize) -> &[f32] {
        let from = ((i * n.g + g) * (self.count + 1) + at) * n.f;
        &self.z[from..from + n.f]
    }

    /// Memory for a run of `count` chunks, all 2 G pairs swept by `f(i, g, s [count + 1][F D], z)` in parallel.
    pub fn build(n: Dims, count: usize, f: impl Fn(usize, usize, &mut [f32], &mut [f32]) + Sync) -> States {
        let (rs, rz) = ((count + 1) * n.f * n.d, (count + 1) * n.f);
        let mut states = States { s: Host::scratch(2 * n.g * rs), z: Host::scratch(2 * n.g * rz), count };
        let (sp, zp) = (SendPtr(states.s.as_mut_ptr()), SendPtr(states.z.as_mut_ptr()));
        par::for_each(2 * n.g, |j| {
            // SAFETY: pair j owns its own run of states.
            let (s, z) = unsafe {
                (
                    std::slice::from_raw_parts_mut(sp.get().add(j * rs), rs),
                    std::slice::from_raw_parts_mut(zp.get().add(j * rz), rz),
                )
            };
            f(j / n.g, j % n.g, s, z);
        });
        states
    }

    /// Sweep forward over chunks first..first + count from the states s0 [2, G, F, D], z0 [2, G, F].
    pub fn forward(x: &Linear, n: Dims, first: usize, count: usize, s0: &[f32], z0: &[f32]) -> States {
        let (len, size) = (chunk_len(n.e), n.f * n.d);
        States::build(n, count, |i, g, s, z| {
            let j = i * n.g + g;
            s[..size].copy_from_slice(&s0[j * size..(j + 1) * size]);
            z[..n.f].copy_from_slice(&z0[j * n.f..(j + 1) * n.f]);
            for at in 0..count {
                let a = (first + at) * len;
                let chunk = Chunk::load(x, n, g, a, len.min(n.l - a));
                let (s, after) = s[at * size..].split_at_mut(size);
                let (z, z_after) = z[at * n.f..].split_at_mut(n.f);
                chunk.advance_from(n, i, [s, z], &mut after[..size], &mut z_after[..n.f]);
            }
        })
    }

    /// Copy the states before chunk `at` out to s [2, G, F, D], z [2, G, F].
    pub fn copy_out(&self, n: Dims, at: usize, s: &mut [f32], z: &mut [f32]) {
        let size = n.f * n.d;
        for j in 0..2 * n.g {
            s[j * size..(j + 1) * size].copy_from_slice(self.s(n, j / n.g, j % n.g, at));
            z[j * n.f..(j + 1) * n.f].copy_from_slice(self.z(n, j / n.g, j % n.g, at));
        }
    }
}

multiversion! {
    /// Pairwise scores of a short chunk under vector decays: out [len, len] = gamma-weighted
    /// sum_f q[s, f] k[t, f] e^(c[s, f] - c[t, f]) for t <= s, added to `out`. Rows of q are `ld` apart.
    pub fn pairwise<const FMA: bool>(q: &[f32], ld: usize, k: &[f32], c: &[f64], gamma: f32, f: usize, out: &mut [f32]) {
        let len = k.len() / f;
        for s in 0..len {
            let (q, cs) = (&q[s * ld..s * ld + f], &c[s * f..(s + 1) * f]);
            for t in 0..=s {
                let (k, ct) = (&k[t * f..(t + 1) * f], &c[t * f..(t + 1) * f]);
                let mut lanes = [0.0f32; 16];
                let mut j = 0;
                while j + 16 <= f {
                    for l in 0..16 {
                        lanes[l] += q[j + l] * k[j + l] * exp::<FMA>((cs[j + l] - ct[j + l]) as f32);
                    }
                    j += 16;
                }
                while j < f {
                    lanes[0] += q[j] * k[j] * exp::<FMA>((cs[j] - ct[j]) as f32);
                    j += 1;
                }
                out[s * len + t] += gamma * lanes.iter().sum::<f32>();
            }
        }
    }
}
