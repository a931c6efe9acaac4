//! Sixteen f32 lanes on every instruction set: a kernel is written once over [`Lanes`] and compiled for each, so what is
//! tested on one machine is what runs on another but for these one-instruction methods.

/// One register of f32, for kernels that need to know how many there are: [`Lanes`] may be two.
///
/// # Safety
/// Of every method: the instruction set must be there, and the pointers good for what is read or written.
pub(crate) trait Register: Copy {
    /// 8 or 16.
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// self + a b.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// The sums of four, stored side by side.
    unsafe fn sum4(x: [Self; 4], p: *mut f32);
    /// Int8 as f32.
    unsafe fn widen_int8(p: *const i8) -> Self;
    /// bf16 as f32.
    unsafe fn widen_bf16(p: *const u16) -> Self;
}

/// Ask for the line at p, which need not be memory of ours: it is read soon.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of the baseline, and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p as *const i8)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Sixteen f32.
///
/// # Safety
/// Of every method: the instruction set must be there, and the pointers good for what is read or written.
pub(crate) trait Lanes: Copy {
    /// What they are made of.
    type Register: Register;
    /// Which of sixteen lanes are touched.
    type Mask: Copy;
    /// Registers for 12 rows by 2 vectors of sums, against 6 rows by 1.
    const WIDE: bool;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn mask(lanes: usize) -> Self::Mask;
    /// Zero where the mask is off; nothing is read there.
    unsafe fn load_masked(p: *const f32, m: Self::Mask) -> Self;
    unsafe fn store_masked(self, p: *mut f32, m: Self::Mask);
    /// self + a b.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    /// self + a_1 b_1 + a_2 b_2 for sixteen pairs b of bf16 and one pair a, the first of which is its low half.
    #[inline(always)]
    unsafe fn dot_pairs(self, a: u32, b: *const u16) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let (first, second) = Self::widen_pairs(b);
            let half = |bits| Self::splat(f32::from_bits(bits));
            self.fma(first, half(a << 16)).fma(second, half(a & 0xffff_0000))
        }
    }
    /// Sixteen pairs of bf16 as f32: the first of each pair, the second of each.
    unsafe fn widen_pairs(p: *const u16) -> (Self, Self);
}

/// The sum of sixteen lanes in halves, which vectorises: plain addition from left to right does not.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; 16]) -> f32 {
    let mut half = 8;
    while half > 0 {
        (0..half).for_each(|l| lanes[l] += lanes[l + half]);
        half /= 2;
    }
    lanes[0]
}

/// Plain Rust: whatever the target has.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 16]);

impl Register for Portable {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 16])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's.
        Portable(unsafe { *(p as *const [f32; 16]) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { *(p as *mut [f32; 16]) = self.0 }
    }
    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        (0..16).for_each(|l| self.0[l] += a.0[l] * b.0[l]);
        self
    }
    #[inline(always)]
    unsafe fn sum4(x: [Self; 4], p: *mut f32) {
        // SAFETY: the caller's, for four elements.
        (0..4).for_each(|i| unsafe { *p.add(i) = tree(x[i].0) });
    }
    #[inline(always)]
    unsafe fn widen_int8(p: *const i8) -> Self {
        let mut v = [0.0; 16];
        // SAFETY: the caller's, for 16 elements.
        (0..16).for_each(|l| v[l] = unsafe { *p.add(l) } as f32);
        Portable(v)
    }
    #[inline(always)]
    unsafe fn widen_bf16(p: *const u16) -> Self {
        let mut v = [0.0; 16];
        // SAFETY: the caller's, for 16 elements.
        (0..16).for_each(|l| v[l] = f32::from_bits((unsafe { *p.add(l) } as u32) << 16));
        Portable(v)
    }
}

