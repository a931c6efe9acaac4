//! Prefill: keys and values are packed once, as f32 in the order the products read them; then tiles of queries, all heads
//! of a group together, against blocks of keys with a running maximum (FlashAttention-2's online softmax).

use super::super::Dims;
use super::pairs;
use crate::cache::Rows;
use crate::gemm::Into;
use crate::host::Host;
use crate::panels::{Of, Panels};
use crate::par::{self, SendPtr};
use crate::vec::{exp_sub_sum, max};

/// Queries per tile: with three heads in a group 192 rows, whole register tiles of 6 and 12.
const TILE: usize = 64;
/// Keys per block.
pub const BLOCK: usize = 128;

pub fn forward(q: &[f32], k: Rows, v: Rows, n: Dims, out: &mut [f32]) {
    if n.d == 0 || n.h == 0 {
        return;
    }
    let out = SendPtr(out.as_mut_ptr());
    if pairs::wanted(&k, n) {
        return pairs::forward(q, k, v, n, out);
    }
    let panels = Panels::new(n.g, n.s, n.d, 0, |of, g, j, out| {
        let rows = if of == Of::Keys { &k } else { &v };
        rows.head(g, j, out.len() / n.d, out)
    });
    Tile::each(n, TILE, |t| tile(q, &panels, &t, out));
}

/// Queries t0..t0 + m, all heads of kv head g: rows (head, query).
pub struct Tile {
    pub n: Dims,
    pub g: usize,
    t0: usize,
    m: usize,
}

impl Tile {
    /// All tiles of a call, of so many queries, in parallel; long rows first, so that the last tasks are short.
    pub fn each(n: Dims, queries: usize, f: impl Fn(Tile) + Sync) {
        let tiles = n.t.div_ceil(queries);
        par::for_each(tiles * n.g, |task| {
            let t0 = (tiles - 1 - task / n.g) * queries;
            f(Tile { n, g: task % n.g, t0, m: queries.min(n.t - t0) });
        });
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.n.h / self.n.g * self.m
    }

    /// Keys that any of its queries sees.
    pub fn seen(&self) -> usize {
        self.n.s - self.n.t + self.t0 + self.m
    }

    /// (query, head) of a row, as q and out have them.
    pub fn place(&self, row: usize) -> usize {
        (self.t0 + row % self.m) * self.n.h + self.g * (self.n.h / self.n.g) + row / self.m
    }

    /// Of `cols` keys from j0 on those that a row sees.
    pub fn visible(&self, row: usize, j0: usize, cols: usize) -> usize {
        (self.n.s - self.n.t + self.t0 + row % self.m + 1).saturating_sub(j0).min(cols)
    }

    /// out <- the rows of acc [height, D], each divided by its sum.
    pub fn put(&self, acc: &[f32], sum: impl Fn(usize) -> f32, out: SendPtr<f32>) {
        let d = self.n.d;
        for (row, acc) in acc.chunks_exact(d).take(self.height()).enumerate() {
            // SAFETY: (query, head) rows belong to this (tile, kv head) task alone.
            let o = unsafe { std::slice::from_raw_parts_mut(out.get().add(self.place(row) * d), d) };
            let inv = 1.0 / sum(row);
            o.iter_mut().zip(acc).for_each(|(o, x)| *o = x * inv);
        }
    }
}

fn tile(q: &[f32], panels: &Panels, t: &Tile, out: SendPtr<f32>) {
    let (d, height) = (t.n.d, t.height());
    let scale = 1.0 / (d as f32).sqrt();
    let mut qs = Host::<f32>::scratch(height * d);
    for (row, qs) in qs.chunks_exact_mut(d).enumerate() {
        qs.iter_mut().zip(&q[t.place(row) * d..][..d]).for_each(|(o, x)| *o = x * scale);
    }
    let mut a = Host::<f32>::scratch(height * BLOCK);
    let mut acc = Host::<f32>::zeros(height * d);
    let mut stats = vec![(f32::NEG_INFINITY, 0.0f32); height];
    for j0 in (0..t.seen()).step_by(BLOCK) {
        let cols = BLOCK.min(t.seen() - j0);
        panels.scores(t.g, j0, cols, &qs, &mut a, BLOCK);
        for (row, (a, (peak, sum))) in a.chunks_exact_mut(BLOCK).zip(&mut stats).enumerate() {
            let (a, hidden) = a[..cols].split_at_mut(t.visible(row, j0, cols));
            hidden.fill(0.0);
            if a.is_empty() {
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
        panels.weighted(Into::Add, t.g, j0, cols, &a, BLOCK, &mut acc);
    }
    t.put(&acc, |row| stats[row].1, out);
}
