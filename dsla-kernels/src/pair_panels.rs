//! [`Panels`](crate::panels::Panels) of bf16, in pairs, for machines that multiply those.

use crate::bf16;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::panels::Of;
use crate::par::{self, SendPtr};
use crate::simd::lanes::lanes;
use std::ops::Range;

/// Keys per packing task: whole panels, and whole tiles of values.
const RUN: usize = 256;
/// Keys that one tile of values has along the sum: products with values take whole tiles of them.
pub(crate) const TILE: usize = 32;

/// Zero where there is no key.
pub(crate) struct PairPanels {
    /// In panels of 16 keys, [G][rows / 16][D / 2][16][2].
    keys: Host<bf16>,
    /// Two by two, [G][rows / 2][D][2].
    values: Host<bf16>,
    /// Keys of a head: those before the first, then all, and then some, so that whole tiles of values can be read from any panel
    /// on.
    rows: usize,
    d: usize,
}

impl PairPanels {
    /// Of s keys for each of g heads, after `lead` rows of nothing; row(of, head, j) is key or value j [D], D a multiple of 16.
    pub fn new<'a>(
        g: usize,
        s: usize,
        d: usize,
        lead: usize,
        row: impl Fn(Of, usize, usize) -> &'a [bf16] + Sync,
    ) -> PairPanels {
        debug_assert!(d.is_multiple_of(16));
        let rows = (lead + s + TILE - 1).next_multiple_of(TILE);
        let (mut keys, mut values) =
            (Host::<bf16>::scratch(g * rows * d), Host::<bf16>::scratch(g * rows * d));
        let (kp, vp) = (SendPtr(keys.as_mut_ptr()), SendPtr(values.as_mut_ptr()));
        let runs = rows.div_ceil(RUN);
        let none = vec![bf16::ZERO; d];
        par::for_each(if d == 0 { 0 } else { runs * g }, |task| {
            let (g, first) = (task / runs, task % runs * RUN);
            let (at, len) = ((g * rows + first) * d, RUN.min(rows - first) * d);
            // SAFETY: rows first.. of head g are this task's alone.
            let [keys, values] =
                [&kp, &vp].map(|p| unsafe { std::slice::from_raw_parts_mut(p.get().add(at), len) });
            let row = |of, i: usize| i.checked_sub(lead).filter(|&j| j < s).map(|j| row(of, g, j));
            for (i, panel) in keys.chunks_exact_mut(16 * d).enumerate() {
                put_keys(panel, |l| row(Of::Keys, first + 16 * i + l));
            }
            for (i, line) in values.chunks_exact_mut(2 * d).enumerate() {
                let [a, b] = [0, 1].map(|l| row(Of::Values, first + 2 * i + l).unwrap_or(&none));
                interleave(a, b, line);
            }
        });
        PairPanels { keys, values, rows, d }
    }

    /// Keys and values of head g from row `first` on, which begins a panel.
    pub fn head(&self, g: usize, first: usize) -> (&[bf16], &[bf16]) {
        debug_assert!(first.is_multiple_of(16));
        let of = (g * self.rows + first) * self.d..(g + 1) * self.rows * self.d;
        (&self.keys[of.clone()], &self.values[of])
    }

    /// a [m, cols], rows `ld` apart, <- q [m, D] times rows `first`.. of head g, in whole panels; `first` begins one.
    pub fn scores(
        &self,
        by: &mut PairProducts,
        g: usize,
        first: usize,
        cols: usize,
        q: &[bf16],
        a: &mut [f32],
        ld: usize,
    ) {
        let (d, m, cols) = (self.d, q.len() / self.d.max(1), cols.next_multiple_of(16));
        if m == 0 || cols == 0 {
            return;
        }
        let k = &self.keys[(g * self.rows + first) * d..][..cols * d];
        assert!(
            first.is_multiple_of(16) && (m - 1) * ld + cols <= a.len(),
            "scores: {m} rows of {cols}, {ld} apart"
        );
        let (q, b, c) = (q.as_ptr() as *const u16, k.as_ptr() as *const u16, a.as_mut_ptr());
        let p = Pairs { k: d / 2, a: q, lda: d, b, ldb: 32, panel: 16 * d, c, ldc: ld, add: false, next: 0 };
        // SAFETY: q holds m rows of d, k whole panels, a m rows of as many columns.
        unsafe { by.product(p, m, cols) }
    }

    /// out [m, D] += a [m, cols], rows `ld` apart, times the values of rows `first`.. of head g, in some columns: whole panels. a
    /// is zero from `cols` on up to whole tiles.
    pub fn weighted(
        &self,
        by: &mut PairProducts,
        g: usize,
        first: usize,
        cols: usize,
        a: &[bf16],
        ld: usize,
        out: &mut [f32],
        columns: Range<usize>,
    ) {
        let (d, m, cols) = (self.d, out.len() / self.d.max(1), cols.next_multiple_of(TILE));
        if m == 0 || cols == 0 {
            return;
        }
        let v = &self.values[(g * self.rows + first) * d..][..cols * d];
        assert!(
            first.is_multiple_of(2) && (m - 1) * ld + cols <= a.len(),
            "weighted: {m} rows of {cols}, {ld} apart"
        );
        assert!(columns.start.is_multiple_of(16) && columns.end <= d, "weighted: columns {columns:?} of {d}");
        let (a, v) = (a.as_ptr() as *const u16, v.as_ptr() as *const u16);
        // SAFETY: a holds m rows of whole tiles, v as many lines, out m rows of d, which is whole panels.
        unsafe {
            let (b, c) = (v.add(2 * columns.start), out.as_mut_ptr().add(columns.start));
            let p =
                Pairs { k: cols / 2, a, lda: ld, b, ldb: 2 * d, panel: 32, c, ldc: d, add: true, next: 0 };
            by.product(p, m, columns.len())
        }
    }
}

