//! Arithmetic with rounding modifiers, f16 and bf16 arithmetic, minimum and maximum.

use super::round::{decode, encode, odd, sum_odd, two_sum};
use super::{NAN_16, NAN_F32, Round, Ty};

/// A floating-point operation with one, two or three operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a * b + c`, rounded once.
    Fma,
    /// `a / b`.
    Div,
    /// `1 / a`.
    Rcp,
    /// The square root of `a`.
    Sqrt,
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// An f32 operation, correctly rounded. `.ftz` flushes subnormal operands and results, `.sat` clamps to [0, 1] with NaN to +0.
/// Operands that the operation does not have are ignored.
pub fn fp32(op: Fp, round: Round, ftz: bool, sat: bool, a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = if ftz { (flush(a), flush(b), flush(c)) } else { (a, b, c) };
    let r = if matches!(round, Round::None | Round::Rn) {
        match op {
            Fp::Add => a + b,
            Fp::Sub => a - b,
            Fp::Mul => a * b,
            Fp::Fma => a.mul_add(b, c),
            Fp::Div => a / b,
            Fp::Rcp => 1.0 / a,
            Fp::Sqrt => a.sqrt(),
        }
    } else {
        directed(op, round, a as f64, b as f64, c as f64)
    };
    let r = if ftz { flush(r) } else { r };
    if r.is_nan() {
        if sat { 0.0 } else { f32::from_bits(NAN_F32) }
    } else if sat {
        // Not clamp: -0 becomes +0.
        if r > 0.0 { r.min(1.0) } else { 0.0 }
    } else {
        r
    }
}

/// By way of an f64 that is rounded to odd, so that the second rounding is the only one.
fn directed(op: Fp, round: Round, a: f64, b: f64, c: f64) -> f32 {
    let (wide, zero) = match op {
        Fp::Add => (sum_odd(a, b), exact_zero(a, b, round)),
        Fp::Sub => (sum_odd(a, -b), exact_zero(a, -b, round)),
        Fp::Mul => (a * b, None),
        Fp::Fma => (sum_odd(a * b, c), exact_zero(a * b, c, round)),
        Fp::Div => (quotient_odd(a, b), None),
        Fp::Rcp => (quotient_odd(1.0, a), None),
        Fp::Sqrt => {
            let s = a.sqrt();
            (if s > 0.0 && s.is_finite() { odd(s, (-s).mul_add(s, a)) } else { s }, None)
        }
    };
    let bits = encode(Ty::F32, decode(Ty::F64, zero.unwrap_or(wide).to_bits()), round);
    f32::from_bits(bits as u32)
}

/// IEEE 754: an exact zero sum of opposite terms is -0 when rounding down.
fn exact_zero(a: f64, b: f64, round: Round) -> Option<f64> {
    (round == Round::Rm && a + b == 0.0 && a.is_sign_negative() != b.is_sign_negative()).then_some(-0.0)
}

fn quotient_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if q == 0.0 || !q.is_finite() || b.is_infinite() {
        return q;
    }
    let r = (-q).mul_add(b, a);
    // The remainder's sign against the divisor's says on which side of q the quotient lies.
    odd(q, if b < 0.0 { -r } else { r })
}

/// An f64 operation, rounded to nearest; the other modes only where f64 arithmetic can tell the error (not `Sqrt` near the range's
/// ends).
pub fn fp64(op: Fp, round: Round, a: f64, b: f64, c: f64) -> f64 {
    let (near, error) = match op {
        Fp::Add => two_sum(a, b),
        Fp::Sub => two_sum(a, -b),
        Fp::Mul => (a * b, a.mul_add(b, -(a * b))),
        Fp::Fma => {
            // Error-free fma (Boldo and Muller, 2011): the sign of the error is all that is used.
            let r = a.mul_add(b, c);
            let (u1, u2) = (a * b, a.mul_add(b, -(a * b)));
            let (alpha1, alpha2) = two_sum(c, u2);
            let (beta1, beta2) = two_sum(u1, alpha1);
            let gamma = (beta1 - r) + beta2;
            (r, gamma + alpha2)
        }
        Fp::Div | Fp::Rcp => {
            let (a, b) = if op == Fp::Rcp { (1.0, a) } else { (a, b) };
            let q = a / b;
            let r = (-q).mul_add(b, a);
            (q, if b < 0.0 { -r } else { r })
        }
        Fp::Sqrt => (a.sqrt(), (-a.sqrt()).mul_add(a.sqrt(), a)),
    };
    if matches!(round, Round::None | Round::Rn) || !near.is_finite() || error == 0.0 || error.is_nan() {
        return near;
    }
    match round {
        Round::Rm if error < 0.0 => near.next_down(),
        Round::Rp if error > 0.0 => near.next_up(),
        Round::Rz if (error < 0.0) == (near > 0.0) && near != 0.0 => f64::from_bits(near.to_bits() - 1),
        _ => near,
    }
}

