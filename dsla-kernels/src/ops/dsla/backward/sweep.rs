//! The queries that read a chunk, and the states at the borders of chunks: transposed, with the normaliser as one more value
//! (see `scalar.rs`).

use super::{Forward, Rows};
use crate::gemm::{Into, gemm, transposed};
use crate::host::Host;
use crate::ops::dsla::Dims;
use crate::ops::dsla::chunk::Linear;
use crate::ops::dsla::keys::Keys;
use crate::par::{self, SendPtr};
use crate::vec::{axpy, scaled};

/// The queries that read a chunk, rows in [`Keys::order`].
pub struct Queries {
    /// phi_q [rows, F], the keys' `ld` apart.
    pub q: Host<f32>,
    /// u and w [rows, D + 1].
    pub u: Host<f32>,
    /// Row of the call, (query, head), of the first head at the chunk's first position.
    pub first: usize,
}

impl Queries {
    pub fn load(x: &Linear, n: Dims, fwd: &Forward, r: &Rows, g: usize, keys: &Keys) -> Queries {
        let (group, wide) = (n.h / n.g, n.d + 1);
        let first = (n.lag() + keys.a) * n.h + g * group;
        let mut q = Host::<f32>::scratch(group * keys.len * keys.ld);
        let mut u = Host::<f32>::scratch(group * keys.len * wide);
        for (row, (s, i)) in keys.order(group).enumerate() {
            let at = first + s * n.h + i;
            q[row * keys.ld..][..n.f].copy_from_slice(&x.phi_q[at * n.f..][..n.f]);
            r.gather(fwd, at, r.weight(at), &mut u[row * wide..][..wide]);
        }
        Queries { q, u, first }
    }
}

/// States or their gradients at the chunks' borders, transposed and in panels: [2 G][chunks + 1][F / 16][D + 1][16].
pub struct Borders {
    data: Host<f32>,
    chunks: usize,
    size: usize,
}

impl Borders {
    fn new(n: Dims, chunks: usize) -> Borders {
        let size = n.f.next_multiple_of(16) * (n.d + 1);
        let len = 2 * n.g * (chunks + 1) * size;
        // Lanes beyond F are never written, and the sums over a state run over them.
        let data = if n.f.is_multiple_of(16) { Host::scratch(len) } else { Host::zeros(len) };
        Borders { data, chunks, size }
    }

    fn from(&self, pair: usize, at: usize) -> usize {
        (pair * (self.chunks + 1) + at) * self.size
    }

    pub fn state(&self, n: Dims, i: usize, g: usize, at: usize) -> &[f32] {
        &self.data[self.from(i * n.g + g, at)..][..self.size]
    }

    /// Where (feature, value) is in a state.
    fn place(n: Dims, f: usize, d: usize) -> usize {
        (f / 16 * (n.d + 1) + d) * 16 + f % 16
    }

    fn pack(&mut self, n: Dims, at: usize, s: &[f32], z: &[f32]) {
        for pair in 0..2 * n.g {
            let from = self.from(pair, at);
            for f in 0..n.f {
                for d in 0..n.d {
                    self.data[from + Self::place(n, f, d)] = s[(pair * n.f + f) * n.d + d];
                }
                self.data[from + Self::place(n, f, n.d)] = z[pair * n.f + f];
            }
        }
    }

    pub fn unpack(&self, n: Dims, at: usize, s: &mut [f32], z: &mut [f32]) {
        for pair in 0..2 * n.g {
            let from = self.from(pair, at);
            for f in 0..n.f {
                for d in 0..n.d {
                    s[(pair * n.f + f) * n.d + d] = self.data[from + Self::place(n, f, d)];
                }
                z[pair * n.f + f] = self.data[from + Self::place(n, f, n.d)];
            }
        }
    }
}

/// States before every chunk and after the last, and their gradients: what each chunk adds first, all chunks in parallel, then
/// the sums over chunks, forward and backward.
pub fn sweep(x: &Linear, n: Dims, fwd: &Forward, r: &Rows, d_s: &[f32], d_z: &[f32], chunks: usize) -> [Borders; 2] {
    let mut all = [Borders::new(n, chunks), Borders::new(n, chunks)];
    all[0].pack(n, 0, fwd.s0, fwd.z0);
    all[1].pack(n, chunks, d_s, d_z);
    let mut fades = Host::<f32>::scratch(2 * n.g * chunks);
    let (size, wide, group) = (all[0].size, n.d + 1, n.h / n.g);
    let (fp, bp) = (SendPtr(fades.as_mut_ptr()), all.each_mut().map(|b| SendPtr(b.data.as_mut_ptr())));
    let from = |pair: usize, at: usize| (pair * (chunks + 1) + at) * size;
    par::for_each(chunks * n.g, |task| {
        let (at, g) = (task / n.g, task % n.g);
        let keys = Keys::load(x, n, g, at);
        let queries = Queries::load(x, n, fwd, r, g, &keys);
        let mut v = Host::<f32>::scratch(keys.v.len());
        let mut u = Host::<f32>::scratch(queries.u.len());
        for i in 0..2 {
            let pair = i * n.g + g;
            for (t, (to, v)) in v.chunks_exact_mut(wide).zip(keys.v.chunks_exact(wide)).enumerate() {
                scaled(v, keys.keep[i][t], to);
            }
            let order = keys.order(group);
            for ((s, head), (to, u)) in order.zip(u.chunks_exact_mut(wide).zip(queries.u.chunks_exact(wide))) {
                scaled(u, x.gamma[i * n.h + g * group + head] * keys.reach[i][s], to);
            }
            // SAFETY: chunk `at` adds to the state after it and to the gradient before it, this task's alone.
            let [s, ds] = unsafe {
                *fp.get().add(pair * chunks + at) = keys.fade(i);
                [(0, from(pair, at + 1)), (1, from(pair, at))]
                    .map(|(i, from)| std::slice::from_raw_parts_mut(bp[i].get().add(from), size))
            };
            for j in (0..n.f).step_by(16) {
                let (cols, panel) = (16.min(n.f - j), j * wide..(j + 16) * wide);
                gemm(Into::Store, wide, cols, keys.len, transposed(&v, wide), &keys.k[j..], keys.ld, &mut s[panel.clone()], 16);
                let (m, q) = (group * keys.len, &queries.q[j..]);
                gemm(Into::Store, wide, cols, m, transposed(&u, wide), q, keys.ld, &mut ds[panel], 16);
            }
        }
    });
    // A piece of one pair's state per task.
    const PIECES: usize = 4;
    let piece = size.div_ceil(PIECES);
    par::for_each(2 * n.g * PIECES, |task| {
        let (pair, a) = (task / PIECES, (task % PIECES * piece).min(size));
        let len = piece.min(size - a);
        for step in 0..chunks {
            for (b, at, to, before) in [(0, step, step + 1, step), (1, chunks - 1 - step, chunks - 1 - step, chunks - step)] {
                // SAFETY: this piece of all states of the pair belongs to this task; the two states differ.
                unsafe {
                    let state = |at| bp[b].get().add(from(pair, at) + a);
                    let before = std::slice::from_raw_parts(state(before), len);
                    axpy(*fp.get().add(pair * chunks + at), before, std::slice::from_raw_parts_mut(state(to), len));
                }
            }
        }
    });
    all
}
