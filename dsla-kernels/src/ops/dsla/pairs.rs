//! The linear part under scalar decays where the machine multiplies bf16: features, states, decayed scores and values are rounded
//! to it, sums are f32. So flash-linear-attention's kernels do, too.

mod chunk;

pub use chunk::{Far, Into, put};

use super::Dims;
use super::chunk::CHUNK;
use super::cpu::RUN;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::pair_panels::{TILE, interleave, put_keys};
use crate::par::{self, SendPtr};
use crate::simd::lanes::lanes;
use crate::simd::exp_fall;
use crate::{DType, View, bf16, multiversion};

/// Features whose part of the states one task carries along.
const PART: usize = 64;
/// Columns of a state beside its values: the first is z, which the normaliser reads.
pub const EXTRA: usize = 16;

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

impl Rounded<'_> {
    /// Values of head g, keys a..a + len two by two, to lines of `wide` pairs. (What is behind the last key weighs nothing.)
    fn put_values(&self, n: Dims, g: usize, a: usize, len: usize, lines: &mut [bf16], wide: usize) {
        let value = |t: usize| &self.v[((a + t.min(len - 1)) * n.g + g) * n.d..][..n.d];
        for (t, line) in (0..len.next_multiple_of(TILE)).step_by(2).zip(lines.chunks_exact_mut(2 * wide)) {
            interleave(value(t), value(t + 1), &mut line[..2 * n.d]);
        }
    }
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

/// Every query that reads a chunk; the states move on.
pub fn forward(x: &Rounded, n: Dims, s: &mut [f32], z: &mut [f32], into: &Into) {
    sweep(x, n, s, z, |run, first, count| {
        par::for_each(count * n.g, |task| {
            chunk::read(x, n, task % n.g, first + task / n.g, run, task / n.g, into)
        });
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
            let mut part = Part::new(n, f0);
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
                x.put_values(n, g, a, len, &mut part.values, wide);
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
    fn new(n: Dims, f0: usize) -> Part {
        let (f, wide) = (PART.min(n.f - f0), n.d + EXTRA);
        let mut values = Host::<bf16>::zeros(CHUNK * wide);
        values.chunks_exact_mut(2 * wide).for_each(|line| line[2 * n.d..2 * n.d + 2].fill(bf16::ONE));
        let states = [Host::zeros(f * wide), Host::zeros(f * wide)];
        let [panels, weighed] = [Host::scratch(f * CHUNK), Host::scratch(f * CHUNK)];
        Part { f, wide, states, panels, weighed, values, by: PairProducts::new() }
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

/// Cumulative log decays of a chunk per state; behind its last token that token's again.
pub(super) fn cumulative(x: &Rounded, n: Dims, g: usize, a: usize, len: usize) -> [[f32; CHUNK]; 2] {
    super::chunk::cumulative(x.log_decay, n, g, a, len)
        .map(|c| std::array::from_fn(|r| c[r.min(len - 1)] as f32))
}

pub(super) fn start(x: &[bf16]) -> *const u16 {
    x.as_ptr() as *const u16
}

multiversion! {
    /// e^x, for x <= 0.
    pub(super) fn falls<const FMA: bool>(x: &[f32; CHUNK]) -> [f32; CHUNK] {
        let mut e = [0.0; CHUNK];
        e.iter_mut().zip(x).for_each(|(e, x)| *e = exp_fall::<FMA>(*x));
        e
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
