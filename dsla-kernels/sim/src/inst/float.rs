//! f32 and f64 arithmetic.

use super::Lanes;
use super::lift::{one, three, two, wide};

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

fn ftz(v: f32) -> u32 {
    z(v.to_bits())
}

/// IEEE 754-2019 minimumNumber / maximumNumber: -0 below +0, a NaN loses unless both are.
fn min32(a: f32, b: f32) -> f32 {
    match () {
        _ if a.is_nan() && b.is_nan() => f32::from_bits(0x7FFF_FFFF),
        _ if a.is_nan() => b,
        _ if b.is_nan() => a,
        _ if a == b => f32::from_bits(a.to_bits() | b.to_bits()),
        _ => a.min(b),
    }
}

fn max32(a: f32, b: f32) -> f32 {
    -min32(-a, -b)
}

fn min64(a: f64, b: f64) -> f64 {
    match () {
        _ if a.is_nan() => b,
        _ if b.is_nan() => a,
        _ if a == b => f64::from_bits(a.to_bits() | b.to_bits()),
        _ => a.min(b),
    }
}

/// A NaN wins.
fn or_nan(a: u32, b: u32, v: f32) -> f32 {
    if f(a).is_nan() || f(b).is_nan() { f32::from_bits(0x7FFF_FFFF) } else { v }
}

/// f32, two operands. `op` carries its flags: `add`, `add.ftz`, `add.sat`, `add.ftz.sat`, `min.ftz`, `min.nan` ...
pub(super) fn binary32(op: &str) -> Option<Lanes> {
    Some(match op {
        "add" => two!(|a, b| (f(a) + f(b)).to_bits()),
        "add.ftz" => two!(|a, b| ftz(f(z(a)) + f(z(b)))),
        "add.sat" => two!(|a, b| sat(f(a) + f(b)).to_bits()),
        "add.ftz.sat" => two!(|a, b| ftz(sat(f(z(a)) + f(z(b))))),
        "sub" => two!(|a, b| (f(a) - f(b)).to_bits()),
        "sub.ftz" => two!(|a, b| ftz(f(z(a)) - f(z(b)))),
        "sub.sat" => two!(|a, b| sat(f(a) - f(b)).to_bits()),
        "sub.ftz.sat" => two!(|a, b| ftz(sat(f(z(a)) - f(z(b))))),
        "mul" => two!(|a, b| (f(a) * f(b)).to_bits()),
        "mul.ftz" => two!(|a, b| ftz(f(z(a)) * f(z(b)))),
        "mul.sat" => two!(|a, b| sat(f(a) * f(b)).to_bits()),
        "mul.ftz.sat" => two!(|a, b| ftz(sat(f(z(a)) * f(z(b))))),
        "div" => two!(|a, b| (f(a) / f(b)).to_bits()),
        "div.ftz" => two!(|a, b| ftz(f(z(a)) / f(z(b)))),
        "min" => two!(|a, b| min32(f(a), f(b)).to_bits()),
        "max" => two!(|a, b| max32(f(a), f(b)).to_bits()),
        "min.ftz" => two!(|a, b| min32(f(z(a)), f(z(b))).to_bits()),
        "max.ftz" => two!(|a, b| max32(f(z(a)), f(z(b))).to_bits()),
        "min.NaN" => two!(|a, b| or_nan(a, b, min32(f(a), f(b))).to_bits()),
        "max.NaN" => two!(|a, b| or_nan(a, b, max32(f(a), f(b))).to_bits()),
        "min.ftz.NaN" => two!(|a, b| or_nan(a, b, min32(f(z(a)), f(z(b)))).to_bits()),
        "max.ftz.NaN" => two!(|a, b| or_nan(a, b, max32(f(z(a)), f(z(b)))).to_bits()),
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
        "sqrt" => one!(|a| f(a).sqrt().to_bits()),
        "sqrt.ftz" => one!(|a| ftz(f(z(a)).sqrt())),
        "rcp" => one!(|a| (1.0 / f(a)).to_bits()),
        "rcp.ftz" => one!(|a| ftz(1.0 / f(z(a)))),
        _ => return None,
    })
}

/// f32 fused multiply-add.
pub(super) fn fma32(op: &str) -> Option<Lanes> {
    Some(match op {
        "fma" => three!(|a, b, c| f(a).mul_add(f(b), f(c)).to_bits()),
        "fma.ftz" => three!(|a, b, c| ftz(f(z(a)).mul_add(f(z(b)), f(z(c))))),
        "fma.sat" => three!(|a, b, c| sat(f(a).mul_add(f(b), f(c))).to_bits()),
        "fma.ftz.sat" => three!(|a, b, c| ftz(sat(f(z(a)).mul_add(f(z(b)), f(z(c)))))),
        _ => return None,
    })
}

/// f64, any number of operands.
pub(super) fn any64(op: &str) -> Option<Lanes> {
    Some(match op {
        "add" => wide!(|a, b| (d(a) + d(b)).to_bits()),
        "sub" => wide!(|a, b| (d(a) - d(b)).to_bits()),
        "mul" => wide!(|a, b| (d(a) * d(b)).to_bits()),
        "div" => wide!(|a, b| (d(a) / d(b)).to_bits()),
        "min" => wide!(|a, b| min64(d(a), d(b)).to_bits()),
        "max" => wide!(|a, b| (-min64(-d(a), -d(b))).to_bits()),
        "copysign" => wide!(|a, b| a & (1 << 63) | b & !(1 << 63)),
        "neg" => wide!(|a| a ^ 1 << 63),
        "abs" => wide!(|a| a & !(1 << 63)),
        "sqrt" => wide!(|a| d(a).sqrt().to_bits()),
        "rcp" => wide!(|a| (1.0 / d(a)).to_bits()),
        "fma" => wide!(|a, b, c| d(a).mul_add(d(b), d(c)).to_bits()),
        _ => return None,
    })
}
