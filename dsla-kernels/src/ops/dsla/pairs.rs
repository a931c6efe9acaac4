//! The linear part under scalar decays where the machine multiplies bf16: features, states, decayed scores and values are rounded
//! to it, sums are f32. So flash-linear-attention's kernels do, too.

use super::Dims;
use super::chunk::CHUNK;
use super::cpu::RUN;
use super::read::Into;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::pair_panels::{TILE, interleave, put_keys};
use crate::par::{self, SendPtr};
use crate::simd::lanes::{lanes, tree};
use crate::simd::exp_fall;
use crate::{DType, View, bf16, multiversion};

/// Features whose part of the states one task carries along.
const PART: usize = 64;
/// Columns of a state beside its values: the first is z, which the normaliser reads.
const EXTRA: usize = 16;

/// Whether a call may take this path.
pub fn fits(v: &View, [d, f, e]: [usize; 3]) -> bool {
    let whole = d.is_multiple_of(16) && f.is_multiple_of(TILE) && f > 0;
    e == 1 && whole && v.dtype() == DType::BF16
}

/// What is multiplied.
#[derive(Clone, Copy)]
pub struct Rounded<'a> {
    /// [T, H, F]
    pub phi_q: &'a [bf16],
    /// [L, G, F]
    pub phi_k: &'a [bf16],
    /// [.., G, D]
    pub v: &'a [bf16],
    pub log_decay: &'a [f32],
    pub gamma: &'a [f32],
}

/// What the queries of a run of chunks read.
struct Run {
    /// Chunks there is room for.
    most: usize,
    /// The states before each chunk [2 G][most], two features by two [F / 2][D + EXTRA][2].
    states: Host<bf16>,
    /// Features of the chunks' keys in panels, [G][most][CHUNK / 16][F / 2][16][2].
    keys: Host<bf16>,
}

/// num and den of every query that reads a chunk; the states move on.
pub fn forward(x: &Rounded, n: Dims, s: &mut [f32], z: &mut [f32], into: Into) {
    sweep(x, n, s, z, |run, first, count| {
        par::for_each(count * n.g, |task| chunk(x, n, task % n.g, first + task / n.g, run, task / n.g, into));
    });
}

/// The states alone.
pub fn fold(x: &Rounded, n: Dims, s: &mut [f32], z: &mut [f32]) {
    sweep(x, n, s, z, |_, _, _| ());
}

/// Carry the states over all chunks; `read` is handed every run of them (first chunk, count).
fn sweep(x: &Rounded, n: Dims, s: &mut [f32], z: &mut [f32], read: impl Fn(&Run, usize, usize)) {
    let (chunks, wide) = (n.l.div_ceil(CHUNK), n.d + EXTRA);
    let most = RUN.min(chunks);
    let (states, keys) = (Host::scratch(2 * n.g * most * n.f * wide), Host::scratch(n.g * most * CHUNK * n.f));
    let mut run = Run { most, states, keys };
    let (sp, zp) = (SendPtr(s.as_mut_ptr()), SendPtr(z.as_mut_ptr()));
    let parts = n.f.div_ceil(PART);
    for first in (0..chunks).step_by(RUN) {
        let count = RUN.min(chunks - first);
        let (states, keys) = (SendPtr(run.states.as_mut_ptr()), SendPtr(run.keys.as_mut_ptr()));
        par::for_each(n.g * parts, |task| {
            let (g, f0) = (task / parts, task % parts * PART);
            let mut part = Part::new(n, g, f0);
            let f = part.f;
            for i in 0..2 {
                // SAFETY: these features of head g's states are this task's alone.
                let (s, z) = unsafe { rows(&sp, &zp, n, i, g, f0, f) };
                for (row, (s, z)) in part.states[i].chunks_exact_mut(wide).zip(s.chunks_exact(n.d).zip(z)) {
                    row[..n.d].copy_from_slice(s);
                    row[n.d] = *z;
                }
            }
            for at in 0..count {
                let a = (first + at) * CHUNK;
                let len = CHUNK.min(n.l - a);
                let line = (g * most + at) * CHUNK * n.f + f0 * 16;
                for panel in 0..len.next_multiple_of(TILE) / 16 {
                    // SAFETY: these features' lines of the panels are this task's alone.
                    let to = unsafe { keys.slice(line + panel * 16 * n.f, f * 16) };
                    put_keys(to, |l| {
                        let t = 16 * panel + l;
                        (t < len).then(|| &x.phi_k[((a + t) * n.g + g) * n.f + f0..][..f])
                    });
                    part.panels[panel * 16 * f..][..16 * f].copy_from_slice(to);
                }
                part.load_values(x, n, a, len);
                let c = cumulative(x, n, g, a, len);
                for i in 0..2 {
                    let from = (((i * n.g + g) * most + at) * n.f + f0) * wide;
                    // SAFETY: as above, of the states.
                    let before = unsafe { states.slice(from, f * wide) };
                    part.advance(i, &c[i], len, before);
                }
            }
            for i in 0..2 {
                // SAFETY: as above.
                let (s, z) = unsafe { rows(&sp, &zp, n, i, g, f0, f) };
                for (row, (s, z)) in part.states[i].chunks_exact(wide).zip(s.chunks_exact_mut(n.d).zip(z)) {
                    s.copy_from_slice(&row[..n.d]);
                    *z = row[n.d];
                }
            }
        });
        read(&run, first, count);
    }
}