impl Lanes for Portable {
    type Register = Self;
    type Mask = usize;
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's, here and below.
        unsafe { Register::splat(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Register::load(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { Register::store(self, p) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { Register::fma(self, a, b) }
    }
    #[inline(always)]
    unsafe fn widen_pairs(p: *const u16) -> (Self, Self) {
        let (mut a, mut b) = ([0.0; 16], [0.0; 16]);
        for l in 0..16 {
            // SAFETY: the caller's, for 32 elements.
            let pair = unsafe { [*p.add(2 * l), *p.add(2 * l + 1)] };
            a[l] = f32::from_bits((pair[0] as u32) << 16);
            b[l] = f32::from_bits((pair[1] as u32) << 16);
        }
        (Portable(a), Portable(b))
    }
    #[inline(always)]
    unsafe fn mask(lanes: usize) -> usize {
        lanes
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const f32, m: usize) -> Self {
        let mut v = [0.0; 16];
        // SAFETY: the caller's, for m elements.
        (0..m).for_each(|l| v[l] = unsafe { *p.add(l) });
        Portable(v)
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, m: usize) {
        // SAFETY: the caller's, for m elements.
        (0..m).for_each(|l| unsafe { *p.add(l) = self.0[l] });
    }
    #[inline(always)]
    unsafe fn add(mut self, b: Self) -> Self {
        (0..16).for_each(|l| self.0[l] += b.0[l]);
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Avx512Bf16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, Register};
    use std::arch::x86_64::*;

    /// Eight.
    #[derive(Clone, Copy)]
    pub(crate) struct Eight(__m256);

    impl Register for Eight {
        const LANES: usize = 8;

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

    impl Lanes for Avx2 {
        type Register = Eight;
        type Mask = (__m256i, __m256i);
        const WIDE: bool = false;

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
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller's.
            unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
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
                let (x, y) = (
                    _mm256_loadu_si256(p as *const __m256i),
                    _mm256_loadu_si256(p.add(16) as *const __m256i),
                );
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

    impl Register for Avx512 {
        const LANES: usize = 16;

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
        #[inline(always)]
        unsafe fn sum4(x: [Self; 4], p: *mut f32) {
            // SAFETY: the caller's; AVX-512 DQ has the upper half as f32.
            unsafe {
                sums_of(
                    x.map(|x| _mm256_add_ps(_mm512_castps512_ps256(x.0), _mm512_extractf32x8_ps(x.0, 1))),
                    p,
                )
            }
        }
        #[inline(always)]
        unsafe fn widen_int8(p: *const i8) -> Self {
            // SAFETY: the caller's.
            unsafe {
                let v = _mm512_cvtepi8_epi32(_mm_loadu_si128(p as *const __m128i));
                Avx512(_mm512_cvtepi32_ps(v))
            }
        }
        #[inline(always)]
        unsafe fn widen_bf16(p: *const u16) -> Self {
            // SAFETY: the caller's.
            unsafe {
                let v = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p as *const __m256i));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)))
            }
        }
    }

    impl Lanes for Avx512 {
        type Register = Self;
        type Mask = __mmask16;
        const WIDE: bool = true;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's, here and below.
            unsafe { Register::splat(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the caller's.
            unsafe { Register::load(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: the caller's.
            unsafe { Register::store(self, p) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller's.
            unsafe { Register::fma(self, a, b) }
        }
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

    impl Lanes for Avx512Bf16 {
        type Register = Avx512;
        type Mask = __mmask16;
        const WIDE: bool = true;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's, here and below.
            Avx512Bf16(unsafe { Lanes::splat(x) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the caller's.
            Avx512Bf16(unsafe { Lanes::load(p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: the caller's.
            unsafe { Lanes::store(self.0, p) }
        }
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
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller's.
            Avx512Bf16(unsafe { Lanes::fma(self.0, a.0, b.0) })
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: the caller's.
            Avx512Bf16(unsafe { self.0.add(b.0) })
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
}

/// Compile one body, generic over [`Lanes`], for AVX-512, AVX2 and the baseline, and pick at run time. The body is
/// inlined into each version; what it calls must be `#[inline(always)]` and generic over the same type.
macro_rules! lanes {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$v:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis unsafe fn $name($($arg: $ty),*) {
            #[inline(always)]
            unsafe fn body<$v: $crate::simd::lanes::Lanes>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::simd::lanes::{Avx2, Avx512, Avx512Bf16};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
                unsafe fn v5($($arg: $ty),*) {
                    // SAFETY: the caller's.
                    unsafe { body::<Avx512Bf16>($($arg),*) }
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                unsafe fn v4($($arg: $ty),*) {
                    // SAFETY: the caller's.
                    unsafe { body::<Avx512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn v3($($arg: $ty),*) {
                    // SAFETY: the caller's.
                    unsafe { body::<Avx2>($($arg),*) }
                }
                let level = $crate::simd::level();
                if level >= $crate::simd::Level::Avx512Bf16 {
                    // SAFETY: the level was detected on this machine; the rest is the caller's.
                    return unsafe { v5($($arg),*) };
                }
                if level >= $crate::simd::Level::Avx512 {
                    // SAFETY: as above.
                    return unsafe { v4($($arg),*) };
                }
                if level >= $crate::simd::Level::Avx2 {
                    // SAFETY: as above.
                    return unsafe { v3($($arg),*) };
                }
            }
            // SAFETY: the caller's.
            unsafe { body::<$crate::simd::lanes::Portable>($($arg),*) }
        }
    };
}
pub(crate) use lanes;
