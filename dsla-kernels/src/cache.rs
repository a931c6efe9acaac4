//! A few queries against the rows of a cache: decode of both kinds of attention. Keys and values are widened on the way into
//! the registers, so that every byte of the cache is read once.

use crate::ops::softmax_attention::Int8Rows;
use crate::simd::lanes::{Lanes, Register, lanes, prefetch};
use crate::vec::head_rows;
use crate::{DType, Slice, View, bf16};

/// Rows [S, G, D] of a cache, in pages of as many rows each, but the last may have fewer: one page where they lie in one
/// piece. Where a page ends changes no bit of what kernels make of the rows.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Floats of one dtype.
    Float(&'a [View<'a>]),
    /// Bytes with scales.
    Int8(&'a [&'a Int8Rows]),
}

/// Columns that kernels take at once.
pub(crate) const WIDE: usize = 32;

/// Consecutive rows as a kernel reads them, so many elements apart: D rounded up to 32 each.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    F32(*const f32, usize),
    BF16(*const u16, usize),
    /// Without their scales: those are the weights' affair.
    Int8(*const i8, usize),
}

/// Rows that lie in one page.
struct Piece {
    page: usize,
    /// The first of them in the page.
    row: usize,
    /// Rows before them.
    done: usize,
    len: usize,
}

impl<'a> Rows<'a> {
    /// Rows j..j + count page by page.
    fn pieces(&self, j: usize, count: usize) -> impl Iterator<Item = Piece> + use<> {
        let page = match self {
            Rows::Float(pages) => pages.first().map_or(1, |x| x.shape().dims()[0].max(1)),
            Rows::Int8(pages) => pages.first().map_or(1, |x| x.len().max(1)),
        };
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = j + done;
            let (row, before) = (at % page, done);
            let len = (page - row).min(count - before);
            done += len;
            (len > 0).then_some(Piece { page: at / page, row, done: before, len })
        })
    }

    /// Rows j..j + n of kv head g into dst [n, D] as f32.
    pub fn head(&self, g: usize, j: usize, n: usize, dst: &mut [f32]) {
        let d = dst.len() / n.max(1);
        for p in self.pieces(j, n) {
            let dst = &mut dst[p.done * d..][..p.len * d];
            match self {
                Rows::Float(pages) => head_rows(&pages[p.page], g, p.row, p.len, dst),
                Rows::Int8(pages) => {
                    let rows = dst.chunks_exact_mut(d.max(1)).enumerate();
                    rows.for_each(|(i, dst)| pages[p.page].head(p.row + i, g, dst));
                }
            }
        }
    }

    /// Whether it holds bf16.
    pub fn is_bf16(&self) -> bool {
        matches!(self, Rows::Float([x, ..]) if x.dtype() == DType::BF16)
    }

    /// Row j of kv head g [D], if it holds bf16.
    pub fn bf16(&self, g: usize, j: usize) -> Option<&'a [bf16]> {
        let (Rows::Float(pages), Some(p)) = (self, self.pieces(j, 1).next()) else { return None };
        let (groups, d) = (pages[p.page].shape().dims()[1], pages[p.page].shape().dims()[2]);
        match pages[p.page].slice() {
            Slice::BF16(x) => Some(&x[(p.row * groups + g) * d..][..d]),
            _ => None,
        }
    }

    /// Where in memory the g-th of as many shares as there are kv heads begins, of `count` rows from j on: for whoever
    /// asks for them ahead. Null where there is no row j or no kernel reads it in place.
    pub fn share(&self, g: usize, j: usize, count: usize) -> *const u8 {
        let Some(p) = self.pieces(j, 1).next() else { return std::ptr::null() };
        let (start, head) = match self {
            Rows::Float(pages) => {
                let Some(x) = pages.get(p.page).filter(|x| p.row < x.shape().dims()[0]) else {
                    return std::ptr::null();
                };
                let (row, d) = (x.shape().dims()[1] * x.shape().dims()[2], x.shape().dims()[2]);
                match x.slice() {
                    Slice::BF16(x) => (x[p.row * row..].as_ptr() as *const u8, 2 * d),
                    Slice::F32(x) => (x[p.row * row..].as_ptr() as *const u8, 4 * d),
                    _ => return std::ptr::null(),
                }
            }
            Rows::Int8(pages) => {
                let Some(x) = pages.get(p.page).filter(|x| p.row < x.len()) else { return std::ptr::null() };
                (x.run(p.row, 0).0.as_ptr() as *const u8, x.wide())
            }
        };
        start.wrapping_add(g * count * head)
    }

    /// Rows j..j + count of kv head g as runs f(first, rows, run, scales); `buf` holds what must be converted. Scales: of
    /// the run's rows, so many elements apart.
    pub fn runs(
        &self,
        g: usize,
        j: usize,
        count: usize,
        buf: &mut Vec<f32>,
        mut f: impl FnMut(usize, usize, Run, Option<(&[f32], usize)>),
    ) {
        for p in self.pieces(j, count) {
            let x = match self {
                Rows::Float(pages) => &pages[p.page],
                Rows::Int8(pages) => {
                    let (data, scales) = pages[p.page].run(p.row, g);
                    let [heads, _] = pages[p.page].sizes();
                    let run = Run::Int8(data.as_ptr(), heads * pages[p.page].wide());
                    f(p.done, p.len, run, Some((scales, heads)));
                    continue;
                }
            };
            let (groups, d) = (x.shape().dims()[1], x.shape().dims()[2]);
            let at = (p.row * groups + g) * d;
            let run = match x.slice() {
                Slice::BF16(x) if d.is_multiple_of(WIDE) => {
                    Run::BF16(x[at..].as_ptr() as *const u16, groups * d)
                }
                Slice::F32(x) if d.is_multiple_of(WIDE) => Run::F32(x[at..].as_ptr(), groups * d),
                _ => {
                    let wide = d.next_multiple_of(WIDE);
                    buf.clear();
                    buf.resize(p.len * wide, 0.0);
                    for (i, out) in buf.chunks_exact_mut(wide).enumerate() {
                        head_rows(x, g, p.row + i, 1, &mut out[..d]);
                    }
                    Run::F32(buf.as_ptr(), wide)
                }
            };
            f(p.done, p.len, run, None);
        }
    }
}

