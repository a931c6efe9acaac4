//! Sixteen rows of softmax attention on AMX tiles: they keep their sums of values in tile registers while keys pass by, so that
//! nothing but a block's scores and weights ever goes through memory. The tile unit makes the scores of the next block and the sums
//! of the last while the vector units are at the exponentials of this one; a core looks some five hundred instructions ahead, so the
//! three take turns by four rows.

use crate::bf16;
use crate::vec::max;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a strip, those of a tile.
pub(crate) const ROWS: usize = 16;
/// Keys of a block: two tiles of scores, one of weights.
pub(crate) const KEYS: usize = 32;
/// Columns of values whose sums are in registers at a time: four tiles.
pub(crate) const COLUMNS: usize = 64;
/// Elements of a tile of weights.
pub(crate) const WEIGHTS: usize = ROWS * KEYS;

/// Whether a head of this size takes this path: whole tiles of it along the sum.
pub(crate) fn fits(d: usize) -> bool {
    d.is_multiple_of(32) && d > 0 && crate::simd::level() == crate::simd::Level::Amx
}

/// What the rows of a strip have so far.
#[repr(C, align(64))]
#[derive(Clone)]
pub(crate) struct Strip {
    /// The sum of each row's weights, lane by lane.
    pub sums: [[f32; 16]; ROWS],
    /// Their largest scores, where a pass is asked for them.
    pub peaks: [[f32; 16]; ROWS],
    /// Weights are 2^(scale score + shift): what the first block's largest score makes 1.
    pub shift: [f32; ROWS],
}

impl Strip {
    pub const NONE: Strip =
        Strip { sums: [[0.0; 16]; ROWS], peaks: [[f32::NEG_INFINITY; 16]; ROWS], shift: [0.0; ROWS] };
}

/// A strip against a segment of keys.
pub(crate) struct Pass<'a> {
    /// [ROWS, D]
    pub q: &'a [bf16],
    /// In panels of 16 keys, whole blocks of them.
    pub k: &'a [bf16],
    /// Two by two.
    pub v: &'a [bf16],
    pub d: usize,
    /// Whether these are the first keys.
    pub begins: bool,
    /// The keys that each row sees, counted from the first of these.
    pub seen: &'a [[usize; 2]; ROWS],
    /// Blocks from here on hold keys that some row does not see.
    pub whole: usize,
    /// Of scores, to powers of two.
    pub scale: f32,
}

