//! The dozen vector operations that the kernel is made of, per instruction set. Everything here is inlined into a
//! function with the target features of its set.

use crate::f16;

/// One instruction set. `Int` is a vector of groups of 4 bytes, one group per column, or of their i32 sums.
///
/// Safety of every function: the instruction set is there, and pointers are good for what is read or written.
pub(super) trait Isa {
    /// Columns per vector: 8 or 16.
    const LANES: usize;
    /// What `dot8` adds to each signed weight.
    const OFFSET8: i32;
    type Int: Copy;
    type Float: Copy;

    unsafe fn zero() -> Self::Int;
    unsafe fn zero_float() -> Self::Float;
    /// 4 bytes for each column.
    unsafe fn load(p: *const u8) -> Self::Int;
    /// Have the line at `p` fetched, if there is one: the address need not be valid.
    unsafe fn prefetch(p: *const u8);
    /// The same 4 bytes for every column.
    unsafe fn splat(p: *const i8) -> Self::Int;
    /// Low and high halves of bytes.
    unsafe fn nibbles(w: Self::Int) -> (Self::Int, Self::Int);
    /// sum += dot of 4 signed bytes w and x, |x| at most 127, per column; exact.
    unsafe fn dot8(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int;
    /// The same for w of 0..=15, at most 8 times into one sum, which then goes through `sum4`.
    unsafe fn dot4(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int;
    unsafe fn sum4(sum: Self::Int) -> Self::Int;
    unsafe fn minus(sum: Self::Int, x: i32) -> Self::Int;
    /// f16 to f32.
    unsafe fn scales(p: *const u16) -> Self::Float;
    /// y + sum * (d * s), in this order.
    unsafe fn scaled(sum: Self::Int, d: Self::Float, s: f32, y: Self::Float) -> Self::Float;
    /// y + d * s.
    unsafe fn axpy(d: Self::Float, s: f32, y: Self::Float) -> Self::Float;
    unsafe fn store(y: Self::Float, p: *mut f32);
}

/// Plain Rust. It does what VNNI does, weights made unsigned and all, so that the tests run that arithmetic everywhere.
pub(super) struct Portable;

/// Sums plus dots of 4 unsigned with 4 signed bytes.
#[inline(always)]
fn dots(mut sum: [i32; 16], w: [i32; 16], x: i32) -> [i32; 16] {
    let x = x.to_le_bytes().map(|b| i32::from(b as i8));
    for (s, w) in sum.iter_mut().zip(w) {
        let w = w.to_le_bytes().map(i32::from);
        *s += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
    }
    sum
}

impl Isa for Portable {
    const LANES: usize = 16;
    const OFFSET8: i32 = 128;
    type Int = [i32; 16];
    type Float = [f32; 16];

    #[inline(always)]
    unsafe fn zero() -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    unsafe fn zero_float() -> [f32; 16] {
        [0.0; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> [i32; 16] {
        // SAFETY: the caller's pointer is good for 64 bytes.
        let b = unsafe { (p as *const [[u8; 4]; 16]).read_unaligned() };
        b.map(i32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn splat(p: *const i8) -> [i32; 16] {
        // SAFETY: the caller's pointer is good for 4 bytes.
        [i32::from_le_bytes(unsafe { (p as *const [u8; 4]).read_unaligned() }); 16]
    }
    #[inline(always)]
    unsafe fn nibbles(w: [i32; 16]) -> ([i32; 16], [i32; 16]) {
        (w.map(|w| w & 0x0f0f_0f0f), w.map(|w| (w >> 4) & 0x0f0f_0f0f))
    }
    #[inline(always)]
    unsafe fn dot8(sum: [i32; 16], w: [i32; 16], x: [i32; 16]) -> [i32; 16] {
        dots(sum, w.map(|w| w ^ i32::from_ne_bytes([0x80; 4])), x[0])
    }
    #[inline(always)]
    unsafe fn dot4(sum: [i32; 16], w: [i32; 16], x: [i32; 16]) -> [i32; 16] {
        dots(sum, w, x[0])
    }
    #[inline(always)]
    unsafe fn sum4(sum: [i32; 16]) -> [i32; 16] {
        sum
    }
    #[inline(always)]
    unsafe fn minus(sum: [i32; 16], x: i32) -> [i32; 16] {
        sum.map(|s| s.wrapping_sub(x))
    }
    #[inline(always)]
    unsafe fn scales(p: *const u16) -> [f32; 16] {
        // SAFETY: the caller's pointer is good for 32 bytes.
        unsafe { (p as *const [u16; 16]).read_unaligned() }.map(|h| f16::from_bits(h).to_f32())
    }
    #[inline(always)]
    unsafe fn scaled(sum: [i32; 16], d: [f32; 16], s: f32, y: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|l| y[l] + sum[l] as f32 * (d[l] * s))
    }
    #[inline(always)]
    unsafe fn axpy(d: [f32; 16], s: f32, y: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|l| y[l] + d[l] * s)
    }
    #[inline(always)]
    unsafe fn store(y: [f32; 16], p: *mut f32) {
        // SAFETY: the caller's pointer is good for 64 bytes.
        unsafe { (p as *mut [f32; 16]).write_unaligned(y) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Isa;
    use std::arch::x86_64::*;

    /// AVX2, FMA, F16C.
    pub(in super::super) struct Avx2;

    impl Isa for Avx2 {
        const LANES: usize = 8;
        const OFFSET8: i32 = 0;
        type Int = __m256i;
        type Float = __m256;

        #[inline(always)]
        unsafe fn zero() -> __m256i {
            // SAFETY: the trait's contract; so below.
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn zero_float() -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m256i {
            // SAFETY: as above; 32 bytes.
            unsafe { _mm256_loadu_si256(p as *const __m256i) }
        }
        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            // SAFETY: a hint, at any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p as *const i8) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const i8) -> __m256i {
            // SAFETY: as above; 4 bytes.
            unsafe { _mm256_set1_epi32((p as *const i32).read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn nibbles(w: __m256i) -> (__m256i, __m256i) {
            // SAFETY: as above.
            unsafe {
                let mask = _mm256_set1_epi8(15);
                (_mm256_and_si256(w, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(w), mask))
            }
        }
        #[inline(always)]
        unsafe fn dot8(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
            // |w| times x with w's sign: pairs are at most 2 * 128 * 127 = 32512, so nothing saturates.
            // SAFETY: as above.
            unsafe {
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
        #[inline(always)]
        unsafe fn dot4(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
            // The sum stays in i16: 8 times 2 * 15 * 127 is 30480.
            // SAFETY: as above.
            unsafe { _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)) }
        }
        #[inline(always)]
        unsafe fn sum4(sum: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_madd_epi16(sum, _mm256_set1_epi16(1)) }
        }
        #[inline(always)]
        unsafe fn minus(sum: __m256i, x: i32) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_sub_epi32(sum, _mm256_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn scales(p: *const u16) -> __m256 {
            // SAFETY: as above; 16 bytes.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p as *const __m128i)) }
        }
        #[inline(always)]
        unsafe fn scaled(sum: __m256i, d: __m256, s: f32, y: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d, _mm256_set1_ps(s)), y) }
        }
        #[inline(always)]
        unsafe fn axpy(d: __m256, s: f32, y: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(d, _mm256_set1_ps(s), y) }
        }
        #[inline(always)]
        unsafe fn store(y: __m256, p: *mut f32) {
            // SAFETY: as above; 32 bytes.
            unsafe { _mm256_storeu_ps(p, y) }
        }
    }

    /// AVX-512 with VNNI: its dot product of 4 bytes takes the weights unsigned.
    pub(in super::super) struct Vnni;

    impl Isa for Vnni {
        const LANES: usize = 16;
        const OFFSET8: i32 = 128;
        type Int = __m512i;
        type Float = __m512;

        #[inline(always)]
        unsafe fn zero() -> __m512i {
            // SAFETY: the trait's contract; so below.
            unsafe { _mm512_setzero_si512() }
        }
        #[inline(always)]
        unsafe fn zero_float() -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m512i {
            // SAFETY: as above; 64 bytes.
            unsafe { _mm512_loadu_si512(p as *const __m512i) }
        }
        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            // SAFETY: a hint, at any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p as *const i8) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const i8) -> __m512i {
            // SAFETY: as above; 4 bytes.
            unsafe { _mm512_set1_epi32((p as *const i32).read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn nibbles(w: __m512i) -> (__m512i, __m512i) {
            // SAFETY: as above.
            unsafe {
                let mask = _mm512_set1_epi8(15);
                (_mm512_and_si512(w, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(w), mask))
            }
        }
        #[inline(always)]
        unsafe fn dot8(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
            // The sign bit flipped: w + 128.
            // SAFETY: as above.
            unsafe { _mm512_dpbusd_epi32(sum, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x) }
        }
        #[inline(always)]
        unsafe fn dot4(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
            // SAFETY: as above.
            unsafe { _mm512_dpbusd_epi32(sum, w, x) }
        }
        #[inline(always)]
        unsafe fn sum4(sum: __m512i) -> __m512i {
            sum
        }
        #[inline(always)]
        unsafe fn minus(sum: __m512i, x: i32) -> __m512i {
            // SAFETY: as above.
            unsafe { _mm512_sub_epi32(sum, _mm512_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn scales(p: *const u16) -> __m512 {
            // SAFETY: as above; 32 bytes.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p as *const __m256i)) }
        }
        #[inline(always)]
        unsafe fn scaled(sum: __m512i, d: __m512, s: f32, y: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, _mm512_set1_ps(s)), y) }
        }
        #[inline(always)]
        unsafe fn axpy(d: __m512, s: f32, y: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(d, _mm512_set1_ps(s), y) }
        }
        #[inline(always)]
        unsafe fn store(y: __m512, p: *mut f32) {
            // SAFETY: as above; 64 bytes.
            unsafe { _mm512_storeu_ps(p, y) }
        }
    }
}
