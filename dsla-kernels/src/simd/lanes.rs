//! Sixteen f32 lanes on every instruction set: a kernel is written once over [`Lanes`] and compiled for each, so what is
//! tested on one machine is what runs on another but for these one-instruction methods.

use crate::vec::nearest_bf16;

/// Some f32.
///
/// # Safety
/// Of every method: the instruction set must be there, and the pointers good for what is read or written.
pub(crate) trait Vector: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// self + a b.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
}

/// One register of f32, for kernels that need to know how many there are: [`Lanes`] may be two.
///
/// # Safety
/// Of every method: the instruction set must be there, and the pointers good for what is read or written.
pub(crate) trait Register: Vector {
    /// 8 or 16.
    const LANES: usize;

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
pub(crate) trait Lanes: Vector {
    /// What they are made of.
    type Register: Register;
    /// Which of sixteen lanes are touched.
    type Mask: Copy;
    /// Registers for 12 rows by 2 vectors of sums, against 6 rows by 1.
    const WIDE: bool;

    unsafe fn mask(lanes: usize) -> Self::Mask;
    /// Zero where the mask is off; nothing is read there.
    unsafe fn load_masked(p: *const f32, m: Self::Mask) -> Self;
    unsafe fn store_masked(self, p: *mut f32, m: Self::Mask);
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
    /// 1 / self to 2^-14 at least, for numbers of usual size.
    #[inline(always)]
    unsafe fn rough_inverse(self) -> Self {
        let mut v = [0.0f32; 16];
        // SAFETY: the caller's.
        unsafe {
            self.store(v.as_mut_ptr());
            v.iter_mut().for_each(|x| *x = 1.0 / *x);
            Self::load(v.as_ptr())
        }
    }
    /// Rounded to the nearest bf16, ties to even.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        let mut v = [0.0f32; 16];
        // SAFETY: the caller's, for 16 elements.
        unsafe {
            self.store(v.as_mut_ptr());
            (0..16).for_each(|l| *p.add(l) = nearest_bf16(v[l]).to_bits());
        }
    }
    /// Sixteen pairs of bf16: one of these and one of b each, rounded as by [`Lanes::store_bf16`].
    #[inline(always)]
    unsafe fn store_pairs(self, b: Self, p: *mut u16) {
        let mut halves = [[0u16; 16]; 2];
        // SAFETY: the caller's, for 32 elements.
        unsafe {
            self.store_bf16(halves[0].as_mut_ptr());
            b.store_bf16(halves[1].as_mut_ptr());
            for l in 0..16 {
                *p.add(2 * l) = halves[0][l];
                *p.add(2 * l + 1) = halves[1][l];
            }
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

impl Vector for Portable {
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
}

impl Register for Portable {
    const LANES: usize = 16;

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
mod x86;

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
