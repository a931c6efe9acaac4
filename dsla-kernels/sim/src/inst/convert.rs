//! mov, cvt, cvta.

use super::lift::{one, wide};
use super::{Built, Ins, Lanes, general};
use crate::num::Round;
use crate::op::{Class, Kind, Pipe, PredRef, Reg, Slot};
use crate::parse::{Operand, Res, Var};
use crate::types::Type::{self, *};

const NONE: Reg = Reg { ix: 0, wide: false };

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    match base {
        "mov" => mov(x),
        "cvt" => cvt(x),
        _ => cvta(x),
    }
}

fn copy(d: Reg, a: Reg) -> Kind {
    let f = if d.wide || a.wide { wide!(|a| a) } else { one!(|a| a) };
    general(f, d, [a, NONE, NONE, NONE], 1)
}

fn mov(x: &mut Ins) -> Res<Built> {
    let ty = x.ty(&[Pred, B16, B32, B64, U16, U32, U64, S16, S32, S64, F16, F16x2, F32, F64])?;
    let alu = |k| Ok((k, Class::Alu, Pipe::Int));
    if matches!(ty, F16 | F16x2) {
        return x.error("moves of halves are written .b16 and .b32");
    }
    x.count(2)?;
    if ty == Pred {
        let d = x.pred(0)?;
        return match x.op(1)? {
            Operand::Int(v, _) => alu(Kind::PredConst(d, v != 0)),
            Operand::Name(n) => {
                let p = PredRef { ix: x.b.pred(&n)?, not: false };
                alu(Kind::Pred2(|a, _| a, d, p, p))
            }
            o => x.error(format!("want a predicate, got {o}")),
        };
    }
    match (x.op(0)?, x.op(1)?) {
        (Operand::Vector(v), a) => {
            let (n, part) = split(x, ty, v.len())?;
            let Operand::Name(_) = a else { return x.error(format!("cannot unpack {a}")) };
            let a = x.src(1, ty)?;
            let mut d = [None; 4];
            for (k, o) in v.iter().enumerate() {
                d[k] = sink(x, o, part, Type::accepts)?;
            }
            alu(Kind::Unpack { d, n, size: part.size() as u8, a })
        }
        (_, Operand::Vector(v)) => {
            let (n, part) = split(x, ty, v.len())?;
            let d = x.dst(0, ty)?;
            let mut s = [NONE; 4];
            x.b.variables = false;
            for (k, o) in v.iter().enumerate() {
                s[k] = x.b.source(o, part, Type::accepts)?.0;
            }
            alu(Kind::Pack { d, s, n, size: part.size() as u8 })
        }
        (_, Operand::Name(n))
            if matches!(n.as_str(), "%clock" | "%clock64" | "%clock_hi" | "%globaltimer") =>
        {
            let long = n == "%clock64" || n == "%globaltimer";
            if ty != if long { U64 } else { U32 } {
                return x.error(format!("{n} is .{}", if long { "u64" } else { "u32" }));
            }
            Ok((Kind::Clock(x.dst(0, ty)?), Class::Other, Pipe::None))
        }
        _ => {
            let d = x.dst(0, ty)?;
            let a = x.src(1, ty)?;
            alu(copy(d, a))
        }
    }
}

/// How `n` parts make one `ty`.
fn split(x: &Ins, ty: Type, n: usize) -> Res<(u8, Type)> {
    let part = match (ty, n) {
        (B32, 2) => B16,
        (B64, 2) => B32,
        (B64, 4) => B16,
        _ => return x.error(format!("{n} parts do not make a .{}", ty.name())),
    };
    Ok((n as u8, part))
}

/// A destination, or nothing for `_`.
pub(super) fn sink(x: &mut Ins, o: &Operand, ty: Type, ok: fn(Type, Type) -> bool) -> Res<Option<Reg>> {
    if *o == Operand::Name("_".into()) {
        return Ok(None);
    }
    Ok(Some(x.b.target(o, ty, ok)?.0))
}