impl Pass<'_> {
    /// acc [ROWS, D] += values by weights. `weights`: as many tiles as there are blocks, or four where d is one pass. PEAK: rows also
    /// learn their largest score.
    ///
    /// # Safety
    /// The level is AMX, and tiles are [whole](crate::amx::Tiles::whole).
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub unsafe fn run<const PEAK: bool>(&self, state: &mut Strip, weights: &mut [bf16], acc: &mut [f32]) {
        #[repr(C, align(64))]
        struct Scores([f32; ROWS * KEYS]);
        let mut scores = [const { Scores([0.0; ROWS * KEYS]) }; 2];
        let (d, steps) = (self.d, self.d / 32);
        let (blocks, ring) = (self.v.len() / (KEYS * d), weights.len() / WEIGHTS);
        assert!(self.q.len() == ROWS * d && acc.len() == ROWS * d && self.k.len() == self.v.len());
        assert!(self.k.len() == blocks * KEYS * d && (d <= COLUMNS || ring >= blocks) && ring >= 4);
        let weights = weights.as_mut_ptr();
        // SAFETY: q has rows of `steps` tiles, every block two panels of as many and 16 lines of d values, by the asserts; scores
        // and weights are whole tiles.
        unsafe {
            let weight = |j: usize| weights.add(j % ring * WEIGHTS);
            let value = |j: usize| self.v.as_ptr().add(j * KEYS * d);
            let step = |j: usize, s: usize| {
                let k = self.k.as_ptr().add(j * KEYS * d + s * WEIGHTS);
                score(self.q.as_ptr().add(32 * s), k, d, s == 0)
            };
            begin(acc.as_ptr(), d, d.min(COLUMNS));
            (0..steps).for_each(|s| step(0, s));
            store_scores(&mut scores[0].0);
            for j in 0..blocks + 1 {
                let [this, next] = if j % 2 == 0 { [0, 1] } else { [1, 0] };
                if j < blocks && j >= self.whole {
                    hide(&mut scores[this].0, self.seen, j * KEYS);
                }
                if j == 0 && self.begins {
                    for (shift, scores) in state.shift.iter_mut().zip(scores[0].0.chunks_exact(KEYS)) {
                        let top = max(scores);
                        *shift = if top == f32::NEG_INFINITY { 0.0 } else { -top * self.scale };
                    }
                }
                let (more, last) = (j + 1 < blocks, j.checked_sub(1));
                let at = scores[this].0.as_ptr();
                let exps = |quarter: usize, state: &mut Strip| {
                    if j < blocks {
                        weigh::<PEAK>(at, self.scale, state, quarter * ROWS / 4, weight(j))
                    }
                };
                if more {
                    step(j + 1, 0);
                }
                exps(0, state);
                if more {
                    (1..steps).for_each(|s| step(j + 1, s));
                }
                exps(1, state);
                if more {
                    store_scores(&mut scores[next].0);
                }
                if let Some(j) = last {
                    sum_left(weight(j), value(j), d);
                }
                exps(2, state);
                if let Some(j) = last.filter(|_| d >= COLUMNS) {
                    sum_right(value(j), d);
                }
                exps(3, state);
            }
            end(acc.as_mut_ptr(), d, d.min(COLUMNS));
            for c in (COLUMNS..d).step_by(COLUMNS) {
                let columns = COLUMNS.min(d - c);
                begin(acc.as_ptr().add(c), d, columns);
                for j in 0..blocks {
                    sum_left(weight(j), value(j).add(2 * c), d);
                    if columns == COLUMNS {
                        sum_right(value(j).add(2 * c), d);
                    }
                }
                end(acc.as_mut_ptr().add(c), d, columns);
            }
        }
    }
}

/// Scores (tmm4, tmm5) of a block: one tile of q [16, 32] against two of keys.
#[inline(always)]
unsafe fn score(q: *const bf16, k: *const bf16, d: usize, first: bool) {
    // SAFETY: the caller's. The compiler itself never touches tile registers, so they need no clobbers.
    unsafe {
        if first {
            asm!("tilezero tmm4", "tilezero tmm5", options(nostack, nomem));
        }
        asm!(
            "tileloadd tmm7, [{q} + {sq}]",
            "tileloadd tmm6, [{k} + {s}]",
            "tdpbf16ps tmm4, tmm7, tmm6",
            "tileloadd tmm6, [{k1} + {s}]",
            "tdpbf16ps tmm5, tmm7, tmm6",
            q = in(reg) q, k = in(reg) k, k1 = in(reg) k.add(16 * d), s = in(reg) 64usize, sq = in(reg) 2 * d,
            options(nostack, readonly),
        )
    }
}

#[inline(always)]
unsafe fn store_scores(scores: &mut [f32; ROWS * KEYS]) {
    // SAFETY: two tiles side by side.
    unsafe {
        asm!("tilestored [{c} + {s}], tmm4", "tilestored [{c} + {s} + 64], tmm5",
            c = in(reg) scores.as_mut_ptr(), s = in(reg) 4 * KEYS, options(nostack))
    }
}

/// tmm0 and tmm1 += weights (kept in tmm7) by the first 32 columns of values.
#[inline(always)]
unsafe fn sum_left(w: *const bf16, v: *const bf16, d: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tileloadd tmm7, [{w} + {s}]",
            "tileloadd tmm6, [{v} + {sv}]",
            "tdpbf16ps tmm0, tmm7, tmm6",
            "tileloadd tmm6, [{v} + {sv} + 64]",
            "tdpbf16ps tmm1, tmm7, tmm6",
            w = in(reg) w, v = in(reg) v, s = in(reg) 64usize, sv = in(reg) 4 * d,
            options(nostack, readonly),
        )
    }
}

/// tmm2 and tmm3 += weights in tmm7 by the next 32.
#[inline(always)]
unsafe fn sum_right(v: *const bf16, d: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tileloadd tmm6, [{v} + {sv} + 128]",
            "tdpbf16ps tmm2, tmm7, tmm6",
            "tileloadd tmm6, [{v} + {sv} + 192]",
            "tdpbf16ps tmm3, tmm7, tmm6",
            v = in(reg) v, sv = in(reg) 4 * d,
            options(nostack, readonly),
        )
    }
}

