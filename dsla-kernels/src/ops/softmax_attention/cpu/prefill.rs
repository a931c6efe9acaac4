//! Prefill: keys and values are packed once, as f32 in the order the products read them; then tiles of queries, all heads
//! of a group together, against blocks of keys with a running maximum (FlashAttention-2's online softmax).

use super::super::Dims;
use crate::cache::Rows;
use crate::gemm::{Into, Pairs, gemm_pairs};
use crate::host::Host;
use crate::panels::{Of, Panels};
use crate::par::{self, SendPtr};
use crate::simd;
use crate::vec::{exp_sub_sum, max, narrow};
use crate::bf16;

/// Queries per tile: with three heads in a group 192 rows, whole register tiles of 6 and 12.
const TILE: usize = 64;
/// Keys per block.
const BLOCK: usize = 128;
/// Keys per packing task.
const RUN: usize = 256;

/// Keys and values of every kv head, zero beyond the last.
enum Packed {
    F32(Panels),
    /// Pairs for instructions that multiply bf16: keys [G][S/16][D/2][16][2], values [G][S/2][D][2].
    BF16(Host<u32>, Host<u32>),
}

/// Keys of a head, rounded up to whole panels.
fn padded(n: Dims) -> usize {
    n.s.next_multiple_of(16)
}

/// Whether this call multiplies bf16: then q and the probabilities are rounded to it, as a GPU's kernels do.
fn pairs(k: &Rows, n: Dims) -> bool {
    simd::pairs() && k.is_bf16() && n.d.is_multiple_of(16)
}

impl Packed {
    fn new(k: Rows, v: Rows, n: Dims) -> Packed {
        match pairs(&k, n) {
            true => Packed::pairs(k, v, n),
            false => Packed::F32(Panels::new(n.g, n.s, n.d, 0, |of, g, j, out| {
                let rows = if of == Of::Keys { &k } else { &v };
                rows.head(g, j, out.len() / n.d, out)
            })),
        }
    }

    /// Run f(head, first key, keys) over runs of whole panels, in parallel.
    fn runs(n: Dims, f: impl Fn(usize, usize, usize) + Sync) {
        let runs = n.s.div_ceil(RUN);
        par::for_each(runs * n.g, |task| {
            let (g, j0) = (task / runs, task % runs * RUN);
            f(g, j0, RUN.min(n.s - j0));
        });
    }

    fn pairs<'a>(k: Rows<'a>, v: Rows<'a>, n: Dims) -> Packed {
        let row = |x: &Rows<'a>, g, j| x.bf16(g, j).unwrap_or_else(|| unreachable!("keys and values have one dtype"));
        let buffer = || Host::<u32>::zeros(n.g * padded(n) * n.d / 2);
        let (mut keys, mut values) = (buffer(), buffer());
        let (kp, vp) = (SendPtr(keys.as_mut_ptr()), SendPtr(values.as_mut_ptr()));
        let pair = |a: bf16, b: bf16| a.to_bits() as u32 | (b.to_bits() as u32) << 16;
        Packed::runs(n, |g, j0, count| {
            let (at, whole) = ((g * padded(n) + j0) * n.d / 2, count.next_multiple_of(16) * n.d / 2);
            // SAFETY: keys j0..j0 + count of head g are this task's alone, and RUN is whole panels.
            let (kt, vt) = unsafe {
                (
                    std::slice::from_raw_parts_mut(kp.get().add(at), whole),
                    std::slice::from_raw_parts_mut(vp.get().add(at), whole),
                )
            };
            for j in 0..count {
                let k = row(&k, g, j0 + j);
                let panel = &mut kt[j / 16 * 8 * n.d..];
                for (c, k) in k.chunks_exact(2).enumerate() {
                    panel[c * 16 + j % 16] = pair(k[0], k[1]);
                }
            }
            for j in (0..count).step_by(2) {
                let first = row(&v, g, j0 + j);
                let out = &mut vt[j / 2 * n.d..][..n.d];
                match j + 1 < count {
                    true => {
                        let second = row(&v, g, j0 + j + 1);
                        out.iter_mut().zip(first.iter().zip(second)).for_each(|(o, (a, b))| *o = pair(*a, *b));
                    }
                    false => out.iter_mut().zip(first).for_each(|(o, a)| *o = pair(*a, bf16::ZERO)),
                }
            }
        });
        Packed::BF16(keys, values)
    }

    /// a [height, BLOCK] = q k^T for keys j0.. of head g.
    fn scores(&self, n: Dims, g: usize, j0: usize, cols: usize, q: &Queries, a: &mut [f32]) {
        let (d, height) = (n.d, a.len() / BLOCK);
        match (self, q) {
            (Packed::F32(panels), Queries::F32(q)) => panels.scores(g, j0, cols, q, a, BLOCK),
            (Packed::BF16(k, _), Queries::BF16(q)) => {
                let cols = cols.next_multiple_of(16);
                let k = k[(g * padded(n) + j0) * d / 2..][..cols * d / 2].as_ptr() as *const u16;
                let (q, c) = (q.as_ptr() as *const u16, a.as_mut_ptr());
                let p = Pairs { k: d / 2, a: q, lda: d, b: k, ldb: 32, panel: 16 * d, c, ldc: BLOCK, add: false };
                // SAFETY: as above; whole panels fit into BLOCK.
                unsafe { gemm_pairs(p, height, cols) }
            }
            _ => unreachable!("queries are made for the keys"),
        }
    }

    /// acc [height, D] += a v for values j0.. of head g; a [height, BLOCK].
    fn weighted(&self, n: Dims, g: usize, j0: usize, cols: usize, a: &mut [f32], acc: &mut [f32]) {
        let (d, height) = (n.d, a.len() / BLOCK);
        match self {
            Packed::F32(panels) => panels.weighted(Into::Add, g, j0, cols, a, BLOCK, acc),
            Packed::BF16(_, v) => {
                let k = cols.div_ceil(2);
                let mut narrowed = Host::<u32>::scratch(height * BLOCK / 2);
                // SAFETY: a u32 is two bf16 of lesser alignment.
                let halves = unsafe {
                    std::slice::from_raw_parts_mut(narrowed.as_mut_ptr() as *mut bf16, height * BLOCK)
                };
                for (to, a) in halves.chunks_exact_mut(BLOCK).zip(a.chunks_exact_mut(BLOCK)) {
                    // An odd number of keys: the last pair's second value is zero, and so must its weight be.
                    a[cols..2 * k].fill(0.0);
                    narrow(&a[..2 * k], &mut to[..2 * k]);
                }
                let v = v[(g * padded(n) + j0) * d / 2..][..k * d].as_ptr() as *const u16;
                let (a, c) = (narrowed.as_ptr() as *const u16, acc.as_mut_ptr());
                let p = Pairs { k, a, lda: BLOCK, b: v, ldb: 2 * d, panel: 32, c, ldc: d, add: true };
                // SAFETY: as above; d is a multiple of 16.
                unsafe { gemm_pairs(p, height, d) }
            }
        }
    }
}

