//! f16 and bf16 arithmetic, alone and packed by two.

use super::Lanes;
use super::lift::{one, three, two};
use crate::num::{Half, HalfOp, half, half_x2};

macro_rules! table {
    ($name:ident, $h:expr) => {
        /// By opcode and flags.
        pub(super) fn $name(op: &str, packed: bool) -> Option<Lanes> {
            macro_rules! unary {
                ($k:ident, $ftz:expr) => {
                    if packed {
                        one!(|a| half_x2(HalfOp::$k, $h, $ftz, false, false, a, 0, 0))
                    } else {
                        one!(|a| u32::from(half(HalfOp::$k, $h, $ftz, false, false, a as u16, 0, 0)))
                    }
                };
            }
            macro_rules! binary {
                ($k:ident, $ftz:expr, $sat:expr) => {
                    if packed {
                        two!(|a, b| half_x2(HalfOp::$k, $h, $ftz, $sat, false, a, b, 0))
                    } else {
                        two!(|a, b| u32::from(half(HalfOp::$k, $h, $ftz, $sat, false, a as u16, b as u16, 0)))
                    }
                };
            }
            macro_rules! fma {
                ($ftz:expr, $sat:expr, $relu:expr) => {
                    if packed {
                        three!(|a, b, c| half_x2(HalfOp::Fma, $h, $ftz, $sat, $relu, a, b, c))
                    } else {
                        three!(|a, b, c| {
                            let (a, b, c) = (a as u16, b as u16, c as u16);
                            u32::from(half(HalfOp::Fma, $h, $ftz, $sat, $relu, a, b, c))
                        })
                    }
                };
            }
            Some(match op {
                "add" => binary!(Add, false, false),
                "add.ftz" => binary!(Add, true, false),
                "add.sat" => binary!(Add, false, true),
                "add.ftz.sat" => binary!(Add, true, true),
                "sub" => binary!(Sub, false, false),
                "sub.ftz" => binary!(Sub, true, false),
                "sub.sat" => binary!(Sub, false, true),
                "sub.ftz.sat" => binary!(Sub, true, true),
                "mul" => binary!(Mul, false, false),
                "mul.ftz" => binary!(Mul, true, false),
                "mul.sat" => binary!(Mul, false, true),
                "mul.ftz.sat" => binary!(Mul, true, true),
                "min" => binary!(Min, false, false),
                "min.ftz" => binary!(Min, true, false),
                "max" => binary!(Max, false, false),
                "max.ftz" => binary!(Max, true, false),
                "min.NaN" => binary!(MinNan, false, false),
                "min.ftz.NaN" => binary!(MinNan, true, false),
                "max.NaN" => binary!(MaxNan, false, false),
                "max.ftz.NaN" => binary!(MaxNan, true, false),
                "fma" => fma!(false, false, false),
                "fma.ftz" => fma!(true, false, false),
                "fma.sat" => fma!(false, true, false),
                "fma.ftz.sat" => fma!(true, true, false),
                "fma.relu" => fma!(false, false, true),
                "fma.ftz.relu" => fma!(true, false, true),
                "neg" => unary!(Neg, false),
                "neg.ftz" => unary!(Neg, true),
                "abs" => unary!(Abs, false),
                "abs.ftz" => unary!(Abs, true),
                _ => return None,
            })
        }
    };
}

table!(f16_op, Half::F16);
table!(bf16_op, Half::Bf16);