/// The sums of 32 or 64 columns into registers.
#[inline(always)]
unsafe fn begin(acc: *const f32, d: usize, columns: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tileloadd tmm0, [{c} + {s}]", "tileloadd tmm1, [{c} + {s} + 64]",
            c = in(reg) acc, s = in(reg) 4 * d, options(nostack, readonly));
        if columns == COLUMNS {
            asm!("tileloadd tmm2, [{c} + {s} + 128]", "tileloadd tmm3, [{c} + {s} + 192]",
                c = in(reg) acc, s = in(reg) 4 * d, options(nostack, readonly));
        }
    }
}

#[inline(always)]
unsafe fn end(acc: *mut f32, d: usize, columns: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tilestored [{c} + {s}], tmm0", "tilestored [{c} + {s} + 64], tmm1",
            c = in(reg) acc, s = in(reg) 4 * d, options(nostack));
        if columns == COLUMNS {
            asm!("tilestored [{c} + {s} + 128], tmm2", "tilestored [{c} + {s} + 192], tmm3",
                c = in(reg) acc, s = in(reg) 4 * d, options(nostack));
        }
    }
}

/// Scores of a block, whose first key is number `first`, that rows do not see become -inf.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn hide(scores: &mut [f32; ROWS * KEYS], seen: &[[usize; 2]; ROWS], first: usize) {
    let below = |end: usize| ((1u64 << end.saturating_sub(first).min(KEYS)) - 1) as u32;
    for (row, [from, to]) in scores.chunks_exact_mut(KEYS).zip(seen) {
        let hidden = !below(*to) | below(*from);
        // SAFETY: two vectors of a row.
        unsafe {
            let least = _mm512_set1_ps(f32::NEG_INFINITY);
            _mm512_mask_storeu_ps(row.as_mut_ptr(), hidden as u16, least);
            _mm512_mask_storeu_ps(row.as_mut_ptr().add(16), (hidden >> 16) as u16, least);
        }
    }
}

/// The weights of four rows of scores, rounded, and the sums of those.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn weigh<const PEAK: bool>(
    scores: *const f32,
    scale: f32,
    state: &mut Strip,
    first: usize,
    weights: *mut bf16,
) {
    // 2^r on [0, 1), to 7.5e-5: the best of its degree (Remez). bf16 has 2e-3.
    const P: [f32; 4] = [0.999_925_2, 0.695_833_56, 0.226_067_16, 0.078_024_52];
    // SAFETY: the caller's: rows of whole vectors.
    unsafe {
        let scale = _mm512_set1_ps(scale);
        let ones: __m512bh = std::mem::transmute([0x3f80u16; 32]);
        for r in first..first + ROWS / 4 {
            let shift = _mm512_set1_ps(state.shift[r]);
            let exp2 = |x: __m512| {
                let x = _mm512_fmadd_ps(x, scale, shift);
                // What is over the whole number below.
                let f = _mm512_reduce_ps::<1>(x);
                let mut p = _mm512_set1_ps(P[3]);
                for c in [P[2], P[1], P[0]] {
                    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
                }
                _mm512_scalef_ps(p, x)
            };
            let (a, b) = (_mm512_load_ps(scores.add(r * KEYS)), _mm512_load_ps(scores.add(r * KEYS + 16)));
            if PEAK {
                let peak = _mm512_max_ps(_mm512_load_ps(state.peaks[r].as_ptr()), _mm512_max_ps(a, b));
                _mm512_store_ps(state.peaks[r].as_mut_ptr(), peak);
            }
            let w = _mm512_cvtne2ps_pbh(exp2(b), exp2(a));
            let sum = _mm512_dpbf16_ps(_mm512_load_ps(state.sums[r].as_ptr()), w, ones);
            _mm512_store_ps(state.sums[r].as_mut_ptr(), sum);
            _mm512_store_si512(
                weights.add(r * KEYS) as *mut __m512i,
                std::mem::transmute::<__m512bh, __m512i>(w),
            );
        }
    }
}
