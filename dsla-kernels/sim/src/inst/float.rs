//! f32 and f64 arithmetic.

use super::Lanes;
use super::lift::{one, three, two, wide};
use crate::num::{max_f32, max_f64, min_f32, min_f64};

fn f(a: u32) -> f32 {
    f32::from_bits(a)
}

fn d(a: u64) -> f64 {
    f64::from_bits(a)
}

/// Subnormals to zero of the same sign.
fn z(a: u32) -> u32 {
    if a & 0x7F80_0000 == 0 { a & 0x8000_0000 } else { a }
}

/// To [0, 1], NaN to 0.
fn sat(a: f32) -> f32 {
    if a > 0.0 { a.min(1.0) } else { 0.0 }
}

/// Its bits; every NaN is the one that hardware writes.
fn n(v: f32) -> u32 {
    if v.is_nan() { 0x7FFF_FFFF } else { v.to_bits() }
}

fn n64(v: f64) -> u64 {
    if v.is_nan() { 0x7FFF_FFFF_FFFF_FFFF } else { v.to_bits() }
}

fn ftz(v: f32) -> u32 {
    z(n(v))
}

/// f32, two operands. `op` carries its flags: `add`, `add.ftz`, `add.sat`, `add.ftz.sat`, `min.ftz`, `min.nan` ...
pub(super) fn binary32(op: &str) -> Option<Lanes> {
    Some(match op {
        "add" => two!(|a, b| n(f(a) + f(b))),
        "add.ftz" => two!(|a, b| ftz(f(z(a)) + f(z(b)))),
        "add.sat" => two!(|a, b| sat(f(a) + f(b)).to_bits()),
        "add.ftz.sat" => two!(|a, b| ftz(sat(f(z(a)) + f(z(b))))),
        "sub" => two!(|a, b| n(f(a) - f(b))),
        "sub.ftz" => two!(|a, b| ftz(f(z(a)) - f(z(b)))),
        "sub.sat" => two!(|a, b| sat(f(a) - f(b)).to_bits()),
        "sub.ftz.sat" => two!(|a, b| ftz(sat(f(z(a)) - f(z(b))))),
        "mul" => two!(|a, b| n(f(a) * f(b))),
        "mul.ftz" => two!(|a, b| ftz(f(z(a)) * f(z(b)))),
        "mul.sat" => two!(|a, b| sat(f(a) * f(b)).to_bits()),
        "mul.ftz.sat" => two!(|a, b| ftz(sat(f(z(a)) * f(z(b))))),
        "div" => two!(|a, b| n(f(a) / f(b))),
        "div.ftz" => two!(|a, b| ftz(f(z(a)) / f(z(b)))),
        "min" => two!(|a, b| n(min_f32(f(a), f(b), false))),
        "max" => two!(|a, b| n(max_f32(f(a), f(b), false))),
        "min.ftz" => two!(|a, b| n(min_f32(f(z(a)), f(z(b)), false))),
        "max.ftz" => two!(|a, b| n(max_f32(f(z(a)), f(z(b)), false))),
        "min.NaN" => two!(|a, b| n(min_f32(f(a), f(b), true))),
        "max.NaN" => two!(|a, b| n(max_f32(f(a), f(b), true))),
        "min.ftz.NaN" => two!(|a, b| n(min_f32(f(z(a)), f(z(b)), true))),
        "max.ftz.NaN" => two!(|a, b| n(max_f32(f(z(a)), f(z(b)), true))),
        "copysign" => two!(|a, b| a & 0x8000_0000 | b & 0x7FFF_FFFF),
        _ => return None,
    })
}

/// f32, one operand.
pub(super) fn unary32(op: &str) -> Option<Lanes> {
    Some(match op {
        "neg" => one!(|a| a ^ 0x8000_0000),
        "neg.ftz" => one!(|a| z(a) ^ 0x8000_0000),
        "abs" => one!(|a| a & 0x7FFF_FFFF),
        "abs.ftz" => one!(|a| z(a) & 0x7FFF_FFFF),
        "sqrt" => one!(|a| n(f(a).sqrt())),
        "sqrt.ftz" => one!(|a| ftz(f(z(a)).sqrt())),
        "rcp" => one!(|a| n(1.0 / f(a))),
        "rcp.ftz" => one!(|a| ftz(1.0 / f(z(a)))),
        _ => return None,
    })
}

/// f32 fused multiply-add.
pub(super) fn fma32(op: &str) -> Option<Lanes> {
    Some(match op {
        "fma" => three!(|a, b, c| n(f(a).mul_add(f(b), f(c)))),
        "fma.ftz" => three!(|a, b, c| ftz(f(z(a)).mul_add(f(z(b)), f(z(c))))),
        "fma.sat" => three!(|a, b, c| sat(f(a).mul_add(f(b), f(c))).to_bits()),
        "fma.ftz.sat" => three!(|a, b, c| ftz(sat(f(z(a)).mul_add(f(z(b)), f(z(c)))))),
        _ => return None,
    })
}

/// f64, any number of operands.
pub(super) fn any64(op: &str) -> Option<Lanes> {
    Some(match op {
        "add" => wide!(|a, b| n64(d(a) + d(b))),
        "sub" => wide!(|a, b| n64(d(a) - d(b))),
        "mul" => wide!(|a, b| n64(d(a) * d(b))),
        "div" => wide!(|a, b| n64(d(a) / d(b))),
        "min" => wide!(|a, b| n64(min_f64(d(a), d(b), false))),
        "max" => wide!(|a, b| n64(max_f64(d(a), d(b), false))),
        "copysign" => wide!(|a, b| a & (1 << 63) | b & !(1 << 63)),
        "neg" => wide!(|a| a ^ 1 << 63),
        "abs" => wide!(|a| a & !(1 << 63)),
        "sqrt" => wide!(|a| n64(d(a).sqrt())),
        "rcp" => wide!(|a| n64(1.0 / d(a))),
        "fma" => wide!(|a, b, c| n64(d(a).mul_add(d(b), d(c)))),
        _ => return None,
    })
}
