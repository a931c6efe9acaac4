//! What the queries of one chunk read: its keys as far as they see them, and the states before it.

use super::{CHUNK, Dims, EXTRA, Rounded, Run, TILE, cumulative, falls, start};
#[cfg(target_arch = "x86_64")]
use crate::ops::dsla::strips::Strips;
use crate::bf16;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::simd::exp_fall;
use crate::simd::lanes::{lanes, tree};

/// All heads of kv head g against chunk `number`, number `at` of the run. The rows are the caller's alone.
pub fn read(x: &Rounded, n: Dims, g: usize, number: usize, run: &Run, at: usize, into: &Into) {
    let a = number * CHUNK;
    let (len, group, d, f, wide) = (CHUNK.min(n.l - a), n.h / n.g, n.d, n.f, n.d + EXTRA);
    let cols = len.next_multiple_of(TILE);
    let mut vals = Host::<bf16>::scratch(cols * d);
    x.put_values(n, g, a, len, &mut vals, d);
    let c = cumulative(x, n, g, a, len);
    let e = [0, 1].map(|i| {
        let mut e = Host::<f32>::scratch(len * cols);
        // SAFETY: `len` rows of `cols`.
        unsafe { decays(&c[i], len, cols, e.as_mut_ptr()) }
        e
    });
    let reach = [falls(&c[0]), falls(&c[1])];
    let keys = &run.keys[(g * run.most + at) * CHUNK * f..][..CHUNK * f];
    let states = [0, 1].map(|i| &run.states[((i * n.g + g) * run.most + at) * f * wide..][..f * wide]);
    let scratch = Host::<f32>::scratch;
    let (mut p, mut weights, mut sums) = (scratch(len * cols), Host::<bf16>::scratch(TILE * cols), [0.0f32; CHUNK]);
    let (mut near, mut far) = (scratch(len * d), [scratch(len * wide), scratch(len * wide)]);
    let mut by = PairProducts::new();
    let t0 = n.lag() + a;
    #[cfg(target_arch = "x86_64")]
    let mut strips = match into {
        Into::Outputs(strips) => Some(strips.queries(g, t0, len)),
        Into::Sums(_) => None,
    };
    for h in g * group..(g + 1) * group {
        let first = t0 * n.h + h;
        let q = x.phi_q[first * f..][..(len - 1) * n.h * f + f].as_ptr() as *const u16;
        let gamma = [0, 1].map(|i| x.gamma[i * n.h + h]);
        let of_q = Pairs {
            k: f / 2,
            a: q,
            lda: n.h * f,
            b: start(keys),
            ldb: 32,
            panel: 16 * f,
            c: p.as_mut_ptr(),
            ldc: cols,
            add: false,
            next: 0,
        };
        for (state, far) in states.iter().zip(&mut far) {
            let of_state =
                Pairs { b: start(state), ldb: 2 * wide, panel: 32, c: far.as_mut_ptr(), ldc: wide, ..of_q };
            // SAFETY: `len` rows of f; a line of `wide` pairs for every two features, and `len` rows of `wide`.
            unsafe { by.product(of_state, len, wide) }
        }
        // Rows of a tile or two against the keys up to theirs.
        for r0 in (0..len).step_by(TILE) {
            let (rows, seen) = (TILE.min(len - r0), r0 + TILE);
            // SAFETY: these rows of f and of p, and panels of as many keys; weights as p.
            unsafe {
                by.product(Pairs { a: q.add(r0 * n.h * f), c: p.as_mut_ptr().add(r0 * cols), ..of_q }, rows, seen);
                let (p, e) = (p.as_ptr().add(r0 * cols), [e[0].as_ptr().add(r0 * cols), e[1].as_ptr().add(r0 * cols)]);
                decayed(p, e, [rows, seen, cols], gamma, weights.as_mut_ptr() as *mut u16, sums[r0..].as_mut_ptr());
            }
            let (a, c) = (start(&weights), near[r0 * d..].as_mut_ptr());
            let of_values =
                Pairs { k: seen / 2, a, lda: cols, b: start(&vals), ldb: 2 * d, panel: 32, c, ldc: d, add: false, next: 0 };
            // SAFETY: rows of `seen`, as many lines of d pairs as two keys each have, and as many rows of d.
            unsafe { by.product(of_values, rows, d) }
        }
        let read = Far { near: &near, far: [&far[0], &far[1]], sums: &sums[..len], reach: [&reach[0], &reach[1]], gamma, d };
        match into {
            // SAFETY: (query, head) rows of this chunk's readers and this kv head are the caller's alone.
            Into::Sums(into) => unsafe { put(&read, into.out.get().add(first * d), into.den.get().add(first), n.h) },
            #[cfg(target_arch = "x86_64")]
            Into::Outputs(_) => strips.iter_mut().for_each(|s| s.head(&mut by, h, Some(&read))),
            #[cfg(not(target_arch = "x86_64"))]
            Into::Outputs(never, _) => match *never {},
        }
    }
}

