//! `cvt`.

use super::round::{Val, decode, encode, integral, to_integer};
use super::{Round, Ty};

/// `cvt{.round}{.ftz}{.sat}{.relu}.to.from`. `bits`: the source register; bits above the type's width are ignored. The result has
/// the width of `to`, zero-extended: a caller with a wider register sign-extends it for signed types.
///
/// Float to integer clamps; NaN gives 0, or `1 << (bits - 1)` where one side has 64 bits. `.sat` of a float clamps to [0, 1], NaN to
/// +0. `.relu` makes negatives +0 and keeps NaN. Float results are the canonical NaN.
pub fn cvt(to: Ty, from: Ty, round: Round, sat: bool, ftz: bool, relu: bool, bits: u64) -> u64 {
    if from.float() {
        let mut v = decode(from, bits);
        if ftz && from == Ty::F32 {
            v = flush(v);
        }
        return if to.float() {
            float_to_float(to, v, round, sat, ftz, relu)
        } else {
            float_to_int(to, from, v, round)
        };
    }
    let x = int_value(from, bits);
    if to.float() {
        let v = Val::Num { neg: x < 0, m: x.unsigned_abs() as u64, e: 0 };
        return float_to_float(to, v, round, sat, ftz, relu);
    }
    let (lo, hi) = range(to);
    let x = if sat { x.clamp(lo, hi) } else { x };
    x as u64 & mask(to)
}

/// `cvt.round{.relu}.f16x2.f32 d, hi, lo` (or bf16x2): the first source becomes the upper half.
pub fn pack2(to: Ty, round: Round, hi: f32, lo: f32, relu: bool) -> u32 {
    let one = |x: f32| cvt(to, Ty::F32, round, false, false, relu, x.to_bits() as u64) as u32;
    one(hi) << 16 | one(lo)
}

