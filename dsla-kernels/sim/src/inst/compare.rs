//! setp, set, selp, slct.

use super::lift::wide;
use super::{Built, Ins};
use crate::op::{Class, CmpFn, CmpTo, Kind, P2, Pipe};
use crate::parse::{Operand, Res};
use crate::types::Type::{self, *};
use ::half::{bf16, f16};

const TYPES: [Type; 13] = [B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, Bf16, F32, F64];
const OPS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu",
    "num", "nan",
];

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    match base {
        "setp" => setp(x),
        "set" => set(x),
        "selp" => {
            let ty = x.ty(&[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64])?;
            x.count(4)?;
            let d = x.dst(0, ty)?;
            let (a, b) = (x.src(1, ty)?, x.src(2, ty)?);
            let p = x.pred_src(3)?;
            Ok((Kind::Select { d, a, b, p }, Class::Alu, Pipe::Int))
        }
        _ => {
            let ftz = x.flag("ftz");
            let ty = x.ty(&[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64])?;
            let by = x.ty(if ftz { &[F32] } else { &[S32, F32] })?;
            let f = match (by, ftz) {
                (S32, _) => wide!(|a, b, c| if c as u32 as i32 >= 0 { a } else { b }),
                // -0 is not negative, NaN picks b; a flushed subnormal is -0.
                (_, false) => wide!(|a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b }),
                _ => wide!(|a, b, c| if f32::from_bits(c as u32) > -f32::MIN_POSITIVE { a } else { b }),
            };
            x.simple(f, ty, &[ty, ty, by], Class::Alu, Pipe::Int)
        }
    }
}

/// Comparison, perhaps `.and`/`.or`/`.xor`, `.ftz`, type.
fn head(x: &mut Ins, before: Option<Type>) -> Res<(CmpFn, Option<P2>, Type, Option<Type>)> {
    let cmp = x.choose(&OPS)?;
    let with: Option<P2> = match x.one(&["and", "or", "xor"]) {
        Some("and") => Some(|a, b| a & b),
        Some("or") => Some(|a, b| a | b),
        Some(_) => Some(|a, b| a ^ b),
        None => None,
    };
    let ftz = x.flag("ftz");
    let to = match before {
        Some(_) => Some(x.ty(&[U32, S32, F32])?),
        None => None,
    };
    let ty = x.ty(if ftz { &[F32] } else { &TYPES })?;
    if to == Some(F32) && matches!(ty, F16 | Bf16) {
        return x.error("no .f32 result of sixteen-bit floats");
    }
    if ty == Bf16 {
        x.b.need(78, 90, "comparing bf16")?;
    }
    match compare(cmp, ty, ftz) {
        Some(f) => Ok((f, with, ty, to)),
        None => x.error(format!("`.{cmp}` does not compare .{}", ty.name())),
    }
}

fn setp(x: &mut Ins) -> Res<Built> {
    let (f, with, ty, _) = head(x, None)?;
    x.count(if with.is_some() { 4 } else { 3 })?;
    let (p, q) = match x.op(0)? {
        Operand::Pair(p, q) => (p, Some(q)),
        Operand::Name(p) => (p, None),
        o => return x.error(format!("want a predicate or p|q, got {o}")),
    };
    let mut index = |n: String| if n == "_" { Ok(None) } else { x.b.pred(&n).map(Some) };
    let p = index(p)?;
    let q = q.map(index).transpose()?.flatten();
    let (a, b) = (x.src(1, ty)?, x.src(2, ty)?);
    let with = match with {
        Some(w) => Some((w, x.pred_src(3)?)),
        None => None,
    };
    Ok((Kind::Cmp { f, a, b, to: CmpTo::Pred(p, q), with }, Class::Alu, Pipe::Int))
}

fn set(x: &mut Ins) -> Res<Built> {
    let (f, with, ty, to) = head(x, Some(U32))?;
    x.count(if with.is_some() { 4 } else { 3 })?;
    let to = to.unwrap_or(U32);
    let d = x.dst(0, to)?.ix;
    let (a, b) = (x.src(1, ty)?, x.src(2, ty)?);
    let with = match with {
        Some(w) => Some((w, x.pred_src(3)?)),
        None => None,
    };
    let value = if to == F32 { 1f32.to_bits() } else { !0 };
    Ok((Kind::Cmp { f, a, b, to: CmpTo::Reg(d, value), with }, Class::Alu, Pipe::Int))
}