/// What queries of one head read of what left their windows, row by row: num is near + sum_i gamma_i reach_i far_i, and den that
/// of the sums and of what is behind the values.
pub struct Far<'a> {
    /// Of their chunk's keys [len, D].
    pub near: &'a [f32],
    /// Of the states before it [len, D + EXTRA].
    pub far: [&'a [f32]; 2],
    /// Of the weights of its keys [len].
    pub sums: &'a [f32],
    /// What is left of the states at each token.
    pub reach: [&'a [f32]; 2],
    pub gamma: [f32; 2],
    pub d: usize,
}

impl<'a> Far<'a> {
    /// Without the first rows.
    pub fn from(&self, row: usize) -> Far<'a> {
        Far {
            near: &self.near[row * self.d..],
            far: self.far.map(|x| &x[row * (self.d + EXTRA)..]),
            sums: &self.sums[row..],
            reach: self.reach.map(|x| &x[row..]),
            ..*self
        }
    }
}

/// Where what is read goes.
pub enum Into<'a> {
    /// num and den, to be put together with the window.
    Sums(super::super::read::Into),
    /// To the outputs, with the window.
    #[cfg(target_arch = "x86_64")]
    Outputs(&'a Strips<'a>),
    #[cfg(not(target_arch = "x86_64"))]
    Outputs(std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

lanes! {
    /// num of `len` queries to rows of `out` and den to `den`, h rows apart.
    pub unsafe fn put<V>(x: &Far, out: *mut f32, den: *mut f32, h: usize) {
        let (d, wide) = (x.d, x.d + EXTRA);
        for r in 0..x.sums.len() {
            let (near, far) = (x.near[r * d..][..d].as_ptr(), [x.far[0][r * wide..][..wide].as_ptr(), x.far[1][r * wide..][..wide].as_ptr()]);
            let w = [x.gamma[0] * x.reach[0][r], x.gamma[1] * x.reach[1][r]];
            // SAFETY: whole vectors of d; the rows of `out` are the caller's.
            unsafe {
                for j in (0..d).step_by(16) {
                    let near = V::load(near.add(j)).fma(V::splat(w[0]), V::load(far[0].add(j)));
                    near.fma(V::splat(w[1]), V::load(far[1].add(j))).store(out.add(r * h * d + j));
                }
                *den.add(r * h) = x.sums[r] + w[0] * *far[0].add(d) + w[1] * *far[1].add(d);
            }
        }
    }
}

lanes! {
    /// e [len, cols]: e^(c[s] - c[t]) for t <= s, else 0. Up to the sixteen tokens that s is of a product of two, of which neither
    /// is more than one.
    unsafe fn decays<V>(c: &[f32; CHUNK], len: usize, cols: usize, out: *mut f32) {
        let mut up_to = [0.0f32; CHUNK];
        for s0 in (0..len).step_by(16) {
            // SAFETY: sixteen of CHUNK, a multiple of them.
            let c = unsafe { [*(c.as_ptr().add(s0) as *const [f32; 16]), [if s0 > 0 { *c.as_ptr().add(s0 - 1) } else { 0.0 }; 16]] };
            let mut from = [0.0f32; 16];
            for l in 0..16 {
                from[l] = exp_fall::<true>(c[0][l] - c[1][l]);
            }
            for l in 0..16.min(len - s0) {
                let mut own = [0.0f32; 16];
                for t in 0..16 {
                    let e = exp_fall::<true>(c[0][l] - c[0][t]);
                    own[t] = if t > l { 0.0 } else { e };
                }
                // SAFETY: the caller's: whole vectors of row s0 + l.
                unsafe {
                    let (zero, from, row) = (V::splat(0.0), V::splat(from[l]), out.add((s0 + l) * cols));
                    for t in (0..s0).step_by(16) {
                        zero.fma(from, V::load(up_to.as_ptr().add(t))).store(row.add(t));
                    }
                    V::load(own.as_ptr()).store(row.add(s0));
                    for t in (s0 + 16..cols).step_by(16) {
                        zero.store(row.add(t));
                    }
                }
            }
            // What these sixteen leave of those before, and of themselves.
            let last = c[0][15];
            for t in (0..s0 + 16).step_by(16) {
                // SAFETY: as above.
                let up_to = unsafe { &mut *(up_to.as_mut_ptr().add(t) as *mut [f32; 16]) };
                for l in 0..16 {
                    up_to[l] = if t < s0 { up_to[l] * from[15] } else { exp_fall::<true>(last - c[0][l]) };
                }
            }
        }
    }
}

lanes! {
    /// Some rows of one head, `seen` columns of each: out <- p (gamma_1 e_1 + gamma_2 e_2), rounded, and its rows' sums before that.
    unsafe fn decayed<V>(p: *const f32, e: [*const f32; 2], size: [usize; 3], gamma: [f32; 2], out: *mut u16, sums: *mut f32) {
        let [rows, seen, cols] = size;
        for r in 0..rows {
            // SAFETY: the caller's: whole vectors of every row.
            unsafe {
                let mut all = V::splat(0.0);
                for j in (r * cols..r * cols + seen).step_by(16) {
                    let decay = V::splat(0.0).fma(V::splat(gamma[0]), V::load(e[0].add(j)));
                    let decay = decay.fma(V::splat(gamma[1]), V::load(e[1].add(j)));
                    let w = V::splat(0.0).fma(V::load(p.add(j)), decay);
                    all = all.add(w);
                    w.store_bf16(out.add(j));
                }
                let mut lanes = [0.0f32; 16];
                all.store(lanes.as_mut_ptr());
                *sums.add(r) = tree(lanes);
            }
        }
    }
}

