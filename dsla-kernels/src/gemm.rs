//! In-cache f32 matrix products, the building block of the attention kernels and of packed f32 linear layers.
//! One thread; callers parallelise over heads, chunks or panels.

use crate::simd::lanes::{Lanes, lanes};

/// The left side of a product: a row-major matrix, `ld` elements from row to row, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    ld: usize,
    transposed: bool,
}

/// Row-major, `ld` elements from row to row.
pub(crate) fn rows(data: &[f32], ld: usize) -> Mat<'_> {
    Mat { data, ld, transposed: false }
}

/// The transpose of a row-major matrix.
pub(crate) fn transposed(data: &[f32], ld: usize) -> Mat<'_> {
    Mat { data, ld, transposed: true }
}

impl Mat<'_> {
    /// Whether there are m rows of k.
    fn holds(&self, m: usize, k: usize) -> bool {
        let (down, across) = if self.transposed { (k, m) } else { (m, k) };
        (down - 1) * self.ld + across <= self.data.len()
    }
}

/// What happens to the old content of C.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Store,
    Add,
    /// The sums start from it: a product in parts along k gives the bits of the whole.
    Resume,
}

/// C [m, n] = A [m, k] B [k, n] (or += with [`Into::Add`]); B row-major with `ldb`, C row-major with `ldc`.
pub(crate) fn gemm(
    into: Into,
    m: usize,
    n: usize,
    k: usize,
    a: Mat,
    b: &[f32],
    ldb: usize,
    c: &mut [f32],
    ldc: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k > 0 {
        assert!(a.holds(m, k), "gemm: A is too short");
        assert!((k - 1) * ldb + n <= b.len(), "gemm: B is too short");
    }
    assert!((m - 1) * ldc + n <= c.len(), "gemm: C is too short");
    // SAFETY: the bounds of all three matrices were just checked.
    unsafe { gemm_raw(into, m, n, k, a, b.as_ptr(), ldb, 16, c.as_mut_ptr(), ldc) }
}

/// out <- x [n, k], rows `ld` apart, as the right side of a product with its transpose: panels of 16 rows [n / 16][k][16],
/// zero beyond the last row. A tile reads a panel line after line, and no two of its lines compete for a place in the cache.
pub(crate) fn panels(x: &[f32], ld: usize, n: usize, k: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut((16 * k).max(1)).enumerate() {
        let here = 16.min(n - i * 16);
        if here < 16 {
            out.fill(0.0);
        }
        for l in 0..here {
            let row = &x[(i * 16 + l) * ld..][..k];
            row.iter().enumerate().for_each(|(c, x)| out[c * 16 + l] = *x);
        }
    }
}

/// [`gemm`] for B in panels of 16 columns [n / 16][k][16].
pub(crate) fn product_panels(
    into: Into,
    m: usize,
    n: usize,
    k: usize,
    a: Mat,
    b: &[f32],
    c: &mut [f32],
    ldc: usize,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(a.holds(m, k), "product_panels: A is too short");
    assert!(n.div_ceil(16) * 16 * k <= b.len(), "product_panels: B is too short");
    assert!((m - 1) * ldc + n <= c.len(), "product_panels: C is too short");
    // SAFETY: the bounds of all three matrices were just checked.
    unsafe { gemm_raw(into, m, n, k, a, b.as_ptr(), 16, 16 * k, c.as_mut_ptr(), ldc) }
}

/// [`gemm`] on raw B and C, with `b_panel` elements between groups of 16 columns of B (16: plain row-major).
///
/// # Safety
/// A, B and C must hold every element addressed by m, n, k and the strides.
pub(crate) unsafe fn gemm_raw(
    into: Into,
    m: usize,
    n: usize,
    k: usize,
    a: Mat,
    b: *const f32,
    ldb: usize,
    b_panel: usize,
    c: *mut f32,
    ldc: usize,
) {
    let p = Product { k, a: a.data.as_ptr(), lda: a.ld, b, ldb, b_panel, c, ldc, into };
    // SAFETY: the caller's.
    unsafe {
        match a.transposed {
            false => blocks(p, m, n),
            true => blocks_transposed(p, m, n),
        }
    }
}

/// Where the operands are; moved along by [`Product::at`].
#[derive(Clone, Copy)]
struct Product {
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    b_panel: usize,
    c: *mut f32,
    ldc: usize,
    into: Into,
}

impl Product {
    /// Element (r, t) of A, which is transposed with T.
    #[inline(always)]
    unsafe fn a<const T: bool>(&self, r: usize, t: usize) -> *const f32 {
        // SAFETY: the caller's.
        unsafe { if T { self.a.add(t * self.lda + r) } else { self.a.add(r * self.lda + t) } }
    }

    /// From row i and column j (a multiple of 16) on.
    #[inline(always)]
    unsafe fn at<const T: bool>(&self, i: usize, j: usize) -> Product {
        // SAFETY: the caller's: inside m and n.
        unsafe {
            Product {
                a: self.a::<T>(i, 0),
                b: self.b.add(j / 16 * self.b_panel),
                c: self.c.add(i * self.ldc + j),
                ..*self
            }
        }
    }
}

