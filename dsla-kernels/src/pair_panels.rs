//! [`Panels`](crate::panels::Panels) of bf16, in pairs, for machines that multiply those.

use crate::bf16;
use crate::gemm::{PairProducts, Pairs};
use crate::host::Host;
use crate::panels::Of;
use crate::par::{self, SendPtr};
use crate::vec::nearest_bf16;
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
            let row = |of, i: usize| match i.checked_sub(lead) {
                Some(j) if j < s => row(of, g, j),
                _ => &none,
            };
            for (i, panel) in keys.chunks_exact_mut(16 * d).enumerate() {
                (0..16).for_each(|l| put_key(row(Of::Keys, first + 16 * i + l), l, panel));
            }
            for (i, line) in values.chunks_exact_mut(2 * d).enumerate() {
                let [a, b] = [0, 1].map(|l| row(Of::Values, first + 2 * i + l));
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

/// The key of lane l into a panel of sixteen [D / 2][16][2].
pub(crate) fn put_key(key: &[bf16], l: usize, panel: &mut [bf16]) {
    for (pair, line) in key.chunks_exact(2).zip(panel.chunks_exact_mut(32)) {
        line[2 * l..2 * l + 2].copy_from_slice(pair);
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

crate::multiversion! {
    /// [`interleave`] of f32, rounded.
    pub(crate) fn interleave_narrow<const FMA: bool>(a: &[f32], b: &[f32], line: &mut [bf16]) {
        let _ = FMA;
        for (pair, (a, b)) in line.chunks_exact_mut(2).zip(a.iter().zip(b)) {
            (pair[0], pair[1]) = (nearest_bf16(*a), nearest_bf16(*b));
        }
    }
}