/// Rows f0..f0 + f of state i of head g, and of its z.
///
/// # Safety
/// They are inside, and the caller's alone.
unsafe fn rows<'a>(s: &SendPtr<f32>, z: &SendPtr<f32>, n: Dims, i: usize, g: usize, f0: usize, f: usize) -> (&'a mut [f32], &'a mut [f32]) {
    let at = (i * n.g + g) * n.f + f0;
    // SAFETY: the caller's.
    unsafe { (s.slice(at * n.d, f * n.d), z.slice(at, f)) }
}

/// Some features' rows of both states of one kv head, carried along.
struct Part {
    g: usize,
    f: usize,
    /// Columns of a state.
    wide: usize,
    /// [F', D + EXTRA] each.
    states: [Host<f32>; 2],
    /// A chunk's features in panels [CHUNK / 16][F' / 2][16][2].
    panels: Host<bf16>,
    /// The same as they weigh at the chunk's end [F', CHUNK].
    weighed: Host<bf16>,
    /// Its values, two keys by two [CHUNK / 2][D + EXTRA][2], and beside them a one, which is z's.
    values: Host<bf16>,
    by: PairProducts,
}

impl Part {
    fn new(n: Dims, g: usize, f0: usize) -> Part {
        let (f, wide) = (PART.min(n.f - f0), n.d + EXTRA);
        let mut values = Host::<bf16>::zeros(CHUNK * wide);
        values.chunks_exact_mut(2 * wide).for_each(|line| line[2 * n.d..2 * n.d + 2].fill(bf16::ONE));
        let states = [Host::zeros(f * wide), Host::zeros(f * wide)];
        let [panels, weighed] = [Host::scratch(f * CHUNK), Host::scratch(f * CHUNK)];
        Part { g, f, wide, states, panels, weighed, values, by: PairProducts::new() }
    }

    /// (What is behind the last key weighs nothing.)
    fn load_values(&mut self, x: &Rounded, n: Dims, a: usize, len: usize) {
        let value = |t: usize| &x.v[((a + t.min(len - 1)) * n.g + self.g) * n.d..][..n.d];
        let lines = self.values.chunks_exact_mut(2 * self.wide);
        for (t, line) in (0..len.next_multiple_of(TILE)).step_by(2).zip(lines) {
            interleave(value(t), value(t + 1), &mut line[..2 * n.d]);
        }
    }

    /// Leave state i in `before`, then take in the loaded chunk of `len` keys, of cumulative log decays c.
    fn advance(&mut self, i: usize, c: &[f32; CHUNK], len: usize, before: &mut [bf16]) {
        let (f, wide, last) = (self.f, self.wide, c[len - 1]);
        let mut keep = falls(&c.map(|c| last - c));
        keep[len..].fill(0.0);
        let state = &mut self.states[i];
        assert!(before.len() == f * wide && state.len() == f * wide);
        // SAFETY: f rows of whole vectors, and half as many lines of pairs.
        unsafe { pass_on(state.as_mut_ptr(), f / 2, wide, last.exp(), before.as_mut_ptr() as *mut u16) }
        let cols = len.next_multiple_of(TILE);
        for (at, panel) in (0..cols).step_by(16).zip(self.panels.chunks_exact(16 * f)) {
            let to = self.weighed[at..][..(f - 1) * CHUNK + 16].as_mut_ptr() as *mut u16;
            // SAFETY: f / 2 lines of pairs, 16 weights, f rows of 16.
            unsafe { weigh_keys(start(panel), f / 2, keep[at..at + 16].as_ptr(), to) }
        }
        let (a, b, c) = (start(&self.weighed), start(&self.values), self.states[i].as_mut_ptr());
        let p = Pairs { k: cols / 2, a, lda: CHUNK, b, ldb: 2 * wide, panel: 32, c, ldc: wide, add: true, next: 0 };
        // SAFETY: f rows of `cols` features, as many lines of `wide` pairs as two keys each have, and f rows of `wide`.
        unsafe { self.by.product(p, f, wide) }
    }
}

