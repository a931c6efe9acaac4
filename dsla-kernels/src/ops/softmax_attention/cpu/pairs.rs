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
use crate::simd::{self, exp2_fall};
use crate::vec::{narrow, soften};

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
    Tile::each(n, |t| tile(q, &panels, &t, out));
}

fn tile(q: &[f32], panels: &PairPanels, t: &Tile, out: SendPtr<f32>) {
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
        let wide = cols.next_multiple_of(TILE);
        for r0 in (0..height).step_by(STRIP) {
            let rows = STRIP.min(height - r0);
            let (a, acc) = (&mut a[..rows * BLOCK], &mut acc[r0 * d..][..rows * d]);
            panels.scores(&mut by, t.g, j0, cols, &qs[r0 * d..][..rows * d], a, BLOCK);
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
            panels.weighted(&mut by, t.g, j0, cols, &weights[..rows * BLOCK], BLOCK, acc);
        }
    }
    t.put(&acc, |r| stats[r].1, out);
}