/// The scaled queries of a tile [height, D].
enum Queries {
    F32(Host<f32>),
    BF16(Host<u32>),
}

impl Queries {
    fn new(q: Host<f32>, packed: &Packed) -> Queries {
        match packed {
            Packed::F32(..) => Queries::F32(q),
            Packed::BF16(..) => {
                let mut pairs = Host::<u32>::scratch(q.len() / 2);
                // SAFETY: a u32 is two bf16 of lesser alignment; D is even.
                let to = unsafe { std::slice::from_raw_parts_mut(pairs.as_mut_ptr() as *mut bf16, q.len()) };
                narrow(&q, to);
                Queries::BF16(pairs)
            }
        }
    }
}

pub fn forward(q: &[f32], k: Rows, v: Rows, n: Dims, out: &mut [f32]) {
    if n.d == 0 || n.h == 0 {
        return;
    }
    let packed = Packed::new(k, v, n);
    let tiles = n.t.div_ceil(TILE);
    let op = SendPtr(out.as_mut_ptr());
    // Long rows first, so that the last tasks are short.
    par::for_each(tiles * n.g, |task| tile(q, &packed, n, task % n.g, tiles - 1 - task / n.g, op));
}

/// Queries of one tile, all heads of kv head g: rows (head, query).
fn tile(q: &[f32], packed: &Packed, n: Dims, g: usize, tile: usize, out: SendPtr<f32>) {
    let (t0, m) = (tile * TILE, TILE.min(n.t - tile * TILE));
    let (group, d) = (n.h / n.g, n.d);
    let (before, height) = (n.s - n.t + t0, group * m);
    let seen = before + m;
    let scale = 1.0 / (d as f32).sqrt();
    let mut qs = Host::<f32>::scratch(height * d);
    for (row, qs) in qs.chunks_exact_mut(d).enumerate() {
        let (i, r) = (row / m, row % m);
        let from = &q[((t0 + r) * n.h + g * group + i) * d..][..d];
        qs.iter_mut().zip(from).for_each(|(o, x)| *o = x * scale);
    }
    let qs = Queries::new(qs, packed);
    let mut a = Host::<f32>::scratch(height * BLOCK);
    let mut acc = Host::<f32>::zeros(height * d);
    let mut stats = vec![(f32::NEG_INFINITY, 0.0f32); height];
    for j0 in (0..seen).step_by(BLOCK) {
        let cols = BLOCK.min(seen - j0);
        packed.scores(n, g, j0, cols, &qs, &mut a);
        for (row, (a, (peak, sum))) in a.chunks_exact_mut(BLOCK).zip(&mut stats).enumerate() {
            let visible = (before + row % m + 1).saturating_sub(j0).min(cols);
            let (a, hidden) = a[..cols].split_at_mut(visible);
            hidden.fill(0.0);
            if visible == 0 {
                continue;
            }
            let top = max(a).max(*peak);
            if top == f32::NEG_INFINITY {
                a.fill(0.0);
                continue;
            }
            if top > *peak {
                let fade = (*peak - top).exp();
                *sum *= fade;
                acc[row * d..][..d].iter_mut().for_each(|x| *x *= fade);
                *peak = top;
            }
            *sum += exp_sub_sum(a, top);
        }
        packed.weighted(n, g, j0, cols, &mut a, &mut acc);
    }
    for (row, (acc, (_, sum))) in acc.chunks_exact(d).zip(&stats).enumerate() {
        let at = ((t0 + row % m) * n.h + g * group + row / m) * d;
        // SAFETY: (query, head) rows belong to this (tile, kv head) task alone.
        let o = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), d) };
        let inv = 1.0 / *sum;
        o.iter_mut().zip(acc).for_each(|(o, x)| *o = x * inv);
    }
}
