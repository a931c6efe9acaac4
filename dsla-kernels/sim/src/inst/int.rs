//! Integer arithmetic, by type.

use super::Lanes;
use super::lift::{one, three, two, wide};
use crate::types::Type;

const M: u32 = 0xFFFF;

/// Sign-extended 16-bit value.
fn s(a: u32) -> i32 {
    i32::from(a as u16 as i16)
}

/// Two operands of `ty` to one of `ty`.
pub(super) fn binary(op: &str, ty: Type) -> Option<Lanes> {
    use Type::*;
    Some(match (op, ty) {
        ("add", U16 | S16) => two!(|a, b| a.wrapping_add(b) & M),
        ("add", U32 | S32) => two!(|a, b| a.wrapping_add(b)),
        ("add", U64 | S64) => wide!(|a, b| a.wrapping_add(b)),
        ("sub", U16 | S16) => two!(|a, b| a.wrapping_sub(b) & M),
        ("sub", U32 | S32) => two!(|a, b| a.wrapping_sub(b)),
        ("sub", U64 | S64) => wide!(|a, b| a.wrapping_sub(b)),
        ("mul.lo", U16 | S16) => two!(|a, b| a.wrapping_mul(b) & M),
        ("mul.lo", U32 | S32) => two!(|a, b| a.wrapping_mul(b)),
        ("mul.lo", U64 | S64) => wide!(|a, b| a.wrapping_mul(b)),
        ("mul.hi", U16) => two!(|a, b| (a.wrapping_mul(b)) >> 16),
        ("mul.hi", S16) => two!(|a, b| (s(a) * s(b)) as u32 >> 16),
        ("mul.hi", U32) => two!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        ("mul.hi", S32) => two!(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
        ("mul.hi", U64) => wide!(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("mul.hi", S64) => wide!(|a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        ("min", U16 | U32) => two!(|a, b| a.min(b)),
        ("max", U16 | U32) => two!(|a, b| a.max(b)),
        ("min", S16) => two!(|a, b| s(a).min(s(b)) as u32 & M),
        ("max", S16) => two!(|a, b| s(a).max(s(b)) as u32 & M),
        ("min", S32) => two!(|a, b| (a as i32).min(b as i32) as u32),
        ("max", S32) => two!(|a, b| (a as i32).max(b as i32) as u32),
        ("min", U64) => wide!(|a, b| a.min(b)),
        ("max", U64) => wide!(|a, b| a.max(b)),
        ("min", S64) => wide!(|a, b| (a as i64).min(b as i64) as u64),
        ("max", S64) => wide!(|a, b| (a as i64).max(b as i64) as u64),
        // Division by zero: all ones, as the hardware's sequence gives for unsigned.
        ("div", U16) => two!(|a, b| a.checked_div(b).unwrap_or(M)),
        ("div", U32) => two!(|a, b| a.checked_div(b).unwrap_or(!0)),
        ("div", U64) => wide!(|a, b| a.checked_div(b).unwrap_or(!0)),
        ("div", S16) => two!(|a, b| s(a).checked_div(s(b)).unwrap_or(-1) as u32 & M),
        ("div", S32) => two!(|a, b| if b == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u32 }),
        ("div", S64) => wide!(|a, b| if b == 0 { !0 } else { (a as i64).wrapping_div(b as i64) as u64 }),
        ("rem", U16 | U32) => two!(|a, b| a.checked_rem(b).unwrap_or(a)),
        ("rem", U64) => wide!(|a, b| a.checked_rem(b).unwrap_or(a)),
        ("rem", S16) => two!(|a, b| s(a).checked_rem(s(b)).unwrap_or(s(a)) as u32 & M),
        ("rem", S32) => two!(|a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        ("rem", S64) => wide!(|a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        ("add.sat", S32) => two!(|a, b| (a as i32).saturating_add(b as i32) as u32),
        ("sub.sat", S32) => two!(|a, b| (a as i32).saturating_sub(b as i32) as u32),
        _ => return None,
    })
}

/// One operand of `ty` to one of `ty`.
pub(super) fn unary(op: &str, ty: Type) -> Option<Lanes> {
    use Type::*;
    Some(match (op, ty) {
        ("neg", S16) => one!(|a| a.wrapping_neg() & M),
        ("neg", S32) => one!(|a| a.wrapping_neg()),
        ("neg", S64) => wide!(|a| a.wrapping_neg()),
        ("abs", S16) => one!(|a| s(a).wrapping_abs() as u32 & M),
        ("abs", S32) => one!(|a| (a as i32).wrapping_abs() as u32),
        ("abs", S64) => wide!(|a| (a as i64).wrapping_abs() as u64),
        _ => return None,
    })
}

/// mul.wide and mad.wide: two of `ty`, the third and the result twice as wide.
pub(super) fn widening(op: &str, ty: Type) -> Option<Lanes> {
    use Type::*;
    Some(match (op, ty) {
        ("mul", U16) => two!(|a, b| a.wrapping_mul(b)),
        ("mul", S16) => two!(|a, b| (s(a) * s(b)) as u32),
        ("mul", U32) => wide!(|a, b| a.wrapping_mul(b)),
        ("mul", S32) => wide!(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64),
        ("mad", U16) => three!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mad", S16) => three!(|a, b, c| ((s(a) * s(b)) as u32).wrapping_add(c)),
        ("mad", U32) => wide!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mad", S32) => {
            wide!(|a, b, c| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c))
        }
        _ => return None,
    })
}

/// mad.lo and mad.hi.
pub(super) fn mad(half: &str, ty: Type) -> Option<Lanes> {
    use Type::*;
    Some(match (half, ty) {
        ("lo", U16 | S16) => three!(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & M),
        ("lo", U32 | S32) => three!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("lo", U64 | S64) => wide!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("hi", U16) => three!(|a, b, c| (a.wrapping_mul(b) >> 16).wrapping_add(c) & M),
        ("hi", S16) => three!(|a, b, c| ((s(a) * s(b)) as u32 >> 16).wrapping_add(c) & M),
        ("hi", U32) => {
            three!(|a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c))
        }
        ("hi", S32) => {
            three!(|a, b, c| (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c))
        }
        ("hi", U64) => wide!(|a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
        ("hi", S64) => {
            wide!(|a, b, c| (((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64).wrapping_add(c))
        }
        _ => return None,
    })
}