macro_rules! extremes {
    ($min:ident, $max:ident, $ty:ty, $nan:expr) => {
        /// `min{.NaN}`: the other operand where one is NaN, or NaN with `.NaN`; -0 is less than +0.
        pub fn $min(a: $ty, b: $ty, nan: bool) -> $ty {
            if nan && (a.is_nan() || b.is_nan()) || a.is_nan() && b.is_nan() {
                $nan
            } else if b.is_nan() || a < b || a == b && a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        /// `max{.NaN}`: the other operand where one is NaN, or NaN with `.NaN`; -0 is less than +0.
        pub fn $max(a: $ty, b: $ty, nan: bool) -> $ty {
            if nan && (a.is_nan() || b.is_nan()) || a.is_nan() && b.is_nan() {
                $nan
            } else if b.is_nan() || a > b || a == b && a.is_sign_positive() {
                a
            } else {
                b
            }
        }
    };
}
extremes!(min_f32, max_f32, f32, f32::from_bits(NAN_F32));
extremes!(min_f64, max_f64, f64, f64::from_bits(0x7fff_ffff_ffff_ffff));

/// A 16-bit float format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl Half {
    fn ty(self) -> Ty {
        if self == Half::F16 { Ty::F16 } else { Ty::Bf16 }
    }
    /// The value of its bits.
    pub fn value(self, bits: u16) -> f32 {
        match self {
            Half::F16 => half::f16::from_bits(bits).to_f32(),
            Half::Bf16 => f32::from_bits((bits as u32) << 16),
        }
    }
}

/// An operation on 16-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HalfOp {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a * b + c`, rounded once.
    Fma,
    /// `min`.
    Min,
    /// `max`.
    Max,
    /// `min.NaN`.
    MinNan,
    /// `max.NaN`.
    MaxNan,
    /// `-a`.
    Neg,
    /// `|a|`.
    Abs,
}

/// A 16-bit float operation, rounded once to nearest even. `.ftz` flushes subnormal f16 operands and results, `.sat` clamps to [0, 1]
/// with NaN to +0, `.relu` (fma) clamps negatives to +0 and keeps NaN.
#[inline(never)]
pub fn half(op: HalfOp, kind: Half, ftz: bool, sat: bool, relu: bool, a: u16, b: u16, c: u16) -> u16 {
    let exponent = if kind == Half::F16 { 0x7c00 } else { 0x7f80 };
    let flush = |x: u16| if ftz && x & exponent == 0 { x & 0x8000 } else { x };
    let (a, b, c) = (flush(a), flush(b), flush(c));
    let (x, y, z) = (kind.value(a), kind.value(b), kind.value(c));
    let pick = |v: f32| if v.is_nan() { NAN_16 } else { narrow(kind, v as f64) };
    let bits = match op {
        HalfOp::Neg if x.is_nan() => NAN_16,
        HalfOp::Abs if x.is_nan() => NAN_16,
        HalfOp::Neg => a ^ 0x8000,
        HalfOp::Abs => a & 0x7fff,
        HalfOp::Min => pick(min_f32(x, y, false)),
        HalfOp::Max => pick(max_f32(x, y, false)),
        HalfOp::MinNan => pick(min_f32(x, y, true)),
        HalfOp::MaxNan => pick(max_f32(x, y, true)),
        HalfOp::Add => narrow(kind, sum_odd(x as f64, y as f64)),
        HalfOp::Sub => narrow(kind, sum_odd(x as f64, -y as f64)),
        HalfOp::Mul => narrow(kind, x as f64 * y as f64),
        HalfOp::Fma => narrow(kind, sum_odd(x as f64 * y as f64, z as f64)),
    };
    let bits = flush(bits);
    let nan = bits & 0x7fff > exponent;
    if sat {
        let one = if kind == Half::F16 { 0x3c00 } else { 0x3f80 };
        if nan || bits & 0x8000 != 0 { 0 } else { bits.min(one) }
    } else if relu && !nan && bits & 0x8000 != 0 {
        0
    } else {
        bits
    }
}