lanes! {
    unsafe fn blocks<V>(p: Product, m: usize, n: usize) {
        // SAFETY: the caller's.
        unsafe { tiles::<V, false>(p, m, n) }
    }
}

lanes! {
    unsafe fn blocks_transposed<V>(p: Product, m: usize, n: usize) {
        // SAFETY: the caller's.
        unsafe { tiles::<V, true>(p, m, n) }
    }
}

/// All of C by register tiles: 12 rows by 32 columns with 32 registers, 6 by 16 with 16 registers; a single row takes 64
/// columns, so that enough sums are in flight. Every sum runs over k in order, whatever the tile. T: A is transposed.
#[inline(always)]
unsafe fn tiles<V: Lanes, const T: bool>(p: Product, m: usize, n: usize) {
    let mut j = 0;
    while j < n {
        let cols = match n - j {
            64.. if m < 4 => 64,
            17.. if V::WIDE => (n - j).min(32),
            left => left.min(16),
        };
        let mut i = 0;
        while i < m {
            // SAFETY: rows i.. and columns j.. are inside m and n.
            unsafe {
                let (at, left) = (p.at::<T>(i, j), m - i);
                i += match (cols, left) {
                    (64, _) => tile::<V, T, 1, 4>(at, cols),
                    (17.., 12..) => tile::<V, T, 12, 2>(at, cols),
                    (17.., 4..) => tile::<V, T, 4, 2>(at, cols),
                    (17.., _) => tile::<V, T, 1, 2>(at, cols),
                    (_, 12..) if V::WIDE => tile::<V, T, 12, 1>(at, cols),
                    // Eight rows are two tiles of four: six and two would leave too few sums in flight.
                    (_, 7 | 8) => tile::<V, T, 4, 1>(at, cols),
                    (_, 6..) => tile::<V, T, 6, 1>(at, cols),
                    (_, 4..) => tile::<V, T, 4, 1>(at, cols),
                    (_, 2..) => tile::<V, T, 2, 1>(at, cols),
                    _ => tile::<V, T, 1, 1>(at, cols),
                };
            }
        }
        j += cols;
    }
}

/// R rows by P groups of 16 columns, the last of which may have fewer; returns R.
#[inline(always)]
unsafe fn tile<V: Lanes, const T: bool, const R: usize, const P: usize>(p: Product, cols: usize) -> usize {
    // SAFETY: the caller's.
    unsafe {
        match cols == P * 16 {
            true => sums::<V, T, R, P, true>(p, 16),
            false => sums::<V, T, R, P, false>(p, cols - (P - 1) * 16),
        }
    }
    R
}

/// Steps along k per turn of a tile's loop: a step of 6 rows is 20 instructions, and counting and moving seven pointers
/// after each would be a third more. Half of a core may be another's, and then instructions are what is short.
const STEPS: usize = 4;

/// The sums of a tile; without FULL, `tail` columns of the last group.
#[inline(always)]
unsafe fn sums<V: Lanes, const T: bool, const R: usize, const P: usize, const FULL: bool>(
    p: Product,
    tail: usize,
) {
    // SAFETY: the caller of gemm_raw vouches for every element addressed; the mask keeps to the columns there are.
    unsafe {
        let mask = V::mask(tail);
        let mut acc = [[V::splat(0.0); P]; R];
        if p.into == Into::Resume {
            for r in 0..R {
                for q in 0..P {
                    let out = p.c.add(r * p.ldc + q * 16);
                    acc[r][q] = if FULL || q + 1 < P { V::load(out) } else { V::load_masked(out, mask) };
                }
            }
        }
        let mut t = 0;
        while t + STEPS <= p.k {
            for u in 0..STEPS {
                step::<V, T, R, P, FULL>(&p, t + u, mask, &mut acc);
            }
            t += STEPS;
        }
        while t < p.k {
            step::<V, T, R, P, FULL>(&p, t, mask, &mut acc);
            t += 1;
        }
        for r in 0..R {
            for q in 0..P {
                let out = p.c.add(r * p.ldc + q * 16);
                if FULL || q + 1 < P {
                    let v = if p.into == Into::Add { V::load(out).add(acc[r][q]) } else { acc[r][q] };
                    v.store(out);
                } else {
                    let v = if p.into == Into::Add {
                        V::load_masked(out, mask).add(acc[r][q])
                    } else {
                        acc[r][q]
                    };
                    v.store_masked(out, mask);
                }
            }
        }
    }
}

/// acc += A [R rows, t] B [t, P groups].
#[inline(always)]
unsafe fn step<V: Lanes, const T: bool, const R: usize, const P: usize, const FULL: bool>(
    p: &Product,
    t: usize,
    mask: V::Mask,
    acc: &mut [[V; P]; R],
) {
    // SAFETY: as for `sums`.
    unsafe {
        let row = p.b.add(t * p.ldb);
        let mut b = [V::splat(0.0); P];
        for q in 0..P {
            let at = row.add(q * p.b_panel);
            b[q] = if FULL || q + 1 < P { V::load(at) } else { V::load_masked(at, mask) };
        }
        for r in 0..R {
            let x = V::splat(*p.a::<T>(r, t));
            for q in 0..P {
                acc[r][q] = acc[r][q].fma(x, b[q]);
            }
        }
    }
}

