//! In-cache f32 matrix products, the building block of the attention kernels and of packed f32 linear layers.
//! One thread; callers parallelise over heads, chunks or panels.

use crate::simd::{Level, level};

/// A strided read-only matrix: element (i, j) is `data[i * rs + j * cs]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub data: &'a [f32],
    pub rs: usize,
    pub cs: usize,
}

/// Row-major, `ld` elements from row to row.
pub(crate) fn rows(data: &[f32], ld: usize) -> Mat<'_> {
    Mat { data, rs: ld, cs: 1 }
}

/// The transpose of a row-major matrix.
pub(crate) fn transposed(data: &[f32], ld: usize) -> Mat<'_> {
    Mat { data, rs: 1, cs: ld }
}

/// What happens to the old content of C.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Store,
    Add,
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
        assert!((m - 1) * a.rs + (k - 1) * a.cs < a.data.len(), "gemm: A is too short");
        assert!((k - 1) * ldb + n <= b.len(), "gemm: B is too short");
    }
    assert!((m - 1) * ldc + n <= c.len(), "gemm: C is too short");
    // SAFETY: the bounds of all three matrices were just checked.
    unsafe { gemm_raw(into, m, n, k, a, b.as_ptr(), ldb, 16, c.as_mut_ptr(), ldc) }
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
    let add = into == Into::Add;
    let ap = a.data.as_ptr();
    let level = level();
    let mut j = 0;
    while j < n {
        let wide = cfg!(target_arch = "x86_64") && level >= Level::Avx512;
        let cols = (n - j).min(if wide { 32 } else { 16 });
        // SAFETY: column block j..j+cols and the row blocks below stay inside m, n.
        unsafe {
            let bj = b.add(j / 16 * b_panel);
            let mut i = 0;
            while i < m {
                let left = m - i;
                let (ai, ci) = (ap.add(i * a.rs), c.add(i * ldc + j));
                macro_rules! block {
                    ($r:literal) => {{
                        #[cfg(target_arch = "x86_64")]
                        if wide {
                            if cols > 16 {
                                x86::kernel::<$r, 2>(k, cols, ai, a.rs, a.cs, bj, ldb, b_panel, ci, ldc, add);
                            } else {
                                x86::kernel::<$r, 1>(k, cols, ai, a.rs, a.cs, bj, ldb, b_panel, ci, ldc, add);
                            }
                            i += $r;
                            continue;
                        }
                        #[cfg(target_arch = "x86_64")]
                        if level >= Level::Avx2 {
                            x86::generic_avx2::<$r>(k, cols, ai, a.rs, a.cs, bj, ldb, ci, ldc, add);
                            i += $r;
                            continue;
                        }
                        generic::<$r, false>(k, cols, ai, a.rs, a.cs, bj, ldb, ci, ldc, add);
                        i += $r;
                        continue;
                    }};
                }
                if left >= 12 && wide {
                    block!(12)
                }
                if left >= 4 {
                    block!(4)
                }
                block!(1)
            }
        }
        j += cols;
    }
}

/// R rows by up to 16 columns in plain Rust; vectorises to whatever the caller's target features are.
#[inline(always)]
unsafe fn generic<const R: usize, const FMA: bool>(
    k: usize,
    cols: usize,
    a: *const f32,
    rs: usize,
    cs: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let mut acc = [[0.0f32; 16]; R];
    // SAFETY: the caller of gemm_raw vouches for every element addressed.
    unsafe {
        for p in 0..k {
            let mut row = [0.0f32; 16];
            if cols == 16 {
                row = *(b.add(p * ldb) as *const [f32; 16]);
            } else {
                for l in 0..cols {
                    row[l] = *b.add(p * ldb + l);
                }
            }
            for r in 0..R {
                let x = *a.add(r * rs + p * cs);
                for l in 0..16 {
                    acc[r][l] = crate::simd::madd::<FMA>(x, row[l], acc[r][l]);
                }
            }
        }
        for r in 0..R {
            for l in 0..cols {
                let out = c.add(r * ldc + l);
                *out = if add { *out + acc[r][l] } else { acc[r][l] };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// R rows by P groups of 16 columns, the last one masked to `cols`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn kernel<const R: usize, const P: usize>(
        k: usize,
        cols: usize,
        a: *const f32,
        rs: usize,
        cs: usize,
        b: *const f32,
        ldb: usize,
        b_panel: usize,
        c: *mut f32,
        ldc: usize,
        add: bool,
    ) {
        let tail = cols - (P - 1) * 16;
        let mask: __mmask16 = ((1u32 << tail) - 1) as __mmask16;
        let mut acc = [[_mm512_setzero_ps(); P]; R];
        // SAFETY: the caller of gemm_raw vouches for every element addressed; the mask keeps to `cols`.
        unsafe {
            for p in 0..k {
                let row = b.add(p * ldb);
                let mut bv = [_mm512_setzero_ps(); P];
                for q in 0..P {
                    bv[q] = if q + 1 == P {
                        _mm512_maskz_loadu_ps(mask, row.add(q * b_panel))
                    } else {
                        _mm512_loadu_ps(row.add(q * b_panel))
                    };
                }
                for r in 0..R {
                    let x = _mm512_set1_ps(*a.add(r * rs + p * cs));
                    for q in 0..P {
                        acc[r][q] = _mm512_fmadd_ps(x, bv[q], acc[r][q]);
                    }
                }
            }
            for r in 0..R {
                for q in 0..P {
                    let m = if q + 1 == P { mask } else { !0 };
                    let out = c.add(r * ldc + q * 16);
                    let v =
                        if add { _mm512_add_ps(_mm512_maskz_loadu_ps(m, out), acc[r][q]) } else { acc[r][q] };
                    _mm512_mask_storeu_ps(out, m, v);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn generic_avx2<const R: usize>(
        k: usize,
        cols: usize,
        a: *const f32,
        rs: usize,
        cs: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        add: bool,
    ) {
        // SAFETY: as for `generic`.
        unsafe { super::generic::<R, true>(k, cols, a, rs, cs, b, ldb, c, ldc, add) }
    }
}
