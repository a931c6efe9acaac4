//! Which instruction set runs: found once, forced by tests, never by compile-time flags.

pub(crate) mod lanes;

use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets a CPU body may be written for, weakest first: a level implies those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust, any target.
    Portable = 1,
    /// AVX2, FMA and F16C.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512 = 3,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16 = 4,
    /// AMX tiles with bf16 dot products.
    Amx = 5,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// All levels, weakest first.
pub const LEVELS: [Level; 5] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16, Level::Amx];

/// The level in use.
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        0 => {
            let best = detect();
            LEVEL.store(best as u8, Ordering::Relaxed);
            best
        }
        n => LEVELS[n as usize - 1],
    }
}

/// Use `level`, or the best the machine has when that is weaker; returns what is in use now. For tests and benches.
pub fn force(level: Level) -> Level {
    let level = level.min(detect());
    LEVEL.store(level as u8, Ordering::Relaxed);
    level
}

/// Whether the level in use comes with AVX-512's dot products of bytes. They are no level of their own: every machine with
/// bf16 dot products has them, and some without.
#[cfg(target_arch = "x86_64")]
pub(crate) fn vnni() -> bool {
    level() >= Level::Avx512 && std::arch::is_x86_feature_detected!("avx512vnni")
}

static PAIRS: AtomicU8 = AtomicU8::new(0);

/// Whether the level in use has products of bf16.
pub fn multiplies_bf16() -> bool {
    level() >= Level::Avx512Bf16
}

/// Whether attention multiplies bf16 as such: where the machine does, or where a test asks for it.
pub fn pairs() -> bool {
    multiplies_bf16() || PAIRS.load(Ordering::Relaxed) == 1
}

/// Tests: take the path that multiplies bf16 also where that is emulated.
pub fn force_pairs(on: bool) {
    PAIRS.store(on as u8, Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma") && has!("f16c")) {
        return Level::Portable;
    }
    if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
        return Level::Avx2;
    }
    if !has!("avx512bf16") {
        return Level::Avx512;
    }
    if amx_available() { Level::Amx } else { Level::Avx512Bf16 }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// CPUID says AMX-TILE and AMX-BF16, and the kernel lets this process use the tile registers.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_available() -> bool {
    use std::sync::OnceLock;
    static YES: OnceLock<bool> = OnceLock::new();
    *YES.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        if leaf.edx & (1 << 22) == 0 || leaf.edx & (1 << 24) == 0 {
            return false;
        }
        const SYS_ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let rc: i64;
        // SAFETY: a system call that asks for the right to use tile registers; it writes no memory of ours.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") SYS_ARCH_PRCTL => rc, in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        rc == 0
    })
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_available() -> bool {
    false
}

/// Compile one safe, generic-free body for AVX-512, AVX2 and the baseline, and pick at run time.
///
/// The body is inlined into each version, so its loops vectorise to that version's width. Inside it,
/// `$fma` is `true` where `f32::mul_add` is one instruction (it is a slow library call elsewhere): use [`madd`].
#[macro_export]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<const $fma:ident: bool>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const $fma: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn v4($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn v3($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                let level = $crate::simd::level();
                if level >= $crate::simd::Level::Avx512 {
                    // SAFETY: the level was detected on this machine.
                    return unsafe { v4($($arg),*) };
                }
                if level >= $crate::simd::Level::Avx2 {
                    // SAFETY: the level was detected on this machine.
                    return unsafe { v3($($arg),*) };
                }
            }
            body::<false>($($arg),*)
        }
    };
}

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x for x <= 0 (a softmax, a decay) to about 2 ulp, branch-free: half the work of [`exp`]. 0 below -87.3; NaN stays NaN.
#[inline(always)]
pub fn exp_fall<const FMA: bool>(x: f32) -> f32 {
    const LEAST: f32 = -87.336_54;
    let c = if x < LEAST { LEAST } else { x };
    let shifted = madd::<FMA>(c, LOG2E, MAGIC);
    let y = exp_near::<FMA>(c, shifted - MAGIC)
        * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LEAST { 0.0 } else { y }
}

/// 2^x for x <= 100 to about 2^-18, branch-free: for what is rounded to bf16 next. 0 below -126.5; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp2_fall<const FMA: bool>(x: f32) -> f32 {
    // Where the exponent's bits are 0: what is less becomes 0.
    const LEAST: f32 = -127.0;
    // The sum's low bits are the exponent of the result, its bias included.
    const SHIFT: f32 = MAGIC + 127.0;
    let c = if x < LEAST { LEAST } else { x };
    let shifted = c + SHIFT;
    let r = c - (shifted - SHIFT);
    // Through 2^r at the Chebyshev nodes of [-1/2, 1/2].
    let mut p = 9.666_368e-3f32;
    p = madd::<FMA>(p, r, 5.592_197_6e-2);
    p = madd::<FMA>(p, r, 2.402_235e-1);
    p = madd::<FMA>(p, r, 0.693_121);
    madd::<FMA>(p, r, 1.0) * f32::from_bits(shifted.to_bits() << 23)
}

const LOG2E: f32 = std::f32::consts::LOG2_E;
/// 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits.
const MAGIC: f32 = 12_582_912.0;

/// e^(x - n ln 2), for n next to x / ln 2.
#[inline(always)]
fn exp_near<const FMA: bool>(x: f32, n: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let r = madd::<FMA>(n, -LN2_LO, madd::<FMA>(n, -LN2_HI, x));
    let mut p = 1.987_569_1e-4f32;
    p = madd::<FMA>(p, r, 1.398_2e-3);
    p = madd::<FMA>(p, r, 8.333_452e-3);
    p = madd::<FMA>(p, r, 4.166_579_6e-2);
    p = madd::<FMA>(p, r, 1.666_666_5e-1);
    p = madd::<FMA>(p, r, 5e-1);
    madd::<FMA>(p, r * r, r + 1.0)
}

/// e^x to about 2 ulp, branch-free so that loops over it vectorise. 0 below -87.3, +inf above 88.7.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let c = x.clamp(-87.336_54, 88.722_83);
    let shifted = madd::<FMA>(c, LOG2E, MAGIC);
    let y = exp_near::<FMA>(c, shifted - MAGIC);
    // 2^n in two halves, so that n = 128 neither overflows early nor loses the last binade.
    let i = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let h = i >> 1;
    let s1 = f32::from_bits((h.wrapping_add(127) << 23) as u32);
    let s2 = f32::from_bits((i.wrapping_sub(h).wrapping_add(127) << 23) as u32);
    let y = y * s1 * s2;
    let y = if x < -87.336_54 { 0.0 } else { y };
    let y = if x > 88.722_83 { f32::INFINITY } else { y };
    // NaN passes through clamp; say so rather than rely on what the bit tricks give.
    if x.is_nan() { x } else { y }
}

#[cfg(test)]
mod tests {
    use super::exp2_fall;

    #[test]
    fn powers_of_two_are_near_and_total() {
        for i in -1_260_000..1_000_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (exp2_fall::<false>(x) as f64, (x as f64).exp2());
            assert!((got - want).abs() <= 5e-6 * want, "2^{x}: got {got}, want {want}");
        }
        assert_eq!(exp2_fall::<false>(0.0), 1.0);
        assert_eq!([-127.0, -1e9, f32::NEG_INFINITY].map(exp2_fall::<false>), [0.0; 3]);
        assert!(exp2_fall::<false>(f32::NAN).is_nan());
    }
}