/// All heads of kv head g against chunk `number`, number `at` of the run. The rows are the caller's alone.
fn chunk(x: &Rounded, n: Dims, g: usize, number: usize, run: &Run, at: usize, into: Into) {
    let a = number * CHUNK;
    let (len, group, d, f, wide) = (CHUNK.min(n.l - a), n.h / n.g, n.d, n.f, n.d + EXTRA);
    let cols = len.next_multiple_of(TILE);
    let mut vals = Host::<bf16>::scratch(cols * d);
    // (What is behind the last key weighs nothing.)
    let value = |t: usize| &x.v[((a + t.min(len - 1)) * n.g + g) * d..][..d];
    for (t, line) in (0..cols).step_by(2).zip(vals.chunks_exact_mut(2 * d)) {
        interleave(value(t), value(t + 1), line);
    }
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
    for h in g * group..(g + 1) * group {
        let first = (n.lag() + a) * n.h + h;
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
        let parts = Read { near: &near, far: [&far[0], &far[1]], sums: &sums[..len], reach: &reach, gamma, d };
        // SAFETY: (query, head) rows of this chunk's readers and this kv head are the caller's alone.
        unsafe { put(&parts, into.out.get().add(first * d), into.den.get().add(first), n.h) }
    }
}

/// Cumulative log decays of a chunk per state; behind its last token that token's again.
fn cumulative(x: &Rounded, n: Dims, g: usize, a: usize, len: usize) -> [[f32; CHUNK]; 2] {
    [0, 1].map(|i| {
        let (mut sum, mut c) = (0.0, [0.0; CHUNK]);
        for (r, c) in c.iter_mut().enumerate() {
            if r < len {
                sum += x.log_decay[((a + r) * 2 + i) * n.g + g] as f64;
            }
            *c = sum as f32;
        }
        c
    })
}

fn start(x: &[bf16]) -> *const u16 {
    x.as_ptr() as *const u16
}

/// What the queries of one head read in one chunk.
struct Read<'a> {
    /// Of its keys [len, D].
    near: &'a [f32],
    /// Of the states before it [len, D + EXTRA].
    far: [&'a [f32]; 2],
    /// Of the weights of its keys [len].
    sums: &'a [f32],
    /// What is left of the states at each token.
    reach: &'a [[f32; CHUNK]; 2],
    gamma: [f32; 2],
    d: usize,
}

lanes! {
    /// num of `len` queries to rows of `out` and den to `den`, h rows apart.
    unsafe fn put<V>(x: &Read, out: *mut f32, den: *mut f32, h: usize) {
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

multiversion! {
    /// e^x, for x <= 0.
    fn falls<const FMA: bool>(x: &[f32; CHUNK]) -> [f32; CHUNK] {
        let mut e = [0.0; CHUNK];
        e.iter_mut().zip(x).for_each(|(e, x)| *e = exp_fall::<FMA>(*x));
        e
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

lanes! {
    /// `lines` times two rows of `wide`, two by two and rounded, to `out`; then they fade.
    unsafe fn pass_on<V>(x: *mut f32, lines: usize, wide: usize, fade: f32, out: *mut u16) {
        for line in 0..lines {
            for j in (0..wide).step_by(16) {
                // SAFETY: the caller's: whole vectors of every row.
                unsafe {
                    let (zero, fade) = (V::splat(0.0), V::splat(fade));
                    let (a, b) = (x.add(2 * line * wide + j), x.add((2 * line + 1) * wide + j));
                    let (of_a, of_b) = (V::load(a), V::load(b));
                    of_a.store_pairs(of_b, out.add(2 * (line * wide + j)));
                    zero.fma(of_a, fade).store(a);
                    zero.fma(of_b, fade).store(b);
                }
            }
        }
    }
}

lanes! {
    /// out [2 lines, 16], rows CHUNK apart, <- a panel's sixteen keys times their weights, rounded.
    unsafe fn weigh_keys<V>(panel: *const u16, lines: usize, w: *const f32, out: *mut u16) {
        for pair in 0..lines {
            // SAFETY: the caller's.
            unsafe {
                let (zero, w) = (V::splat(0.0), V::load(w));
                let (even, odd) = V::widen_pairs(panel.add(32 * pair));
                zero.fma(w, even).store_bf16(out.add(2 * pair * CHUNK));
                zero.fma(w, odd).store_bf16(out.add((2 * pair + 1) * CHUNK));
            }
        }
    }
}
