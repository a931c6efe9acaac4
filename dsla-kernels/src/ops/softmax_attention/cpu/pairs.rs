//! Prefill where the machine multiplies bf16: as [`super::prefill`], with q and the probabilities rounded to it.

use super::super::Dims;
use super::prefill::{BLOCK, Tile};
use crate::bf16;
use crate::cache::Rows;
use crate::gemm::PairProducts;
use crate::host::Host;
use crate::pair_panels::{PairPanels, TILE};
use crate::panels::Of;
use crate::par::SendPtr;
use crate::simd;
use crate::vec::{SoftRow, narrow};

/// Queries per tile: all of a cache's keys come from memory once per tile.
const QUERIES: usize = 128;
/// Rows whose scores are made at a time: with a block of keys and values what they need stays in the L1.
const STRIP: usize = 32;

/// Whether a call takes this path.
pub fn wanted(k: &Rows, n: Dims) -> bool {
    simd::pairs() && k.is_bf16() && n.d.is_multiple_of(16)
}

pub fn forward(q: &[f32], k: Rows, v: Rows, n: Dims, out: SendPtr<f32>) {
    let panels = PairPanels::new(n.g, n.s, n.d, 0, |of, g, j| {
        let rows = if of == Of::Keys { &k } else { &v };
        rows.bf16(g, j).unwrap_or_else(|| unreachable!("keys and values have one dtype"))
    });
    Tile::each(n, QUERIES, |t| tile(q, &panels, &t, out));
}

/// Parts of a strip that run by turns: the tile unit's products of one strip hide behind the exponentials of another.
const PARTS: usize = 4;

fn tile(q: &[f32], panels: &PairPanels, t: &Tile, out: SendPtr<f32>) {
    let (d, height) = (t.n.d, t.height());
    let mut qs = Host::<bf16>::scratch(height * d);
    for (r, qs) in qs.chunks_exact_mut(d).enumerate() {
        narrow(&q[t.place(r) * d..][..d], qs);
    }
    // Scores against the peak of the first block, which every query sees: no later block asks for its own, and nothing that was
    // summed is scaled again. f32 has room for scores that are larger by 60, and hardly any is.
    let (mut acc, mut soft) = attend(&qs, panels, t, false);
    let ample = (-60.0f32).exp2()..60.0f32.exp2();
    if !soft.iter().all(|row| ample.contains(&row.sum())) {
        (acc, soft) = attend(&qs, panels, t, true);
    }
    t.put(&acc, |row| soft[row].sum(), out);
}

/// Sums of values [height, D] by weights, and the weights' sums. `online`: every block raises the peak.
fn attend(q: &[bf16], panels: &PairPanels, t: &Tile, online: bool) -> (Host<f32>, Vec<SoftRow>) {
    let (d, height) = (t.n.d, t.height());
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let mut by = PairProducts::new();
    let mut scores = [0, 1].map(|_| Host::<f32>::scratch(STRIP * BLOCK));
    let mut weights = [0, 1].map(|_| Host::<bf16>::scratch(STRIP * BLOCK));
    let (mut acc, mut soft) = (Host::<f32>::zeros(height * d), vec![SoftRow::NONE; height]);
    // Strip i: which keys, how many, which rows.
    let strips = height.div_ceil(STRIP);
    let strip = |i: usize| {
        let (j0, r0) = (i / strips * BLOCK, i % strips * STRIP);
        (j0, BLOCK.min(t.seen() - j0), r0..height.min(r0 + STRIP))
    };
    let count = strips * t.seen().div_ceil(BLOCK);
    for i in 0..count + 2 {
        for part in 0..PARTS {
            if i < count {
                let (j0, cols, rows) = strip(i);
                let from = part * BLOCK / PARTS;
                let some = cols.saturating_sub(from).min(BLOCK / PARTS);
                let q = &q[rows.start * d..rows.end * d];
                let a = &mut scores[i % 2][from..rows.len() * BLOCK];
                panels.scores(&mut by, t.g, j0 + from, some, q, a, BLOCK);
            }
            if let Some(i) = i.checked_sub(2) {
                let (j0, cols, rows) = strip(i);
                // (What is scaled again must be complete.)
                let step = if online { d } else { d.div_ceil(PARTS).next_multiple_of(TILE) };
                let columns = d.min(part * step)..d.min((part + 1) * step);
                let (w, acc) = (&weights[i % 2][..rows.len() * BLOCK], &mut acc[rows.start * d..rows.end * d]);
                panels.weighted(&mut by, t.g, j0, cols, w, BLOCK, acc, columns);
            }
            let Some(i) = i.checked_sub(1).filter(|&i| i < count) else { continue };
            let (j0, cols, rows) = strip(i);
            let wide = cols.next_multiple_of(TILE);
            for r in (rows.start + part * STRIP / PARTS..rows.end).take(STRIP / PARTS) {
                let at = (r - rows.start) * BLOCK;
                let a = &mut scores[i % 2][at..at + wide];
                a[t.visible(r, j0, cols)..].fill(f32::NEG_INFINITY);
                if (j0 == 0 || online)
                    && let Some(fade) = soft[r].raise(a, scale)
                {
                    acc[r * d..][..d].iter_mut().for_each(|x| *x *= fade);
                }
                soft[r].weigh(a, scale, &mut weights[i % 2][at..at + wide]);
            }
        }
    }
    (acc, soft)
}
