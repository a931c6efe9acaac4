//! Prefill where the machine multiplies bf16: as [`super::prefill`], with q and the probabilities rounded to it.

use super::super::Dims;
use super::prefill::{BLOCK, Tile};
use crate::bf16;
use crate::cache::Rows;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::simd::{self, exp2_fall};
use crate::vec::{narrow, soften};

/// Keys per packing task.
const RUN: usize = 256;
/// Rows whose scores are made at a time: with a block of keys and values what they need stays in the L1.
const STRIP: usize = 32;

/// Whether a call takes this path.
pub fn wanted(k: &Rows, n: Dims) -> bool {
    simd::pairs() && k.is_bf16() && n.d.is_multiple_of(16)
}

pub fn forward(q: &[f32], k: Rows, v: Rows, n: Dims, out: SendPtr<f32>) {
    let packed = Packed::new(k, v, n);
    Tile::each(n, |t| tile(q, &packed, &t, out));
}

/// Keys and values of every kv head in pairs, zero beyond the last.
struct Packed {
    /// [G][S / 16][D / 2][16][2]
    keys: Host<bf16>,
    /// [G][S / 2][D][2]
    values: Host<bf16>,
    /// Keys of a head, rounded up to what one tile of values has along the sum.
    padded: usize,
    d: usize,
}

impl Packed {
    fn new<'a>(k: Rows<'a>, v: Rows<'a>, n: Dims) -> Packed {
        let row = |x: &Rows<'a>, g, j| x.bf16(g, j).unwrap_or_else(|| unreachable!("keys and values have one dtype"));
        let (d, padded) = (n.d, n.s.next_multiple_of(32));
        let buffer = || Host::<bf16>::scratch(n.g * padded * d);
        let (mut keys, mut values) = (buffer(), buffer());
        let (kp, vp) = (SendPtr(keys.as_mut_ptr()), SendPtr(values.as_mut_ptr()));
        let runs = padded.div_ceil(RUN);
        let none = vec![bf16::ZERO; d];
        par::for_each(runs * n.g, |task| {
            let (g, j0) = (task / runs, task % runs * RUN);
            let (at, len) = ((g * padded + j0) * d, RUN.min(padded - j0) * d);
            // SAFETY: keys j0.. of head g are this task's alone, and RUN is whole panels.
            let [keys, values] =
                [&kp, &vp].map(|p| unsafe { std::slice::from_raw_parts_mut(p.get().add(at), len) });
            let row = |x: &Rows<'a>, j| if j < n.s { row(x, g, j) } else { &none };
            for (i, panel) in keys.chunks_exact_mut(16 * d).enumerate() {
                for l in 0..16 {
                    for (c, pair) in row(&k, j0 + 16 * i + l).chunks_exact(2).enumerate() {
                        panel[(c * 16 + l) * 2..][..2].copy_from_slice(pair);
                    }
                }
            }
            for (i, line) in values.chunks_exact_mut(2 * d).enumerate() {
                let (first, second) = (row(&v, j0 + 2 * i), row(&v, j0 + 2 * i + 1));
                for (pair, (a, b)) in line.chunks_exact_mut(2).zip(first.iter().zip(second)) {
                    (pair[0], pair[1]) = (*a, *b);
                }
            }
        });
        Packed { keys, values, padded, d }
    }

    /// a [height, BLOCK] <- q k^T for keys j0.. of head g, in whole panels.
    fn scores(&self, by: &mut PairProducts, g: usize, j0: usize, cols: usize, q: &[bf16], a: &mut [f32]) {
        let d = self.d;
        let k = &self.keys[(g * self.padded + j0) * d..][..cols.next_multiple_of(16) * d];
        let (a, b, c) = (q.as_ptr() as *const u16, k.as_ptr() as *const u16, a.as_mut_ptr());
        let p = Pairs { k: d / 2, a, lda: d, b, ldb: 32, panel: 16 * d, c, ldc: BLOCK, add: false };
        // SAFETY: q holds rows of d, k whole panels, `a` as many rows of BLOCK.
        unsafe { by.product(p, q.len() / d, cols.next_multiple_of(16)) }
    }

    /// acc [height, D] += a v for values j0.. of head g; a [height, BLOCK], zero up to whole tiles.
    fn weighted(&self, by: &mut PairProducts, g: usize, j0: usize, cols: usize, a: &[bf16], acc: &mut [f32]) {
        let (d, k) = (self.d, cols.next_multiple_of(32) / 2);
        let v = &self.values[(g * self.padded + j0) * d..][..2 * k * d];
        let (a, b, c) = (a.as_ptr() as *const u16, v.as_ptr() as *const u16, acc.as_mut_ptr());
        let p = Pairs { k, a, lda: BLOCK, b, ldb: 2 * d, panel: 32, c, ldc: d, add: true };
        // SAFETY: as above; d is a multiple of 16.
        unsafe { by.product(p, acc.len() / d, d) }
    }
}

fn tile(q: &[f32], packed: &Packed, t: &Tile, out: SendPtr<f32>) {
    let (d, height) = (t.n.d, t.height());
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let mut qs = Host::<bf16>::scratch(height * d);
    for (r, qs) in qs.chunks_exact_mut(d).enumerate() {
        narrow(&q[t.place(r) * d..][..d], qs);
    }
    let mut by = PairProducts::new();
    let mut a = Host::<f32>::scratch(STRIP * BLOCK);
    let mut weights = Host::<bf16>::scratch(STRIP * BLOCK);
    let mut acc = Host::<f32>::zeros(height * d);
    let mut stats = vec![(f32::NEG_INFINITY, 0.0f32); height];
    for j0 in (0..t.seen()).step_by(BLOCK) {
        let cols = BLOCK.min(t.seen() - j0);
        let wide = cols.next_multiple_of(32);
        for r0 in (0..height).step_by(STRIP) {
            let rows = STRIP.min(height - r0);
            let (a, acc) = (&mut a[..rows * BLOCK], &mut acc[r0 * d..][..rows * d]);
            packed.scores(&mut by, t.g, j0, cols, &qs[r0 * d..][..rows * d], a);
            for (r, (a, w)) in a.chunks_exact_mut(BLOCK).zip(weights.chunks_exact_mut(BLOCK)).enumerate() {
                let visible = t.visible(r0 + r, j0, cols);
                a[visible..wide].fill(f32::NEG_INFINITY);
                let (peak, sum) = &mut stats[r0 + r];
                let (top, more) = soften(&a[..wide], scale, *peak, &mut w[..wide]);
                if top > *peak {
                    let fade = exp2_fall::<false>((*peak - top) * scale);
                    acc[r * d..][..d].iter_mut().for_each(|x| *x *= fade);
                    (*peak, *sum) = (top, *sum * fade);
                }
                *sum += more;
            }
            packed.weighted(&mut by, t.g, j0, cols, &weights[..rows * BLOCK], acc);
        }
    }
    t.put(&acc, |r| stats[r].1, out);
}