/// [`half`] on both halves of 32-bit registers.
pub fn half_x2(op: HalfOp, kind: Half, ftz: bool, sat: bool, relu: bool, a: u32, b: u32, c: u32) -> u32 {
    let one =
        |s: u32| half(op, kind, ftz, sat, relu, (a >> s) as u16, (b >> s) as u16, (c >> s) as u16) as u32;
    one(16) << 16 | one(0)
}

fn narrow(kind: Half, x: f64) -> u16 {
    encode(kind.ty(), decode(Ty::F64, x.to_bits()), Round::Rn) as u16
}

#[cfg(test)]
mod tests {
    use super::super::mix;
    use super::*;

    /// Random f32s near one another, so that all the cases of a sum occur.
    fn sample(i: u64) -> f32 {
        let r = mix(i);
        f32::from_bits(r as u32 & 0x807f_ffff | (90 + (r >> 40) as u32 % 70) << 23)
    }

    #[test]
    fn directed_results_bracket_the_nearest() {
        for op in [Fp::Add, Fp::Sub, Fp::Mul, Fp::Fma, Fp::Div, Fp::Rcp, Fp::Sqrt] {
            let mut inexact = 0;
            for i in 0..30_000 {
                let (a, b, c) = (sample(3 * i), sample(3 * i + 1), sample(3 * i + 2));
                let a = if op == Fp::Sqrt { a.abs() } else { a };
                let f = |r| fp32(op, r, false, false, a, b, c);
                let (n, m, p, z) = (f(Round::Rn), f(Round::Rm), f(Round::Rp), f(Round::Rz));
                assert!(n == m || n == p, "{op:?} {a:e} {b:e} {c:e}: {m:e} {n:e} {p:e}");
                assert!(p == m || p == m.next_up(), "{op:?} {a:e} {b:e} {c:e}: {m:e} {p:e}");
                assert_eq!(z, if n > 0.0 || m > 0.0 { m } else { p }, "{op:?}");
                inexact += u32::from(m != p);
                let g = |r| fp64(op, r, a as f64, b as f64, c as f64);
                let (n, m, p) = (g(Round::Rn), g(Round::Rm), g(Round::Rp));
                assert!((n == m || n == p) && (p == m || p == m.next_up()), "{op:?} f64");
            }
            assert!(inexact > 15_000, "{op:?} {inexact}");
        }
        assert_eq!(fp32(Fp::Sub, Round::Rm, false, false, 1.0, 1.0, 0.0).to_bits(), 0x8000_0000);
        assert_eq!(fp32(Fp::Add, Round::Rz, false, false, f32::MAX, f32::MAX, 0.0), f32::MAX);
        assert_eq!(fp32(Fp::Div, Round::Rz, false, false, 1.0, 0.0, 0.0), f32::INFINITY);
        assert_eq!(fp32(Fp::Div, Round::Rp, false, false, 1.0, f32::INFINITY, 0.0), 0.0);
    }

    #[test]
    fn flush_and_saturate() {
        assert_eq!(fp32(Fp::Mul, Round::Rn, true, false, 1e-20, 1e-20, 0.0), 0.0);
        assert_eq!(fp32(Fp::Mul, Round::Rn, false, false, 1e-20, 1e-20, 0.0), 1e-40);
        assert_eq!(fp32(Fp::Add, Round::Rn, true, false, -1e-40, 0.0, 0.0).to_bits(), 0);
        assert_eq!(fp32(Fp::Mul, Round::Rn, true, false, -1e-40, 1e30, 0.0).to_bits(), 0x8000_0000);
        assert_eq!(fp32(Fp::Add, Round::Rn, false, true, 0.75, 0.5, 0.0), 1.0);
        assert_eq!(fp32(Fp::Add, Round::Rn, false, true, f32::NAN, 0.5, 0.0), 0.0);
        assert_eq!(fp32(Fp::Add, Round::Rn, false, false, f32::NAN, 0.5, 0.0).to_bits(), NAN_F32);
    }