/// a[h, j] *= scale of row j, for `group` rows of a from `at` on, `lda` apart.
pub(crate) fn scale_weights(
    a: &mut [f32],
    lda: usize,
    at: usize,
    len: usize,
    scales: Option<(&[f32], usize)>,
) {
    if let Some((scales, step)) = scales {
        for row in a.chunks_exact_mut(lda) {
            for (a, s) in row[at..at + len].iter_mut().zip(scales.iter().step_by(step)) {
                *a *= s;
            }
        }
    }
}

/// Call a kernel of R heads (at most this many at a time) and a run's element type.
macro_rules! heads {
    ($group:expr, $most:expr, $run:expr, |$from:ident, $rows:ident, $ld:ident| $kernel:ident::<$v:ty>($($arg:expr),*)) => {
        let mut $from = 0;
        while $from < $group {
            // As even as can be: four as two and two, not as three and one.
            let left: usize = $group - $from;
            let now = left.div_ceil(left.div_ceil($most));
            match (now, $run) {
                (4, Run::F32($rows, $ld)) => $kernel::<$v, f32, 4>($($arg),*),
                (3, Run::F32($rows, $ld)) => $kernel::<$v, f32, 3>($($arg),*),
                (2, Run::F32($rows, $ld)) => $kernel::<$v, f32, 2>($($arg),*),
                (_, Run::F32($rows, $ld)) => $kernel::<$v, f32, 1>($($arg),*),
                (4, Run::BF16($rows, $ld)) => $kernel::<$v, u16, 4>($($arg),*),
                (3, Run::BF16($rows, $ld)) => $kernel::<$v, u16, 3>($($arg),*),
                (2, Run::BF16($rows, $ld)) => $kernel::<$v, u16, 2>($($arg),*),
                (_, Run::BF16($rows, $ld)) => $kernel::<$v, u16, 1>($($arg),*),
                (4, Run::Int8($rows, $ld)) => $kernel::<$v, i8, 4>($($arg),*),
                (3, Run::Int8($rows, $ld)) => $kernel::<$v, i8, 3>($($arg),*),
                (2, Run::Int8($rows, $ld)) => $kernel::<$v, i8, 2>($($arg),*),
                (_, Run::Int8($rows, $ld)) => $kernel::<$v, i8, 1>($($arg),*),
            }
            $from += now;
        }
    };
}