fn float_to_float(to: Ty, v: Val, round: Round, sat: bool, ftz: bool, relu: bool) -> u64 {
    let v = if round.integer() { integral(v, round) } else { v };
    let v = match v {
        Val::Nan if sat => Val::Num { neg: false, m: 0, e: 0 },
        Val::Inf(true) | Val::Num { neg: true, .. } if sat || relu => Val::Num { neg: false, m: 0, e: 0 },
        Val::Inf(false) if sat => Val::Num { neg: false, m: 1, e: 0 },
        Val::Num { m, e, .. } if sat && m != 0 && 64 - m.leading_zeros() as i32 + e > 0 => {
            Val::Num { neg: false, m: 1, e: 0 }
        }
        v => v,
    };
    let bits = encode(to, v, round);
    if ftz && to == Ty::F32 && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

fn float_to_int(to: Ty, from: Ty, v: Val, round: Round) -> u64 {
    let (lo, hi) = range(to);
    let round = if round == Round::None { Round::Rzi } else { round };
    match to_integer(v, round, lo, hi) {
        Some(x) => x as u64 & mask(to),
        None if from == Ty::F64 || to.bits() == 64 => 1 << (to.bits() - 1),
        None => 0,
    }
}

/// Subnormal f32 to a zero of its sign.
fn flush(v: Val) -> Val {
    match v {
        Val::Num { neg, m, e } if m < 1 << 23 => Val::Num { neg, m: 0, e },
        v => v,
    }
}

fn mask(ty: Ty) -> u64 {
    u64::MAX >> (64 - ty.bits())
}

fn range(ty: Ty) -> (i128, i128) {
    let n = ty.bits();
    if ty.signed() { (-(1 << (n - 1)), (1 << (n - 1)) - 1) } else { (0, (1 << n) - 1) }
}

fn int_value(ty: Ty, bits: u64) -> i128 {
    let shift = 64 - ty.bits();
    if ty.signed() { ((bits << shift) as i64 >> shift) as i128 } else { (bits << shift >> shift) as i128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(to: Ty, r: Round, x: f32) -> u64 {
        cvt(to, Ty::F32, r, false, false, false, x.to_bits() as u64)
    }

    #[test]
    fn halves_agree_with_the_half_crate() {
        for i in 0..300_000u64 {
            let x = f32::from_bits((super::super::mix(i) >> 16) as u32);
            if x.is_nan() {
                assert_eq!(f(Ty::F16, Round::Rn, x), 0x7fff);
                assert_eq!(f(Ty::Bf16, Round::Rn, x), 0x7fff);
                continue;
            }
            assert_eq!(f(Ty::F16, Round::Rn, x), half::f16::from_f32(x).to_bits() as u64, "{x:e}");
            assert_eq!(f(Ty::Bf16, Round::Rn, x), half::bf16::from_f32(x).to_bits() as u64, "{x:e}");
        }
        for b in 0..=0xffffu16 {
            if !half::f16::from_bits(b).is_nan() {
                let want = half::f16::from_bits(b).to_f32().to_bits() as u64;
                assert_eq!(cvt(Ty::F32, Ty::F16, Round::None, false, false, false, b as u64), want);
            }
            if !half::bf16::from_bits(b).is_nan() {
                let want = (b as u64) << 16;
                assert_eq!(cvt(Ty::F32, Ty::Bf16, Round::None, false, false, false, b as u64), want);
            }
        }
    }

    #[test]
    fn float_to_int_rounds_and_clamps() {
        let rows: &[(f32, Round, i32)] = &[
            (2.5, Round::Rni, 2),
            (3.5, Round::Rni, 4),
            (-2.5, Round::Rni, -2),
            (2.9, Round::Rzi, 2),
            (-2.9, Round::Rzi, -2),
            (-2.1, Round::Rmi, -3),
            (2.1, Round::Rmi, 2),
            (2.1, Round::Rpi, 3),
            (-2.9, Round::Rpi, -2),
            (3e9, Round::Rzi, i32::MAX),
            (-3e9, Round::Rzi, i32::MIN),
            (f32::INFINITY, Round::Rni, i32::MAX),
            (f32::NEG_INFINITY, Round::Rni, i32::MIN),
            (f32::NAN, Round::Rni, 0),
            (1e-40, Round::Rpi, 1),
        ];
        for &(x, r, want) in rows {
            assert_eq!(f(Ty::S32, r, x) as u32 as i32, want, "{x} {r:?}");
        }
        assert_eq!(
            cvt(Ty::S32, Ty::F32, Round::Rpi, false, true, false, 1e-40f32.to_bits() as u64),
            0,
            "ftz"
        );
        assert_eq!(f(Ty::U32, Round::Rzi, -1.0), 0);
        assert_eq!(f(Ty::U8, Round::Rzi, 300.0), 255);
        assert_eq!(f(Ty::S8, Round::Rzi, -300.0), 0x80);
        assert_eq!(f(Ty::U64, Round::Rzi, 1e30), u64::MAX);
        assert_eq!(f(Ty::S64, Round::Rzi, f32::NAN), 1 << 63);
        let nan = f64::NAN.to_bits();
        assert_eq!(cvt(Ty::S32, Ty::F64, Round::Rzi, false, false, false, nan), 1 << 31);
    }

    #[test]
    fn ints() {
        let c = |to, from, sat, b: i64| cvt(to, from, Round::None, sat, false, false, b as u64);
        assert_eq!(c(Ty::S32, Ty::S8, false, 0x80), 0xffff_ff80);
        assert_eq!(c(Ty::U32, Ty::U8, false, 0xf80), 0x80);
        assert_eq!(c(Ty::U8, Ty::S32, false, -1), 0xff);
        assert_eq!(c(Ty::U8, Ty::S32, true, -1), 0);
        assert_eq!(c(Ty::S8, Ty::U32, true, 200), 127);
        assert_eq!(c(Ty::S64, Ty::S32, false, -5), -5i64 as u64);
        assert_eq!(c(Ty::U64, Ty::U32, false, -5), 0xffff_fffb);
        let r = |r, b: u64| cvt(Ty::F32, Ty::U64, r, false, false, false, b) as u32;
        assert_eq!(r(Round::Rn, 0x1_0000_0001), 0x4f80_0000);
        assert_eq!(r(Round::Rp, 0x1_0000_0001), 0x4f80_0001);
        assert_eq!(r(Round::Rn, u64::MAX), 0x5f80_0000);
        assert_eq!(r(Round::Rz, u64::MAX), 0x5f7f_ffff);
        assert_eq!(cvt(Ty::F32, Ty::S64, Round::Rn, false, false, false, i64::MIN as u64), 0xdf00_0000);
        assert_eq!(cvt(Ty::F16, Ty::S32, Round::Rn, false, false, false, 70000), 0x7c00);
        assert_eq!(cvt(Ty::F16, Ty::S32, Round::Rz, false, false, false, 70000), 0x7bff);
    }

    #[test]
    fn modifiers() {
        let c =
            |to, r, sat, ftz, relu, x: f32| cvt(to, Ty::F32, r, sat, ftz, relu, x.to_bits() as u64) as u32;
        let one = 1f32.to_bits();
        assert_eq!(c(Ty::F32, Round::None, true, false, false, 1.5), one);
        assert_eq!(c(Ty::F32, Round::None, true, false, false, 1.0), one);
        assert_eq!(c(Ty::F32, Round::None, true, false, false, 0.75), 0.75f32.to_bits());
        assert_eq!(c(Ty::F32, Round::None, true, false, false, -0.5), 0);
        assert_eq!(c(Ty::F32, Round::None, true, false, false, f32::NAN), 0);
        assert_eq!(c(Ty::F32, Round::None, true, false, false, f32::INFINITY), one);
        assert_eq!(c(Ty::F32, Round::Rmi, false, false, false, -0.5), (-1f32).to_bits());
        assert_eq!(c(Ty::F32, Round::Rzi, false, false, false, -0.5), (-0f32).to_bits());
        assert_eq!(c(Ty::F32, Round::None, false, true, false, -1e-40), 0x8000_0000);
        assert_eq!(c(Ty::F32, Round::None, false, false, false, -1e-40), (-1e-40f32).to_bits());
        assert_eq!(c(Ty::F16, Round::Rn, false, false, true, -3.0), 0);
        assert_eq!(c(Ty::F16, Round::Rn, false, false, true, f32::NAN), 0x7fff);
        assert_eq!(c(Ty::F16, Round::Rn, false, false, false, 1e-7), 2, "an f16 subnormal");
        assert_eq!(c(Ty::F16, Round::Rp, false, false, false, 1e-9), 1);
        assert_eq!(c(Ty::Tf32, Round::Rna, false, false, false, f32::from_bits(0x3f80_1000)), 0x3f80_2000);
        assert_eq!(c(Ty::Tf32, Round::Rn, false, false, false, f32::from_bits(0x3f80_1000)), 0x3f80_0000);
        assert_eq!(pack2(Ty::Bf16, Round::Rn, 1.0, -2.0, false), 0x3f80_c000);
        assert_eq!(pack2(Ty::F16, Round::Rz, 65520.0, -2.0, true), 0x7bff_0000);
        let d = cvt(Ty::F32, Ty::F64, Round::Rn, false, true, false, 1e-40f64.to_bits());
        assert_eq!(d, 0);
    }
}
