//! f16 and bf16 arithmetic, alone and packed by two.

use super::Lanes;
use super::lift::{one, three, two};
use ::half::{bf16, f16};

/// Sixteen-bit floats: both widen to f64 without loss.
trait Half {
    fn up(a: u32) -> f64;
    fn down(v: f64) -> u32;
}

struct F;
struct B;

impl Half for F {
    fn up(a: u32) -> f64 {
        f16::from_bits(a as u16).to_f64()
    }
    fn down(v: f64) -> u32 {
        if v.is_nan() { 0x7FFF } else { u32::from(f16::from_f64(v).to_bits()) }
    }
}

impl Half for B {
    fn up(a: u32) -> f64 {
        bf16::from_bits(a as u16).to_f64()
    }
    fn down(v: f64) -> u32 {
        if v.is_nan() { 0x7FFF } else { u32::from(bf16::from_f64(v).to_bits()) }
    }
}

fn sat(v: f64) -> f64 {
    if v > 0.0 { v.min(1.0) } else { 0.0 }
}

fn relu(v: f64) -> f64 {
    if v > 0.0 || v.is_nan() { v } else { 0.0 }
}

fn least(a: f64, b: f64, nan: bool) -> f64 {
    match () {
        _ if a.is_nan() && (nan || b.is_nan()) => a,
        _ if a.is_nan() => b,
        _ if b.is_nan() => if nan { b } else { a },
        _ if a == b => if a.is_sign_negative() { a } else { b },
        _ => a.min(b),
    }
}

/// One half of a result; `a`, `b`, `c` hold the operands in their low 16 bits. The f64 sums and products here are exact or
/// sticky enough that rounding them once more to 16 bits gives the correctly rounded result.
fn calc<H: Half>(op: Calc, a: u32, b: u32, c: u32) -> u32 {
    let (x, y, w) = (H::up(a), H::up(b), H::up(c));
    H::down(match op {
        Calc::Add => x + y,
        Calc::AddSat => sat(x + y),
        Calc::Sub => x - y,
        Calc::SubSat => sat(x - y),
        Calc::Mul => x * y,
        Calc::MulSat => sat(x * y),
        Calc::Fma => x * y + w,
        Calc::FmaSat => sat(x * y + w),
        Calc::FmaRelu => relu(x * y + w),
        Calc::Min => least(x, y, false),
        Calc::Max => -least(-x, -y, false),
        Calc::MinNan => least(x, y, true),
        Calc::MaxNan => -least(-x, -y, true),
    })
}

#[derive(Clone, Copy)]
enum Calc {
    Add,
    AddSat,
    Sub,
    SubSat,
    Mul,
    MulSat,
    Fma,
    FmaSat,
    FmaRelu,
    Min,
    Max,
    MinNan,
    MaxNan,
}

macro_rules! table {
    ($name:ident, $h:ty) => {
        pub(super) fn $name(op: &str, packed: bool) -> Option<Lanes> {
            macro_rules! both {
                ($k:expr) => {
                    if packed {
                        two!(|a, b| calc::<$h>($k, a, b, 0) | calc::<$h>($k, a >> 16, b >> 16, 0) << 16)
                    } else {
                        two!(|a, b| calc::<$h>($k, a, b, 0))
                    }
                };
            }
            macro_rules! all3 {
                ($k:expr) => {
                    if packed {
                        three!(|a, b, c| calc::<$h>($k, a, b, c)
                            | calc::<$h>($k, a >> 16, b >> 16, c >> 16) << 16)
                    } else {
                        three!(|a, b, c| calc::<$h>($k, a, b, c))
                    }
                };
            }
            Some(match op {
                "add" => both!(Calc::Add),
                "add.sat" => both!(Calc::AddSat),
                "sub" => both!(Calc::Sub),
                "sub.sat" => both!(Calc::SubSat),
                "mul" => both!(Calc::Mul),
                "mul.sat" => both!(Calc::MulSat),
                "min" => both!(Calc::Min),
                "max" => both!(Calc::Max),
                "min.NaN" => both!(Calc::MinNan),
                "max.NaN" => both!(Calc::MaxNan),
                "fma" => all3!(Calc::Fma),
                "fma.sat" => all3!(Calc::FmaSat),
                "fma.relu" => all3!(Calc::FmaRelu),
                "neg" if packed => one!(|a| a ^ 0x8000_8000),
                "neg" => one!(|a| a ^ 0x8000),
                "abs" if packed => one!(|a| a & 0x7FFF_7FFF),
                "abs" => one!(|a| a & 0x7FFF),
                _ => return None,
            })
        }
    };
}

table!(f16_op, F);
table!(bf16_op, B);