/// What a cache may hold, widened to f32 as it is read.
trait Widen: Copy {
    unsafe fn load<V: Register>(p: *const Self) -> V;
}

impl Widen for f32 {
    #[inline(always)]
    unsafe fn load<V: Register>(p: *const f32) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(p) }
    }
}

impl Widen for i8 {
    #[inline(always)]
    unsafe fn load<V: Register>(p: *const i8) -> V {
        // SAFETY: the caller's.
        unsafe { V::widen_int8(p) }
    }
}

impl Widen for u16 {
    #[inline(always)]
    unsafe fn load<V: Register>(p: *const u16) -> V {
        // SAFETY: the caller's.
        unsafe { V::widen_bf16(p) }
    }
}

/// Heads at a time whose sums fit into registers: four keys' scores, or 32 columns of values.
const fn most<V: Lanes>() -> usize {
    if V::WIDE { 4 } else { 3 }
}

/// Rows to ask for: where none are known, those that are read anyway, so that loops need not tell.
#[inline(always)]
fn ahead<E>(next: *const u8, rows: *const E) -> *const E {
    if next.is_null() { rows } else { next as *const E }
}

/// Ask for n elements from p on. A few at a time: what does not find a free place in the queue of misses is forgotten.
#[inline(always)]
fn prefetch_all<E>(p: *const E, n: usize) {
    (0..n * size_of::<E>()).step_by(64).for_each(|at| prefetch((p as *const u8).wrapping_add(at)));
}

lanes! {
    /// a[h * lda + j] = q_h . k_j for the rows of a run. q: [group, d]; d a multiple of 32. `next`: where
    /// memory begins that is read after these rows, as much as theirs of one head; it is asked for meanwhile. Null: none.
    pub(crate) unsafe fn scores<V>(run: Run, len: usize, q: *const f32, group: usize, d: usize, a: *mut f32, lda: usize, next: *const u8) {
        // SAFETY: the caller's.
        unsafe {
            heads!(group, most::<V>(), run, |h, rows, ld| scores_of::<V::Register>(
                rows, ld, len, q.add(h * d), d, a.add(h * lda), lda, ahead(next, rows)
            ));
        }
    }
}

#[inline(always)]
unsafe fn scores_of<V: Register, E: Widen, const R: usize>(
    rows: *const E,
    ld: usize,
    len: usize,
    q: *const f32,
    d: usize,
    a: *mut f32,
    lda: usize,
    next: *const E,
) {
    // SAFETY: the caller's: `len` rows of d elements, `ld` apart; R rows of q and of a.
    unsafe {
        let mut j = 0;
        // Sums across lanes are long chains, and every load of q serves all keys: four at once.
        while j + 4 <= len {
            let acc = keys::<V, E, R, 4>(rows.add(j * ld), ld, q, d, next.wrapping_add(j * d));
            (0..R).for_each(|r| V::sum4(acc[r], a.add(r * lda + j)));
            j += 4;
        }
        while j < len {
            let acc = keys::<V, E, R, 1>(rows.add(j * ld), ld, q, d, next.wrapping_add(j * d));
            let mut four = [0.0; 4];
            for r in 0..R {
                // As above, so that a key's bits do not depend on its place.
                V::sum4([acc[r][0]; 4], four.as_mut_ptr());
                *a.add(r * lda + j) = four[0];
            }
            j += 1;
        }
    }
}

