//! f16 and bf16 arithmetic, alone and packed by two.

use super::Lanes;
use super::lift::{one, three, two};
use crate::num::{Half, HalfOp, half};

/// A key such as `fma.ftz.relu` for one format. `fma` has three operands, `neg` and `abs` one, all others two.
pub(super) fn op(key: &str, kind: Half, packed: bool) -> Option<Lanes> {
    // Functions of lanes hold no state: one for each combination.
    macro_rules! low {
        ($k:expr, $op:expr, $f:expr, $($x:ident),+; $z:expr) => {
            u32::from(half($op, $k, $f.0, $f.1, $f.2, $($x as u16),+, $z))
        };
    }
    macro_rules! both {
        ($k:expr, $op:expr, $f:expr) => {
            if packed {
                two!(|a, b| {
                    let (p, q) = (a >> 16, b >> 16);
                    low!($k, $op, $f, a, b; 0) | low!($k, $op, $f, p, q; 0) << 16
                })
            } else {
                two!(|a, b| low!($k, $op, $f, a, b; 0))
            }
        };
    }
    macro_rules! all {
        ($k:expr, $f:expr) => {
            if packed {
                three!(|a, b, c| {
                    let (p, q, r) = (a >> 16, b >> 16, c >> 16);
                    low!($k, HalfOp::Fma, $f, a, b; c as u16) | low!($k, HalfOp::Fma, $f, p, q; r as u16) << 16
                })
            } else {
                three!(|a, b, c| low!($k, HalfOp::Fma, $f, a, b; c as u16))
            }
        };
    }
    macro_rules! table {
        ($k:expr, $($name:literal => $op:expr),+ $(,)?) => {
            match key {
                $($name => both!($k, $op, (false, false, false)),
                  concat!($name, ".ftz") => both!($k, $op, (true, false, false)),
                  concat!($name, ".sat") => both!($k, $op, (false, true, false)),
                  concat!($name, ".ftz.sat") => both!($k, $op, (true, true, false)),)+
                "fma" => all!($k, (false, false, false)),
                "fma.ftz" => all!($k, (true, false, false)),
                "fma.sat" => all!($k, (false, true, false)),
                "fma.relu" => all!($k, (false, false, true)),
                "fma.ftz.sat" => all!($k, (true, true, false)),
                "fma.ftz.relu" => all!($k, (true, false, true)),
                "neg" if packed => one!(|a| a ^ 0x8000_8000),
                "neg" => one!(|a| a ^ 0x8000),
                "abs" if packed => one!(|a| a & 0x7FFF_7FFF),
                "abs" => one!(|a| a & 0x7FFF),
                _ => return None,
            }
        };
    }
    macro_rules! kind {
        ($k:expr) => {
            table!($k,
                "add" => HalfOp::Add,
                "sub" => HalfOp::Sub,
                "mul" => HalfOp::Mul,
                "min" => HalfOp::Min,
                "max" => HalfOp::Max,
                "NaN.min" => HalfOp::MinNan,
                "NaN.max" => HalfOp::MaxNan,
            )
        };
    }
    Some(match kind {
        Half::F16 => kind!(Half::F16),
        Half::Bf16 => kind!(Half::Bf16),
    })
}
