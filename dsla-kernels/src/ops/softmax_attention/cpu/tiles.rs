//! Prefill on AMX tiles: strips of sixteen rows against segments of keys.

use super::pairs::Read;
use super::prefill::Tile;
use crate::amx::Tiles;
use crate::bf16;
use crate::host::Host;
use crate::pair_panels::PairPanels;
pub(crate) use crate::strip::fits;
use crate::strip::{COLUMNS, KEYS, Pass, ROWS, Strip, WEIGHTS};

/// Bytes of keys and values that all strips go over before the next: in the L2 with room to spare.
const SEGMENT: usize = 512 << 10;

/// Sums of values by weights against the peak of the first block. A row whose weights leave what f32 holds has a sum that is no
/// number, or none.
pub fn attend(q: &[bf16], panels: &PairPanels, t: &Tile) -> Read {
    let (d, height) = (t.n.d, t.height());
    let strips = height.div_ceil(ROWS);
    let mut rows = Host::<bf16>::zeros(strips * ROWS * d);
    rows[..height * d].copy_from_slice(q);
    let mut acc = Host::<f32>::zeros(strips * ROWS * d);
    let mut state = vec![Strip::NONE; strips];
    let segment = (SEGMENT / (4 * d) / KEYS * KEYS).max(KEYS);
    // One pass has few weights at a time; where there are more columns than registers, the others read them again.
    let mut weights = Host::<bf16>::scratch(WEIGHTS * if d > COLUMNS { segment / KEYS } else { 4 });
    let mut tiles = Tiles::new();
    // SAFETY: the level is AMX, by `fits`.
    unsafe { tiles.whole() }
    for first in (0..t.seen()).step_by(segment) {
        for (i, state) in state.iter_mut().enumerate() {
            let seen = |r: usize| t.visible(r.min(height - 1), 0, t.seen());
            let of = i * ROWS..(i + 1) * ROWS;
            let (least, most) = of.clone().map(seen).fold((usize::MAX, 0), |(a, b), s| (a.min(s), b.max(s)));
            let end = most.min(first + segment);
            if first >= end {
                continue;
            }
            let (k, v) = panels.head(t.g, first);
            let blocks = (end - first).div_ceil(KEYS);
            let seen: [_; ROWS] =
                std::array::from_fn(|l| [0, t.visible((of.start + l).min(height - 1), first, blocks * KEYS)]);
            let pass = Pass {
                q: &rows[of.start * d..of.end * d],
                k: &k[..blocks * KEYS * d],
                v: &v[..blocks * KEYS * d],
                d,
                begins: first == 0,
                seen: &seen,
                whole: (least.saturating_sub(first) / KEYS).min(blocks),
                scale: std::f32::consts::LOG2_E / (d as f32).sqrt(),
            };
            // SAFETY: the level is AMX, which comes with those sets; the tiles are whole ones.
            unsafe { pass.run::<false>(state, &mut weights, &mut acc[of.start * d..of.end * d]) }
        }
    }
    let sums = state.iter().flat_map(|s| s.sums).take(height).map(crate::simd::lanes::tree).collect();
    (acc, sums)
}