/// Lane sums of K keys with R queries.
#[inline(always)]
unsafe fn keys<V: Register, E: Widen, const R: usize, const K: usize>(
    rows: *const E,
    ld: usize,
    q: *const f32,
    d: usize,
    next: *const E,
) -> [[V; K]; R] {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[V::splat(0.0); K]; R];
        let mut c = 0;
        while c < d {
            for at in (c..c + WIDE).step_by(V::LANES) {
                prefetch_all(next.wrapping_add(at * K), K * V::LANES);
                // All of it fits into sixteen registers: four keys' sums for three heads, three of q, one of keys.
                let mut qs = [V::splat(0.0); R];
                (0..R).for_each(|r| qs[r] = V::load(q.add(r * d + at)));
                for i in 0..K {
                    let k: V = E::load(rows.add(i * ld + at));
                    (0..R).for_each(|r| acc[r][i] = acc[r][i].fma(k, qs[r]));
                }
            }
            c += WIDE;
        }
        acc
    }
}

lanes! {
    /// out[h * ldo..] += sum_j a[h * lda + j] v_j for the rows of a run; d a multiple of 32. `next` as for [`scores`].
    pub(crate) unsafe fn weighted<V>(run: Run, len: usize, a: *const f32, lda: usize, group: usize, d: usize, out: *mut f32, ldo: usize, next: *const u8) {
        // SAFETY: the caller's.
        unsafe {
            heads!(group, most::<V>(), run, |h, rows, ld| weighted_of::<V::Register>(
                rows, ld, len, a.add(h * lda), lda, d, out.add(h * ldo), ldo, ahead(next, rows)
            ));
        }
    }
}

#[inline(always)]
unsafe fn weighted_of<V: Register, E: Widen, const R: usize>(
    rows: *const E,
    ld: usize,
    len: usize,
    a: *const f32,
    lda: usize,
    d: usize,
    out: *mut f32,
    ldo: usize,
    next: *const E,
) {
    // SAFETY: the caller's: `len` rows of d elements, `ld` apart; R rows of a and of out.
    unsafe {
        let mut c = 0;
        while c < d {
            let (rows, out, next) = (rows.add(c), out.add(c), next.wrapping_add(c * len));
            // One head takes 64 columns where there are that many: enough sums in flight.
            if R == 1 && c + 2 * WIDE <= d {
                columns::<V, E, R, 2>(rows, ld, len, a, lda, out, ldo, next);
                c += 2 * WIDE;
            } else {
                columns::<V, E, R, 1>(rows, ld, len, a, lda, out, ldo, next);
                c += WIDE;
            }
        }
    }
}

/// [`weighted_of`] for P times 32 columns.
#[inline(always)]
unsafe fn columns<V: Register, E: Widen, const R: usize, const P: usize>(
    rows: *const E,
    ld: usize,
    len: usize,
    a: *const f32,
    lda: usize,
    out: *mut f32,
    ldo: usize,
    next: *const E,
) {
    // SAFETY: the caller's.
    unsafe {
        let count = P * WIDE / V::LANES;
        // As many as 64 columns are in registers of eight lanes; `count` of them are used.
        let mut acc = [[V::splat(0.0); 2 * WIDE / 8]; R];
        for r in 0..R {
            (0..count).for_each(|i| acc[r][i] = V::load(out.add(r * ldo + i * V::LANES)));
        }
        for j in 0..len {
            prefetch_all(next.wrapping_add(j * P * WIDE), P * WIDE);
            let mut w = [V::splat(0.0); R];
            (0..R).for_each(|r| w[r] = V::splat(*a.add(r * lda + j)));
            for i in 0..count {
                let v: V = E::load(rows.add(j * ld + i * V::LANES));
                (0..R).for_each(|r| acc[r][i] = acc[r][i].fma(v, w[r]));
            }
        }
        for r in 0..R {
            (0..count).for_each(|i| acc[r][i].store(out.add(r * ldo + i * V::LANES)));
        }
    }
}
