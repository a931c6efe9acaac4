//! Exact values and their rounding into any of the formats.

/// A scalar type of `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// 10 mantissa bits in an f32 (the low 13 bits are zero).
    Tf32,
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 8 bits.
    S8,
    /// Signed, 16 bits.
    S16,
    /// Signed, 32 bits.
    S32,
    /// Signed, 64 bits.
    S64,
}

/// A rounding modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// No modifier: the result is exact, or the instruction's default (nearest even) applies.
    None,
    /// `.rn`: nearest even.
    Rn,
    /// `.rna`: nearest, ties away from zero.
    Rna,
    /// `.rz`: toward zero.
    Rz,
    /// `.rm`: toward minus infinity.
    Rm,
    /// `.rp`: toward plus infinity.
    Rp,
    /// `.rni`: to the nearest integer, even.
    Rni,
    /// `.rzi`: to an integer, toward zero.
    Rzi,
    /// `.rmi`: to an integer, toward minus infinity.
    Rmi,
    /// `.rpi`: to an integer, toward plus infinity.
    Rpi,
}

impl Round {
    /// Whether it rounds to an integer.
    pub fn integer(self) -> bool {
        matches!(self, Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi)
    }
}

impl Ty {
    /// Bits of a value.
    pub fn bits(self) -> u32 {
        match self {
            Ty::U8 | Ty::S8 => 8,
            Ty::F16 | Ty::Bf16 | Ty::U16 | Ty::S16 => 16,
            Ty::Tf32 | Ty::F32 | Ty::U32 | Ty::S32 => 32,
            Ty::F64 | Ty::U64 | Ty::S64 => 64,
        }
    }
    /// Floating point.
    pub fn float(self) -> bool {
        self.format().is_some()
    }
    /// A signed integer.
    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }
    /// (mantissa bits, exponent bits, unused low bits) of a float.
    pub(super) fn format(self) -> Option<(u32, u32, u32)> {
        match self {
            Ty::F16 => Some((10, 5, 0)),
            Ty::Bf16 => Some((7, 8, 0)),
            Ty::Tf32 => Some((10, 8, 13)),
            Ty::F32 => Some((23, 8, 0)),
            Ty::F64 => Some((52, 11, 0)),
            _ => None,
        }
    }
}

/// An exact value: `m * 2^e`, or a special one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Val {
    /// Not a number.
    Nan,
    /// Infinity; true: negative.
    Inf(bool),
    /// `(-1)^neg * m * 2^e`; `m == 0` is a signed zero.
    Num { neg: bool, m: u64, e: i32 },
}

/// The exact value of a float's bits.
pub(super) fn decode(ty: Ty, bits: u64) -> Val {
    let (mb, eb, low) = ty.format().unwrap_or((52, 11, 0));
    let bits = bits >> low;
    let neg = bits >> (mb + eb) & 1 == 1;
    let exp = (bits >> mb & ((1 << eb) - 1)) as i32;
    let man = bits & ((1 << mb) - 1);
    let bias = (1 << (eb - 1)) - 1;
    if exp == (1 << eb) - 1 {
        return if man == 0 { Val::Inf(neg) } else { Val::Nan };
    }
    let (m, e) = if exp == 0 { (man, 1) } else { (man | 1 << mb, exp) };
    Val::Num { neg, m, e: e - bias - mb as i32 }
}

/// `m * 2^e` over `2^q`: the quotient's integer part rounded by `round`. Right shifts only: `e <= q`, or the quotient fits.
fn quotient(neg: bool, m: u64, e: i32, q: i32, round: Round) -> u128 {
    let shift = q - e;
    if shift <= 0 {
        return (m as u128) << (-shift).min(64);
    }
    let m = m as u128;
    let (int, rest, half) = if shift >= 100 {
        (0, m != 0, false)
    } else {
        let int = m >> shift;
        let rest = m & ((1u128 << shift) - 1);
        (int, rest & !(1 << (shift - 1)) != 0, rest >> (shift - 1) & 1 == 1)
    };
    let inexact = rest || half;
    let up = match round {
        Round::Rz | Round::Rzi => false,
        Round::Rm | Round::Rmi => neg && inexact,
        Round::Rp | Round::Rpi => !neg && inexact,
        Round::Rna => half,
        _ => half && (rest || int & 1 == 1),
    };
    int + u128::from(up)
}

/// Round to an integral value.
pub(super) fn integral(v: Val, round: Round) -> Val {
    match v {
        Val::Num { neg, m, e } if e < 0 => Val::Num { neg, m: quotient(neg, m, e, 0, round) as u64, e: 0 },
        v => v,
    }
}