    /// Whether `got` is the f16 nearest to `exact`, even on a tie. (The half crate's from_f64 drops the low 32 bits first.)
    fn nearest(exact: f64, got: u16) -> bool {
        let off = |x: u16| (half::f16::from_bits(x).to_f64() - exact).abs();
        [got - 1, got + 1].iter().all(|&n| off(got) < off(n) || off(got) == off(n) && got & 1 == 0)
    }

    #[test]
    fn halves_round_once() {
        for i in 0..200_000u64 {
            let r = mix(i);
            let h = |s: u32| (r >> s) as u16 & 0x83ff | (8 + ((r >> (48 + s / 16 * 4)) as u16 & 15)) << 10;
            let (a, b, c) = (h(0), h(16), h(32));
            let v = |x| half::f16::from_bits(x).to_f64();
            // All exact in f64: 22-bit products, sums spanning fewer than 53 bits here.
            for (op, exact) in [
                (HalfOp::Fma, v(a) * v(b) + v(c)),
                (HalfOp::Add, v(a) + v(b)),
                (HalfOp::Sub, v(a) - v(b)),
                (HalfOp::Mul, v(a) * v(b)),
            ] {
                let got = half(op, Half::F16, false, false, false, a, b, c);
                if exact.abs() > 1e-7 && exact.abs() < 65000.0 {
                    assert!(nearest(exact, got), "{op:?} {a:x} {b:x} {c:x}");
                }
            }
        }
        // bf16: 1 + 2^-8 is a tie that goes to even; a term far below breaks it.
        let f = |c: u16| half(HalfOp::Fma, Half::Bf16, false, false, false, 0x3f80, 0x3b80, c);
        assert_eq!(f(0x3f80), 0x3f80);
        let g = |b: u16, c: u16| half(HalfOp::Fma, Half::Bf16, false, false, false, 0x3f81, b, c);
        assert_eq!(g(0x3f81, 0x0080), 0x3f82); // 1 + 2^-6 + 2^-14: nearest stays
        assert_eq!(half(HalfOp::Fma, Half::Bf16, false, false, true, 0xbf80, 0x3f80, 0), 0);
        assert_eq!(half(HalfOp::Add, Half::F16, true, false, false, 0x0001, 0, 0), 0);
        assert_eq!(half(HalfOp::Add, Half::F16, false, true, false, 0x4000, 0, 0), 0x3c00);
        assert_eq!(
            half_x2(HalfOp::Mul, Half::F16, false, false, false, 0x4000_3c00, 0x4200_c000, 0),
            0x4600_c000
        );
    }

    #[test]
    fn extremes() {
        let nan = f32::NAN;
        assert_eq!(min_f32(nan, 2.0, false), 2.0);
        assert_eq!(max_f32(2.0, nan, false), 2.0);
        assert!(
            min_f32(nan, 2.0, true).is_nan()
                && max_f32(2.0, nan, true).is_nan()
                && max_f32(nan, nan, false).is_nan()
        );
        for (a, b) in [(0.0, -0.0), (-0.0, 0.0)] {
            assert!(min_f32(a, b, false).is_sign_negative());
            assert!(max_f32(a, b, false).is_sign_positive());
        }
        assert_eq!(half(HalfOp::Min, Half::F16, false, false, false, 0x7e00, 0xc000, 0), 0xc000);
        assert_eq!(half(HalfOp::MinNan, Half::Bf16, false, false, false, 0x7fc0, 0xc000, 0), NAN_16);
        assert_eq!(half(HalfOp::Max, Half::Bf16, false, false, false, 0x3f80, 0xc000, 0), 0x3f80);
    }
}