/// C [m, n] = A [m, 2 k] B (or added to), with pairs of bf16 along the sum: A row by row, `lda` elements apart, aligned to
/// four bytes; B [k][16][2] in panels of 16 columns, `ldb` elements from pair to pair and `panel` from panel to panel, all
/// panels whole.
#[derive(Clone, Copy)]
pub(crate) struct Pairs {
    pub k: usize,
    pub a: *const u16,
    pub lda: usize,
    pub b: *const u16,
    pub ldb: usize,
    pub panel: usize,
    pub c: *mut f32,
    pub ldc: usize,
    pub add: bool,
    /// Elements from B to what this thread multiplies by next: asked for on the way, an eighth for every 32 rows.
    pub next: usize,
}

/// What multiplies pairs of bf16 on this thread: tile registers where there are any.
pub(crate) struct PairProducts {
    #[cfg(target_arch = "x86_64")]
    tiles: crate::amx::Tiles,
}

impl PairProducts {
    pub fn new() -> PairProducts {
        PairProducts {
            #[cfg(target_arch = "x86_64")]
            tiles: crate::amx::Tiles::new(),
        }
    }

    /// The tile registers, eight whole ones.
    ///
    /// # Safety
    /// The level is AMX.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn whole(&mut self) {
        // SAFETY: the caller's.
        unsafe { self.tiles.whole() }
    }

    /// All of C: on AMX tiles, or by register tiles as in [`gemm_raw`]. A sum does not depend on m and n.
    ///
    /// # Safety
    /// A, B and C hold what is addressed by m, n, k and the strides.
    pub unsafe fn product(&mut self, p: Pairs, m: usize, n: usize) {
        #[cfg(target_arch = "x86_64")]
        if crate::simd::level() == crate::simd::Level::Amx && p.k.is_multiple_of(crate::amx::PAIRS) {
            // SAFETY: the level was detected; the rest is the caller's.
            return unsafe { self.tiles.product(p, m, n) };
        }
        // SAFETY: the caller's.
        unsafe { pair_tiles(p, m, n) }
    }
}

lanes! {
    unsafe fn pair_tiles<V>(p: Pairs, m: usize, n: usize) {
        let mut j = 0;
        while j < n {
            // Few rows: more panels at once, which are more streams from memory.
            let wide = match (n - j).div_ceil(16) {
                4.. if m < 4 => 4,
                2.. if V::WIDE || m < 4 => 2,
                _ => 1,
            };
            let cols = (n - j).min(16 * wide);
            let mut i = 0;
            while i < m {
                // SAFETY: rows i.. and columns j.. are inside m and n.
                unsafe {
                    let at = Pairs {
                        a: p.a.add(i * p.lda),
                        b: p.b.add(j / 16 * p.panel),
                        c: p.c.add(i * p.ldc + j),
                        ..p
                    };
                    i += match (wide, m - i) {
                        (4, _) => pair_tile::<V, 1, 4>(at, cols),
                        (2, 12..) if V::WIDE => pair_tile::<V, 12, 2>(at, cols),
                        (2, 4..) if V::WIDE => pair_tile::<V, 4, 2>(at, cols),
                        (2, _) => pair_tile::<V, 1, 2>(at, cols),
                        (_, 12..) if V::WIDE => pair_tile::<V, 12, 1>(at, cols),
                        (_, 4..) => pair_tile::<V, 4, 1>(at, cols),
                        _ => pair_tile::<V, 1, 1>(at, cols),
                    };
                }
            }
            j += cols;
        }
    }
}

/// R rows by P panels, the last of which may have fewer columns of C; returns R.
#[inline(always)]
unsafe fn pair_tile<V: Lanes, const R: usize, const P: usize>(p: Pairs, cols: usize) -> usize {
    // SAFETY: the caller's.
    unsafe {
        let (whole, mask) = (cols == 16 * P, V::mask(cols - 16 * (P - 1)));
        let mut acc = [[V::splat(0.0); P]; R];
        for t in 0..p.k {
            for r in 0..R {
                let a = *(p.a.add(r * p.lda + 2 * t) as *const u32);
                for q in 0..P {
                    acc[r][q] = acc[r][q].dot_pairs(a, p.b.add(t * p.ldb + q * p.panel));
                }
            }
        }
        for r in 0..R {
            for q in 0..P {
                let out = p.c.add(r * p.ldc + 16 * q);
                if whole || q + 1 < P {
                    let v = if p.add { V::load(out).add(acc[r][q]) } else { acc[r][q] };
                    v.store(out);
                } else {
                    let v = if p.add { V::load_masked(out, mask).add(acc[r][q]) } else { acc[r][q] };
                    v.store_masked(out, mask);
                }
            }
        }
    }
    R
}
