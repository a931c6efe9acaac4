//! Prefill: keys and values are packed once, as f32 in the order the products read them; then tiles of queries, all heads
//! of a group together, against blocks of keys with a running maximum (FlashAttention-2's online softmax).

use super::super::Dims;
use crate::View;
use crate::gemm::{Into, gemm_raw, rows};
use crate::host::Host;
use crate::par::{self, SendPtr};
use crate::vec::{exp_sub_sum, head_rows, max};

/// Queries per tile: with three heads in a group 192 rows, whole register tiles of 6 and 12.
const TILE: usize = 64;
/// Keys per block.
const BLOCK: usize = 128;
/// Keys per packing task.
const RUN: usize = 256;

/// The keys of each kv head transposed in panels of 16, [G][S/16][D][16], and its values [G][S][D].
struct Packed {
    k: Host<f32>,
    v: Host<f32>,
    /// Keys of a head, rounded up to whole panels.
    padded: usize,
}

impl Packed {
    fn new(k: View, v: View, n: Dims) -> Packed {
        let padded = n.s.next_multiple_of(16);
        let buffer = || Host::zeros(n.g * padded * n.d);
        let mut packed = Packed { k: buffer(), v: buffer(), padded };
        let (kp, vp) = (SendPtr(packed.k.as_mut_ptr()), SendPtr(packed.v.as_mut_ptr()));
        let runs = n.s.div_ceil(RUN);
        par::for_each(runs * n.g, |task| {
            let (g, j0) = (task / runs, task % runs * RUN);
            let count = RUN.min(n.s - j0);
            let at = (g * padded + j0) * n.d;
            // SAFETY: keys j0..j0 + count of head g are this task's alone, and RUN is whole panels.
            let (kt, vs) = unsafe {
                (
                    std::slice::from_raw_parts_mut(kp.get().add(at), count.next_multiple_of(16) * n.d),
                    std::slice::from_raw_parts_mut(vp.get().add(at), count * n.d),
                )
            };
            head_rows(&v, g, j0, count, vs);
            let mut buf = Host::<f32>::scratch(16 * n.d);
            for (i, panel) in kt.chunks_exact_mut(16 * n.d).enumerate() {
                let here = 16.min(count - i * 16);
                head_rows(&k, g, j0 + i * 16, here, &mut buf);
                for (l, row) in buf.chunks_exact(n.d).take(here).enumerate() {
                    for (c, x) in row.iter().enumerate() {
                        panel[c * 16 + l] = *x;
                    }
                }
            }
        });
        packed
    }
}

pub fn forward(q: &[f32], k: View, v: View, n: Dims, out: &mut [f32]) {
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
    let mut a = Host::<f32>::scratch(height * BLOCK);
    let mut acc = Host::<f32>::zeros(height * d);
    let mut stats = vec![(f32::NEG_INFINITY, 0.0f32); height];
    for j0 in (0..seen).step_by(BLOCK) {
        let cols = BLOCK.min(seen - j0);
        let at = (g * packed.padded + j0) * d;
        let (kt, vs) = (&packed.k[at..][..cols.next_multiple_of(16) * d], &packed.v[at..][..cols * d]);
        // SAFETY: qs holds `height` rows of d, kt whole panels for `cols` keys, a `height` rows of BLOCK.
        unsafe { gemm_raw(Into::Store, height, cols, d, rows(&qs, d), kt.as_ptr(), 16, 16 * d, a.as_mut_ptr(), BLOCK) };
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
        // SAFETY: a holds `height` rows of BLOCK, vs `cols` rows of d, acc `height` rows of d.
        unsafe { gemm_raw(Into::Add, height, d, cols, rows(&a, BLOCK), vs.as_ptr(), d, 16, acc.as_mut_ptr(), d) };
    }
    for (row, (acc, (_, sum))) in acc.chunks_exact(d).zip(&stats).enumerate() {
        let at = ((t0 + row % m) * n.h + g * group + row / m) * d;
        // SAFETY: (query, head) rows belong to this (tile, kv head) task alone.
        let o = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), d) };
        let inv = 1.0 / *sum;
        o.iter_mut().zip(acc).for_each(|(o, x)| *o = x * inv);
    }
}