/// A panel of sixteen keys [D / 2][16][2]; key(l) is key l [D], or none: zeros.
#[inline]
pub(crate) fn put_keys<'a>(panel: &mut [bf16], key: impl Fn(usize) -> Option<&'a [bf16]>) {
    let d = panel.len() / 16;
    let keys: [Option<&[bf16]>; 16] = std::array::from_fn(key);
    assert!(panel.len() == 16 * d && d.is_multiple_of(2) && keys.iter().flatten().all(|k| k.len() == d));
    #[cfg(target_arch = "x86_64")]
    if crate::simd::level() >= crate::simd::Level::Avx512 {
        // SAFETY: the level was detected; every key and line is as long as that.
        return unsafe { x86::put_keys(panel, &keys) };
    }
    put_pairs(panel, &keys, 0)
}

/// Pairs from `first` on.
fn put_pairs(panel: &mut [bf16], keys: &[Option<&[bf16]>; 16], first: usize) {
    for (pair, line) in panel.chunks_exact_mut(32).enumerate().skip(first) {
        for (to, key) in line.chunks_exact_mut(2).zip(keys) {
            to.copy_from_slice(key.map_or(&[bf16::ZERO; 2], |key| &key[2 * pair..2 * pair + 2]));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::bf16;
    use std::arch::x86_64::*;

    /// # Safety
    /// AVX-512; panel is [D / 2][16][2], every key [D].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub unsafe fn put_keys(panel: &mut [bf16], keys: &[Option<&[bf16]>; 16]) {
        let d = panel.len() / 16;
        for at in (0..d / 32 * 32).step_by(32) {
            // SAFETY: 32 elements of every key from `at` on, and 16 lines of the panel.
            unsafe {
                let mut x = [_mm512_setzero_si512(); 16];
                for l in 0..16 {
                    if let Some(key) = keys[l] {
                        x[l] = _mm512_loadu_si512(key.as_ptr().add(at) as *const _);
                    }
                }
                let x = turned(x);
                for (i, x) in x.iter().enumerate() {
                    _mm512_storeu_si512(panel.as_mut_ptr().add((at / 2 + i) * 32) as *mut _, *x);
                }
            }
        }
        super::put_pairs(panel, keys, d / 32 * 16)
    }

    /// 16 by 16 elements of 32 bits, transposed.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turned(x: [__m512i; 16]) -> [__m512i; 16] {
        let mut y = x;
        // Inside quarters: 2 by 2, then 4 by 4 ..
        for i in (0..16).step_by(2) {
            y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
            y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        }
        let mut z = y;
        for i in (0..16).step_by(4) {
            for j in 0..2 {
                z[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
                z[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
            }
        }
        // .. then the quarters: z[4 i + c] holds rows 4 i.. of columns c, c + 4, c + 8, c + 12.
        let mut w = z;
        for c in 0..4 {
            let low = [
                _mm512_shuffle_i32x4::<0x88>(z[c], z[4 + c]),
                _mm512_shuffle_i32x4::<0x88>(z[8 + c], z[12 + c]),
            ];
            let high = [
                _mm512_shuffle_i32x4::<0xdd>(z[c], z[4 + c]),
                _mm512_shuffle_i32x4::<0xdd>(z[8 + c], z[12 + c]),
            ];
            w[c] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
            w[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
            w[4 + c] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
            w[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
        }
        w
    }
}

crate::multiversion! {
    /// line <- a_0 b_0 a_1 b_1 ..
    pub(crate) fn interleave<const FMA: bool>(a: &[bf16], b: &[bf16], line: &mut [bf16]) {
        let _ = FMA;
        for (pair, (a, b)) in line.chunks_exact_mut(2).zip(a.iter().zip(b)) {
            (pair[0], pair[1]) = (*a, *b);
        }
    }
}

lanes! {
    /// [`interleave`] of f32, rounded: n of either, whole vectors.
    pub(crate) unsafe fn interleave_narrow<V>(a: *const f32, b: *const f32, n: usize, line: *mut u16) {
        for at in (0..n).step_by(16) {
            // SAFETY: the caller's.
            unsafe { V::load(a.add(at)).store_pairs(V::load(b.add(at)), line.add(2 * at)) }
        }
    }
}
