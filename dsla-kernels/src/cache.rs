//! A few queries against the rows of a cache: decode of both kinds of attention. Keys and values are widened on the way into
//! the registers, so that every byte of the cache is read once.

use crate::ops::softmax_attention::Int8Rows;
use crate::simd::lanes::{Lanes, lanes};
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

/// The order of columns in which a kernel reads rows, and therefore wants q and gives sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they lie in memory.
    Plain,
    /// bf16 come in pairs out of a register: first all even columns of 32, then all odd ones.
    Pairs,
}

impl Order {
    /// Where column c is.
    #[inline(always)]
    pub fn place(self, c: usize) -> usize {
        match self {
            Order::Plain => c,
            Order::Pairs => c / WIDE * WIDE + c % 2 * 16 + c % WIDE / 2,
        }
    }
}

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

    /// The order in which kernels read these rows.
    pub fn order(&self) -> Order {
        match self {
            Rows::Float([x, ..]) if x.dtype() == DType::BF16 && x.shape().dims()[2].is_multiple_of(WIDE) => {
                Order::Pairs
            }
            _ => Order::Plain,
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
    ($group:expr, $most:expr, $run:expr, |$from:ident, $rows:ident, $ld:ident| $kernel:ident::<$v:ident>($($arg:expr),*)) => {
        let mut $from = 0;
        while $from < $group {
            let now = ($group - $from).min($most);
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
    /// 32 columns, in the order of the rows' kind.
    unsafe fn load<V: Lanes>(p: *const Self) -> [V; 2];
}

impl Widen for f32 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(p: *const f32) -> [V; 2] {
        // SAFETY: the caller's.
        unsafe { [V::load(p), V::load(p.add(16))] }
    }
}

impl Widen for i8 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(p: *const i8) -> [V; 2] {
        // SAFETY: the caller's.
        unsafe { [V::widen_int8(p), V::widen_int8(p.add(16))] }
    }
}

impl Widen for u16 {
    #[inline(always)]
    unsafe fn load<V: Lanes>(p: *const u16) -> [V; 2] {
        // SAFETY: the caller's.
        let (even, odd) = unsafe { V::widen_pairs(p) };
        [even, odd]
    }
}

lanes! {
    /// a[h * lda + j] = q_h . k_j for the rows of a run. q: [group, d]; d a multiple of 32.
    pub(crate) unsafe fn scores<V>(run: Run, len: usize, q: *const f32, group: usize, d: usize, a: *mut f32, lda: usize) {
        // SAFETY: the caller's.
        unsafe {
            heads!(group, 4, run, |h, rows, ld| scores_of::<V>(rows, ld, len, q.add(h * d), d, a.add(h * lda), lda));
        }
    }
}

#[inline(always)]
unsafe fn scores_of<V: Lanes, E: Widen, const R: usize>(
    rows: *const E,
    ld: usize,
    len: usize,
    q: *const f32,
    d: usize,
    a: *mut f32,
    lda: usize,
) {
    // SAFETY: the caller's: `len` rows of d elements, `ld` apart; R rows of q and of a.
    unsafe {
        let mut j = 0;
        // Sums across lanes are long chains: four keys' at once.
        while j + 4 <= len {
            let mut acc = [[V::splat(0.0); 4]; R];
            for i in 0..4 {
                let one = key::<V, E, R>(rows.add((j + i) * ld), q, d);
                (0..R).for_each(|r| acc[r][i] = one[r]);
            }
            (0..R).for_each(|r| V::sum4(acc[r], a.add(r * lda + j)));
            j += 4;
        }
        while j < len {
            let one = key::<V, E, R>(rows.add(j * ld), q, d);
            let mut four = [0.0; 4];
            for r in 0..R {
                // As above, so that a key's bits do not depend on its place.
                V::sum4([one[r]; 4], four.as_mut_ptr());
                *a.add(r * lda + j) = four[0];
            }
            j += 1;
        }
    }
}

/// Lane sums of one key with R queries.
#[inline(always)]
unsafe fn key<V: Lanes, E: Widen, const R: usize>(row: *const E, q: *const f32, d: usize) -> [V; R] {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [V::splat(0.0); R];
        let mut c = 0;
        while c < d {
            let k: [V; 2] = E::load(row.add(c));
            for p in 0..2 {
                for r in 0..R {
                    acc[r] = acc[r].fma(k[p], V::load(q.add(r * d + c + 16 * p)));
                }
            }
            c += WIDE;
        }
        acc
    }
}

lanes! {
    /// out[h * ldo..] += sum_j a[h * lda + j] v_j for the rows of a run; d a multiple of 32.
    pub(crate) unsafe fn weighted<V>(run: Run, len: usize, a: *const f32, lda: usize, group: usize, d: usize, out: *mut f32, ldo: usize) {
        // SAFETY: the caller's.
        unsafe {
            // Four sums of 32 columns each do not fit into 16 registers.
            let most = if V::WIDE { 4 } else { 2 };
            heads!(group, most, run, |h, rows, ld| weighted_of::<V>(rows, ld, len, a.add(h * lda), lda, d, out.add(h * ldo), ldo));
        }
    }
}

#[inline(always)]
unsafe fn weighted_of<V: Lanes, E: Widen, const R: usize>(
    rows: *const E,
    ld: usize,
    len: usize,
    a: *const f32,
    lda: usize,
    d: usize,
    out: *mut f32,
    ldo: usize,
) {
    // SAFETY: the caller's: `len` rows of d elements, `ld` apart; R rows of a and of out.
    unsafe {
        let mut c = 0;
        while c < d {
            // One head takes 64 columns where there are that many: enough sums in flight.
            if R == 1 && c + 2 * WIDE <= d {
                columns::<V, E, R, 2>(rows.add(c), ld, len, a, lda, out.add(c), ldo);
                c += 2 * WIDE;
            } else {
                columns::<V, E, R, 1>(rows.add(c), ld, len, a, lda, out.add(c), ldo);
                c += WIDE;
            }
        }
    }
}

/// [`weighted_of`] for P times 32 columns.
#[inline(always)]
unsafe fn columns<V: Lanes, E: Widen, const R: usize, const P: usize>(
    rows: *const E,
    ld: usize,
    len: usize,
    a: *const f32,
    lda: usize,
    out: *mut f32,
    ldo: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[[V::splat(0.0); 2]; P]; R];
        for r in 0..R {
            for p in 0..P {
                let at = out.add(r * ldo + WIDE * p);
                acc[r][p] = [V::load(at), V::load(at.add(16))];
            }
        }
        for j in 0..len {
            for p in 0..P {
                let v: [V; 2] = E::load(rows.add(j * ld + WIDE * p));
                for r in 0..R {
                    let w = V::splat(*a.add(r * lda + j));
                    acc[r][p] = [acc[r][p][0].fma(v[0], w), acc[r][p][1].fma(v[1], w)];
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                let at = out.add(r * ldo + WIDE * p);
                acc[r][p][0].store(at);
                acc[r][p][1].store(at.add(16));
            }
        }
    }
}