fn cvt(x: &mut Ins) -> Res<Built> {
    if x.flag("rna") {
        // To nearest, ties away, the low 13 bits cleared; infinities and NaN stay.
        x.must("tf32")?;
        x.ty(&[F32])?;
        let f = one!(|a| if a & 0x7F80_0000 == 0x7F80_0000 { a } else { a.wrapping_add(0x1000) & !0x1FFF });
        x.bits_only(0)?;
        return x.simple(f, B32, &[F32], Class::Sfu, Pipe::Sfu);
    }
    let round = match x.one(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"]) {
        None => Round::None,
        Some("rn") => Round::Rn,
        Some("rz") => Round::Rz,
        Some("rm") => Round::Rm,
        Some("rp") => Round::Rp,
        Some("rni") => Round::Rni,
        Some("rzi") => Round::Rzi,
        Some("rmi") => Round::Rmi,
        Some(_) => Round::Rpi,
    };
    let relu = x.flag("relu");
    let ftz = x.flag("ftz");
    let sat = x.flag("sat");
    let all = [F16, Bf16, F16x2, Bf16x2, F32, F64, U8, U16, U32, U64, S8, S16, S32, S64];
    let to = x.ty(&all)?;
    if matches!(to, F16x2 | Bf16x2) {
        return pack(x, to, round, relu, ftz || sat);
    }
    let from = x.ty(&all)?;
    let nearest = matches!(round, Round::Rn | Round::Rz | Round::Rm | Round::Rp);
    let whole = matches!(round, Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi);
    let rn_rz = matches!(round, Round::Rn | Round::Rz);
    let none = round == Round::None;
    let ok = match (to, from) {
        (F16x2 | Bf16x2, _) | (_, F16x2 | Bf16x2) => false,
        // bf16 converts from f32 alone before sm_90.
        (Bf16, F32) => {
            x.b.need(70, 80, "cvt to bf16")?;
            rn_rz && !sat && !ftz
        }
        (F32, Bf16) => {
            x.b.need(71, 80, "cvt from bf16")?;
            none && !sat && !ftz && !relu
        }
        (Bf16, _) | (_, Bf16) => {
            x.b.need(78, 90, "this cvt of bf16")?;
            let other = if to == Bf16 { from } else { to };
            let round = match (to, from) {
                (Bf16, Bf16) => none || whole,
                (Bf16, F64) => nearest,
                (Bf16, F16) | (F16 | F64, Bf16) => nearest || none,
                (Bf16, _) => nearest,
                _ => whole,
            };
            round && !relu && !ftz && !sat && other.size() > 1
        }
        (F16, F32) if relu => rn_rz && !sat && !ftz,
        (F16, F32) | (F32, F64) => nearest && (from == F32 || to == F32) && !relu,
        (F16, F64) => nearest && !ftz && !relu,
        (F32, F16) | (F64, F32) => none && !relu && (!ftz || from == F32 || to == F32),
        (F64, F16) => none && !relu && !ftz,
        (F16, F16) | (F32, F32) | (F64, F64) => (whole || none) && !relu && (!ftz || to == F32),
        _ if to.float() => nearest && !relu && !ftz,
        _ if from.float() => whole && !relu && (!ftz || from == F32),
        _ => none && !relu && !ftz && (!sat || overflows(to, from)),
    };
    if !ok {
        return x.error("these modifiers do not fit this conversion");
    }
    x.count(2)?;
    let (o, s) = (x.op(0)?, x.op(1)?);
    x.b.specials = to.int() && from.int();
    // With bf16 the registers have the types' own width.
    let accepts = if to == Bf16 || from == Bf16 { Type::accepts } else { Type::accepts_wider };
    let (d, dt) = x.b.target(&o, to, accepts)?;
    let (a, at) = x.b.source(&s, from, accepts)?;
    // Plain widening, narrowing and moves of integers are cheap: no call per lane.
    let sext = if to.signed() && dt.size() > to.size() { dt.size() as u8 } else { 0 };
    let class = if to.float() != from.float() || to.float() { Class::Sfu } else { Class::Alu };
    let pipe = if class == Class::Sfu { Pipe::Sfu } else { Pipe::Int };
    if let Some(f) = fast(to, from, sat || ftz || relu || sext > 0 || at.size() > from.size(), round) {
        return Ok((general(f, d, [a, NONE, NONE, NONE], 1), class, pipe));
    }
    let (Some(to), Some(from)) = (to.num(), from.num()) else { return x.error("no such conversion") };
    Ok((Kind::Cvt { to, from, round, sat, ftz, relu, d, a, sext }, class, pipe))
}

