//! Prefill where the machine multiplies bf16: as [`super::prefill`], with q and the probabilities rounded to it.

use super::super::Dims;
use super::prefill::Tile;
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
/// Rows of a strip and keys of a block: their scores, weights and sums of values stay in the L1 while keys pass by.
const STRIP: usize = 32;
const BLOCK: usize = 64;
/// Keys that all strips of a tile go over before the next: with their values half a megabyte at D = 64, in the L2.
const SEGMENT: usize = 1024;

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

/// Parts of a block that run by turns: the tile unit's products of one block hide behind the exponentials of another.
const PARTS: usize = 2;

fn tile(q: &[f32], panels: &PairPanels, t: &Tile, out: SendPtr<f32>) {
    let (d, height) = (t.n.d, t.height());
    let mut qs = Host::<bf16>::scratch(height * d);
    for (r, qs) in qs.chunks_exact_mut(d).enumerate() {
        narrow(&q[t.place(r) * d..][..d], qs);
    }
    // Scores against the peak of the first block, which every query sees: no later block asks for its own, and nothing that was
    // summed is scaled again. f32 has room for scores that are larger by 60, and hardly any is.
    let (mut acc, mut sums) = match tiles_fit(d) {
        true => attend_tiles(&qs, panels, t),
        false => attend(&qs, panels, t, false),
    };
    let ample = (-60.0f32).exp2()..60.0f32.exp2();
    if !sums.iter().all(|sum| ample.contains(sum)) {
        (acc, sums) = attend(&qs, panels, t, true);
    }
    t.put(&acc, |row| sums[row], out);
}

#[cfg(target_arch = "x86_64")]
use super::tiles::{attend as attend_tiles, fits as tiles_fit};

#[cfg(not(target_arch = "x86_64"))]
fn tiles_fit(_: usize) -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn attend_tiles(_: &[bf16], _: &PairPanels, _: &Tile) -> Read {
    unreachable!("there are none")
}

/// Sums of values [rows, D] by weights, and the weights' sums.
pub type Read = (Host<f32>, Vec<f32>);

/// A block of scores: keys j0.. against some rows.
#[derive(Clone, Copy)]
struct Block {
    j0: usize,
    cols: usize,
    r0: usize,
    r1: usize,
}

/// All blocks that a tile's rows see, in the order they are gone over; the first keys come first.
fn blocks(t: &Tile) -> impl Iterator<Item = Block> {
    let (height, seen) = (t.height(), t.seen());
    (0..seen).step_by(SEGMENT).flat_map(move |s0| {
        (0..height).step_by(STRIP).flat_map(move |r0| {
            let r1 = height.min(r0 + STRIP);
            let end = (r0..r1).map(|r| t.visible(r, 0, seen)).max().unwrap_or(0).min(s0 + SEGMENT);
            (s0..end).step_by(BLOCK).map(move |j0| Block { j0, cols: BLOCK.min(end - j0), r0, r1 })
        })
    })
}

/// `online`: every block raises the peak.
fn attend(q: &[bf16], panels: &PairPanels, t: &Tile, online: bool) -> Read {
    let (d, height) = (t.n.d, t.height());
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let mut by = PairProducts::new();
    let mut scores = [0, 1].map(|_| Host::<f32>::scratch(STRIP * BLOCK));
    let mut weights = [0, 1].map(|_| Host::<bf16>::scratch(STRIP * BLOCK));
    let (mut acc, mut soft) = (Host::<f32>::zeros(height * d), vec![SoftRow::NONE; height]);
    let mut todo = blocks(t);
    // A block's scores are made while the weights of the one before are, and its values are summed after that.
    let mut stages = [None, None, None];
    for i in 0.. {
        stages = [todo.next(), stages[0], stages[1]];
        if stages.iter().all(Option::is_none) {
            break;
        }
        for part in 0..PARTS {
            if let Some(Block { j0, cols, r0, r1 }) = stages[0] {
                let from = part * BLOCK / PARTS;
                let some = cols.saturating_sub(from).min(BLOCK / PARTS);
                let a = &mut scores[i % 2][from..(r1 - r0) * BLOCK];
                panels.scores(&mut by, t.g, j0 + from, some, &q[r0 * d..r1 * d], a, BLOCK);
            }
            if let Some(Block { j0, cols, r0, r1 }) = stages[2] {
                // (What is scaled again must be complete.)
                let step = if online { d } else { d.div_ceil(PARTS).next_multiple_of(TILE) };
                let columns = d.min(part * step)..d.min((part + 1) * step);
                let (w, acc) = (&weights[i % 2][..(r1 - r0) * BLOCK], &mut acc[r0 * d..r1 * d]);
                panels.weighted(&mut by, t.g, j0, cols, w, BLOCK, acc, columns);
            }
            let Some(Block { j0, cols, r0, r1 }) = stages[1] else { continue };
            let (first, last) = (r0 + part * STRIP / PARTS, r1.min(r0 + (part + 1) * STRIP / PARTS));
            if first >= last {
                continue;
            }
            let of = (first - r0) * BLOCK..(last - r0) * BLOCK;
            let wide = cols.next_multiple_of(TILE);
            let (a, w) = (&mut scores[(i + 1) % 2][of.clone()], &mut weights[(i + 1) % 2][of]);
            for (r, a) in (first..).zip(a.chunks_exact_mut(BLOCK)) {
                let seen = t.visible(r, j0, cols);
                if seen < wide {
                    a[seen..wide].fill(f32::NEG_INFINITY);
                }
                if (j0 == 0 || online)
                    && let Some(fade) = soft[r].raise(&a[..wide], scale)
                {
                    acc[r * d..][..d].iter_mut().for_each(|x| *x *= fade);
                }
            }
            SoftRow::weigh_all(&mut soft[first..last], a, scale, w, BLOCK, wide);
        }
    }
    (acc, soft.iter().map(SoftRow::sum).collect())
}
