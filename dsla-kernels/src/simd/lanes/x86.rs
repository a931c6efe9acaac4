//! The registers of AVX2 and AVX-512.

use super::{Lanes, Register, Vector};
use std::arch::x86_64::*;

/// Eight.
#[derive(Clone, Copy)]
pub(crate) struct Eight(__m256);

impl Vector for Eight {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's, here and below.
        Eight(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's.
        Eight(unsafe { _mm256_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        Eight(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }
}

impl Register for Eight {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn sum4(x: [Self; 4], p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { sums_of(x.map(|x| x.0), p) }
    }
    #[inline(always)]
    unsafe fn widen_int8(p: *const i8) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let v = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p as *const __m128i));
            Eight(_mm256_cvtepi32_ps(v))
        }
    }
    #[inline(always)]
    unsafe fn widen_bf16(p: *const u16) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let v = _mm256_cvtepu16_epi32(_mm_loadu_si128(p as *const __m128i));
            Eight(_mm256_castsi256_ps(_mm256_slli_epi32(v, 16)))
        }
    }
}

/// Two registers of eight.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

impl Vector for Avx2 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's.
        let v = unsafe { _mm256_set1_ps(x) };
        Avx2(v, v)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Avx2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
}

impl Lanes for Avx2 {
    type Register = Eight;
    type Mask = (__m256i, __m256i);
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> Self::Mask {
        // SAFETY: the caller's.
        unsafe {
            let n = _mm256_set1_epi32(lanes as i32);
            let at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let later = _mm256_add_epi32(at, _mm256_set1_epi32(8));
            (_mm256_cmpgt_epi32(n, at), _mm256_cmpgt_epi32(n, later))
        }
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const f32, m: Self::Mask) -> Self {
        // SAFETY: the caller's; lanes that are off are not read. The offset may pass the end: no `add`.
        unsafe { Avx2(_mm256_maskload_ps(p, m.0), _mm256_maskload_ps(p.wrapping_add(8), m.1)) }
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, m: Self::Mask) {
        // SAFETY: as for `load_masked`.
        unsafe {
            _mm256_maskstore_ps(p, m.0, self.0);
            _mm256_maskstore_ps(p.wrapping_add(8), m.1, self.1);
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Avx2(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn widen_pairs(p: *const u16) -> (Self, Self) {
        // SAFETY: the caller's.
        unsafe {
            let (x, y) =
                (_mm256_loadu_si256(p as *const __m256i), _mm256_loadu_si256(p.add(16) as *const __m256i));
            let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
            let first = |v| _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
            let second = |v| _mm256_castsi256_ps(_mm256_and_si256(v, high));
            (Avx2(first(x), first(y)), Avx2(second(x), second(y)))
        }
    }
}

/// The sums of four registers of eight, stored side by side.
#[inline(always)]
unsafe fn sums_of(x: [__m256; 4], p: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let pairs = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
        _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
    }
}

/// One register of sixteen.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

impl Vector for Avx512 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's.
        Avx512(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's.
        Avx512(unsafe { _mm512_loadu_ps(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
}

impl Lanes for Avx512 {
    // What reads caches row by row is bound by memory, and written for sixteen registers of eight.
    type Register = Eight;
    type Mask = __mmask16;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn widen_pairs(p: *const u16) -> (Self, Self) {
        // SAFETY: the caller's.
        unsafe {
            let v = _mm512_loadu_si512(p as *const __m512i);
            let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
            (
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32(v, 16))),
                Avx512(_mm512_castsi512_ps(_mm512_and_si512(v, high))),
            )
        }
    }
    #[inline(always)]
    unsafe fn mask(lanes: usize) -> Self::Mask {
        ((1u32 << lanes) - 1) as __mmask16
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const f32, m: Self::Mask) -> Self {
        // SAFETY: the caller's; lanes that are off are not read.
        Avx512(unsafe { _mm512_maskz_loadu_ps(m, p) })
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, m: Self::Mask) {
        // SAFETY: the caller's; lanes that are off are not written.
        unsafe { _mm512_mask_storeu_ps(p, m, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the caller's.
        Avx512(unsafe { _mm512_add_ps(self.0, b.0) })
    }
}

/// [`Avx512`] with products of bf16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512);

impl Vector for Avx512Bf16 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's, here and below.
        Avx512Bf16(unsafe { Vector::splat(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's.
        Avx512Bf16(unsafe { Vector::load(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { Vector::store(self.0, p) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        Avx512Bf16(unsafe { Vector::fma(self.0, a.0, b.0) })
    }
}

impl Lanes for Avx512Bf16 {
    type Register = Eight;
    type Mask = __mmask16;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> Self::Mask {
        // SAFETY: the caller's.
        unsafe { Avx512::mask(lanes) }
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const f32, m: Self::Mask) -> Self {
        // SAFETY: the caller's.
        Avx512Bf16(unsafe { Avx512::load_masked(p, m) })
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, m: Self::Mask) {
        // SAFETY: the caller's.
        unsafe { self.0.store_masked(p, m) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the caller's.
        Avx512Bf16(unsafe { self.0.add(b.0) })
    }
    #[inline(always)]
    unsafe fn rough_inverse(self) -> Self {
        // SAFETY: the caller's.
        Avx512Bf16(Avx512(unsafe { _mm512_rcp14_ps(self.0.0) }))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        // SAFETY: the caller's.
        unsafe {
            _mm256_storeu_si256(
                p as *mut __m256i,
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0.0)),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_pairs(self, b: Self, p: *mut u16) {
        // SAFETY: the caller's; 32 bf16, these before those.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b.0.0, self.0.0));
            let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
            let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(both));
            _mm512_storeu_si512(p as *mut __m512i, _mm512_or_si512(low, _mm512_slli_epi32::<16>(high)));
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(self, a: u32, b: *const u16) -> Self {
        // SAFETY: the caller's; the vectors are sixteen pairs of bf16 each.
        unsafe {
            let (a, b) = (_mm512_set1_epi32(a as i32), _mm512_loadu_si512(b as *const __m512i));
            let pairs = |x| std::mem::transmute::<__m512i, __m512bh>(x);
            Avx512Bf16(Avx512(_mm512_dpbf16_ps(self.0.0, pairs(b), pairs(a))))
        }
    }
    #[inline(always)]
    unsafe fn widen_pairs(p: *const u16) -> (Self, Self) {
        // SAFETY: the caller's.
        let (a, b) = unsafe { Lanes::widen_pairs(p) };
        (Avx512Bf16(a), Avx512Bf16(b))
    }
}