/// The integer nearest to a value by `round`, clamped to `[lo, hi]`. NaN is None.
pub(super) fn to_integer(v: Val, round: Round, lo: i128, hi: i128) -> Option<i128> {
    match integral(v, round) {
        Val::Nan => None,
        Val::Inf(neg) => Some(if neg { lo } else { hi }),
        Val::Num { neg, m, e } => {
            let big = if m == 0 {
                0
            } else if e > 63 {
                i128::MAX
            } else {
                (m as i128) << e.max(0)
            };
            Some(if neg { -big } else { big }.clamp(lo, hi))
        }
    }
}

/// Bits of a value in a float format, rounded once. Overflow goes to infinity or the largest finite number as the mode says.
pub(super) fn encode(ty: Ty, v: Val, round: Round) -> u64 {
    let (mb, eb, low) = ty.format().unwrap_or((52, 11, 0));
    let inf = ((1u64 << eb) - 1) << mb;
    let sign = |neg: bool| u64::from(neg) << (mb + eb);
    let bits = match v {
        // All ones but the sign: the canonical NaN of every format.
        Val::Nan => return (1u64 << (mb + eb + low)) - 1,
        Val::Inf(neg) => sign(neg) | inf,
        Val::Num { neg, m: 0, .. } => sign(neg),
        Val::Num { neg, m, e } => {
            let bias = (1 << (eb - 1)) - 1;
            let top = 63 - m.leading_zeros() as i32 + e;
            let q = top.max(1 - bias) - mb as i32;
            let int = quotient(neg, m, e, q, round) as u64;
            // Adding the rounded significand to the exponent field carries by itself, from subnormals too.
            let field = (q + mb as i32 + bias - 1) as i64;
            if field + (int >> mb) as i64 >= (1 << eb) - 1 {
                let finite = match round {
                    Round::Rz => true,
                    Round::Rm => !neg,
                    Round::Rp => neg,
                    _ => false,
                };
                sign(neg) | if finite { inf - 1 } else { inf }
            } else {
                sign(neg) | (((field as u64) << mb) + int)
            }
        }
    };
    bits << low
}

/// `hi + lo` where `|lo|` is at most half a unit of `hi`: the f64 that rounds to any narrower format like the exact sum
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
pub(super) fn odd(hi: f64, lo: f64) -> f64 {
    if lo == 0.0 || !hi.is_finite() || !lo.is_finite() {
        return hi;
    }
    let bits = hi.to_bits();
    let toward = if (lo > 0.0) == (hi > 0.0) { bits } else { bits - 1 };
    f64::from_bits(toward | 1)
}

/// Error-free sum: `a + b == s + e` exactly.
#[inline]
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// `a + b` for rounding into a format with at most 50 mantissa bits.
pub(super) fn sum_odd(a: f64, b: f64) -> f64 {
    let (s, e) = two_sum(a, b);
    odd(s, e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_to_f32_is_the_identity() {
        for i in 0..200_000u64 {
            let b = super::super::mix(i) as u32;
            if f32::from_bits(b).is_nan() {
                continue;
            }
            for r in [Round::Rn, Round::Rz, Round::Rm, Round::Rp] {
                assert_eq!(encode(Ty::F32, decode(Ty::F32, b as u64), r), b as u64);
            }
        }
    }

    #[test]
    fn nearest_is_the_hardware_cast() {
        for i in 0..200_000u64 {
            // Exponents around f32's, so that subnormals and overflow come up.
            let e = 1023 - 160 + super::super::mix(i ^ 77) % 300;
            let b = super::super::mix(i) & 0x800f_ffff_ffff_ffff | e << 52;
            let want = (f64::from_bits(b) as f32).to_bits() as u64;
            assert_eq!(encode(Ty::F32, decode(Ty::F64, b), Round::Rn), want, "{b:x}");
        }
    }

    #[test]
    fn directed_modes_bracket() {
        for i in 0..100_000u64 {
            let x = f64::from_bits(super::super::mix(i) & 0x800f_ffff_ffff_ffff | (1023 - 20 + i % 40) << 52);
            for ty in [Ty::F16, Ty::Bf16, Ty::F32, Ty::Tf32] {
                let f = |r| match decode(ty, encode(ty, decode(Ty::F64, x.to_bits()), r)) {
                    Val::Num { neg, m, e } => m as f64 * (e as f64).exp2() * if neg { -1.0 } else { 1.0 },
                    Val::Inf(n) => {
                        if n {
                            f64::NEG_INFINITY
                        } else {
                            f64::INFINITY
                        }
                    }
                    Val::Nan => f64::NAN,
                };
                let (m, p, z, n) = (f(Round::Rm), f(Round::Rp), f(Round::Rz), f(Round::Rn));
                assert!(m <= x && x <= p, "{x} {m} {p}");
                assert_eq!(z, if x > 0.0 { m } else { p });
                assert!(n == m || n == p);
            }
        }
    }
}