/// Integers of `from` do not all fit in `to`.
fn overflows(to: Type, from: Type) -> bool {
    match (to.signed(), from.signed()) {
        (false, true) => true,
        (true, false) => from.size() >= to.size(),
        _ => from.size() > to.size(),
    }
}

/// Conversions that need no rounding.
fn fast(to: Type, from: Type, fussy: bool, round: Round) -> Option<Lanes> {
    if fussy {
        return None;
    }
    Some(match (to, from) {
        (U32 | S32, U32 | S32) => one!(|a| a),
        (U64 | S64, U32) => wide!(|a| a),
        (U64 | S64, S32) => wide!(|a| a as u32 as i32 as i64 as u64),
        (U32 | S32, U64 | S64) => wide!(|a| a & 0xFFFF_FFFF),
        (U32 | S32, U16) => one!(|a| a),
        (U16, U32 | S32) => one!(|a| a & 0xFFFF),
        (F32, U32) if round == Round::Rn => one!(|a| (a as f32).to_bits()),
        (F32, S32) if round == Round::Rn => one!(|a| (a as i32 as f32).to_bits()),
        _ => return None,
    })
}

/// cvt.rn.bf16x2.f32 d, hi, lo.
fn pack(x: &mut Ins, to: Type, round: Round, relu: bool, other: bool) -> Res<Built> {
    x.ty(&[F32])?;
    if !matches!(round, Round::Rn | Round::Rz) || other {
        return x.error("want .rn or .rz and perhaps .relu");
    }
    x.b.need(70, 80, "cvt of two")?;
    x.count(3)?;
    let d = x.dst(0, to)?.ix;
    let (hi, lo) = (x.src32(1, F32)?, x.src32(2, F32)?);
    let half = if to == F16x2 { crate::num::Ty::F16 } else { crate::num::Ty::Bf16 };
    Ok((Kind::Pack2 { to: half, round, relu, d, hi, lo }, Class::Sfu, Pipe::Sfu))
}

/// Generic addresses of shared memory are its offsets plus this; those of global memory are themselves.
pub(crate) const SHARED_WINDOW: u64 = 1 << 63;

fn cvta(x: &mut Ins) -> Res<Built> {
    let to = x.flag("to");
    let space = x.choose(&["global", "shared"])?;
    let ty = x.ty(&[U64])?;
    x.count(2)?;
    let d = x.dst(0, ty)?;
    let a = match x.op(1)? {
        Operand::Name(n) if !to && space == "shared" && !matches!(x.b.lookup(&n)?, Var::Reg(..)) => {
            x.src(1, ty)?
        }
        Operand::Name(_) => x.src(1, ty)?,
        o => return x.error(format!("want a register, got {o}")),
    };
    let kind = match (space, to) {
        ("global", _) => copy(d, a),
        (_, to) => {
            let w = x.b.preload(Slot::Const(SHARED_WINDOW), true)?;
            let f = if to { wide!(|a, w| a.wrapping_sub(w)) } else { wide!(|a, w| a.wrapping_add(w)) };
            general(f, d, [a, w, NONE, NONE], 2)
        }
    };
    Ok((kind, Class::Alu, Pipe::Int))
}