macro_rules! short {
    ($c:expr, $t:expr) => {
        CmpFn::Short(|a, b| {
            let mut m = 0;
            for i in 0..32 {
                m |= u32::from($c(&$t(a[i]), &$t(b[i]))) << i;
            }
            m
        })
    };
}

macro_rules! long {
    ($c:expr, $t:expr) => {
        CmpFn::Long(|a, b| {
            let mut m = 0;
            for i in 0..32 {
                m |= u32::from($c(&$t(a[i]), &$t(b[i]))) << i;
            }
            m
        })
    };
}

/// All comparisons of one kind of value.
macro_rules! ordered {
    ($m:ident, $cmp:expr, $t:expr) => {
        match $cmp {
            "eq" => $m!(|a, b| a == b, $t),
            "ne" => $m!(|a, b| a != b, $t),
            "lt" | "lo" => $m!(|a, b| a < b, $t),
            "le" | "ls" => $m!(|a, b| a <= b, $t),
            "gt" | "hi" => $m!(|a, b| a > b, $t),
            _ => $m!(|a, b| a >= b, $t),
        }
    };
}

/// The ordered ones are false with a NaN, `ne` too; the `u` ones are true.
macro_rules! floats {
    ($m:ident, $cmp:expr, $t:expr) => {
        match $cmp {
            "eq" => $m!(|a, b| a == b, $t),
            "ne" => $m!(|a, b| a < b || a > b, $t),
            "lt" => $m!(|a, b| a < b, $t),
            "le" => $m!(|a, b| a <= b, $t),
            "gt" => $m!(|a, b| a > b, $t),
            "ge" => $m!(|a, b| a >= b, $t),
            "equ" => $m!(|a, b| !(a < b || a > b), $t),
            "neu" => $m!(|a, b| a != b, $t),
            "ltu" => $m!(|a, b| !(a >= b), $t),
            "leu" => $m!(|a, b| !(a > b), $t),
            "gtu" => $m!(|a, b| !(a <= b), $t),
            "geu" => $m!(|a, b| !(a < b), $t),
            "num" => $m!(|a, b| a == a && b == b, $t),
            _ => $m!(|a, b| a != a || b != b, $t),
        }
    };
}

fn ftz(a: u32) -> f32 {
    f32::from_bits(if a & 0x7F80_0000 == 0 { a & 0x8000_0000 } else { a })
}

// A NaN makes these differ from their simplifications.
#[allow(
    clippy::eq_op,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::redundant_closure_call,
    clippy::nonminimal_bool,
    clippy::double_comparisons
)]
fn compare(cmp: &str, ty: Type, flush: bool) -> Option<CmpFn> {
    let plain = matches!(cmp, "eq" | "ne");
    let signed = matches!(cmp, "lt" | "le" | "gt" | "ge");
    let unsigned = signed || matches!(cmp, "lo" | "ls" | "hi" | "hs");
    let float = !matches!(cmp, "lo" | "ls" | "hi" | "hs");
    let fits = match ty {
        _ if ty.bits() => plain,
        _ if ty.signed() => plain || signed,
        _ if ty.unsigned() => plain || unsigned,
        _ => float,
    };
    if !fits {
        return None;
    }
    Some(match ty {
        B16 | B32 | U16 | U32 => ordered!(short, cmp, |v: u32| v),
        S16 => ordered!(short, cmp, |v: u32| v as u16 as i16),
        S32 => ordered!(short, cmp, |v: u32| v as i32),
        B64 | U64 => ordered!(long, cmp, |v: u64| v),
        S64 => ordered!(long, cmp, |v: u64| v as i64),
        F64 => floats!(long, cmp, f64::from_bits),
        F16 => floats!(short, cmp, |v: u32| f16::from_bits(v as u16)),
        Bf16 => floats!(short, cmp, |v: u32| bf16::from_bits(v as u16)),
        _ if flush => floats!(short, cmp, ftz),
        _ => floats!(short, cmp, f32::from_bits),
    })
}
