//! Bits: logic, shifts, fields.

use super::lift::{one, three, two, wide};
use super::{Built, Ins, Lanes};
use crate::op::{Class, Kind, Pipe, Slot};
use crate::parse::Res;
use crate::types::Type::*;

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    let (class, pipe) = (Class::Alu, Pipe::Int);
    match base {
        "and" | "or" | "xor" => {
            let ty = x.ty(&[Pred, B16, B32, B64])?;
            if ty == Pred {
                let f: fn(u32, u32) -> u32 = match base {
                    "and" => |a, b| a & b,
                    "or" => |a, b| a | b,
                    _ => |a, b| a ^ b,
                };
                x.count(3)?;
                return Ok((Kind::Pred2(f, x.pred(0)?, x.pred_src(1)?, x.pred_src(2)?), class, pipe));
            }
            let f = match (base, ty) {
                ("and", B64) => wide!(|a, b| a & b),
                ("or", B64) => wide!(|a, b| a | b),
                (_, B64) => wide!(|a, b| a ^ b),
                ("and", _) => two!(|a, b| a & b),
                ("or", _) => two!(|a, b| a | b),
                _ => two!(|a, b| a ^ b),
            };
            x.simple(f, ty, &[ty; 2], class, pipe)
        }
        "not" => {
            let ty = x.ty(&[Pred, B16, B32, B64])?;
            let f = match ty {
                Pred => {
                    x.count(2)?;
                    let (d, a) = (x.pred(0)?, x.pred_src(1)?);
                    return Ok((Kind::Pred2(|a, _| !a, d, a, a), class, pipe));
                }
                B16 => one!(|a| !a & 0xFFFF),
                B32 => one!(|a| !a),
                _ => wide!(|a| !a),
            };
            x.simple(f, ty, &[ty], class, pipe)
        }
        "cnot" => {
            let ty = x.ty(&[B16, B32, B64])?;
            let f = if ty == B64 { wide!(|a| u64::from(a == 0)) } else { one!(|a| u32::from(a == 0)) };
            x.simple(f, ty, &[ty], class, pipe)
        }
        "shl" => {
            let ty = x.ty(&[B16, B32, B64])?;
            let f = match ty {
                B16 => two!(|a, b| a.checked_shl(b).unwrap_or(0) & 0xFFFF),
                B32 => two!(|a, b| a.checked_shl(b).unwrap_or(0)),
                _ => wide!(|a, b| a.checked_shl(b as u32).unwrap_or(0)),
            };
            x.simple(f, ty, &[ty, U32], class, pipe)
        }
        "shr" => {
            let ty = x.ty(&[B16, B32, B64, U16, U32, U64, S16, S32, S64])?;
            let f = match ty {
                B16 | U16 | B32 | U32 => two!(|a, b| a.checked_shr(b).unwrap_or(0)),
                S16 => two!(|a, b| (i32::from(a as u16 as i16) >> b.min(31)) as u32 & 0xFFFF),
                S32 => two!(|a, b| ((a as i32) >> b.min(31)) as u32),
                S64 => wide!(|a, b| ((a as i64) >> b.min(63)) as u64),
                _ => wide!(|a, b| a.checked_shr(b as u32).unwrap_or(0)),
            };
            x.simple(f, ty, &[ty, U32], class, pipe)
        }
        "shf" => {
            let left = x.choose(&["l", "r"])? == "l";
            let clamp = x.choose(&["clamp", "wrap"])? == "clamp";
            let ty = x.ty(&[B32])?;
            fn pair(lo: u32, hi: u32) -> u64 {
                u64::from(hi) << 32 | u64::from(lo)
            }
            let f = match (left, clamp) {
                (true, true) => three!(|a, b, c| ((pair(a, b) << c.min(32)) >> 32) as u32),
                (true, false) => three!(|a, b, c| ((pair(a, b) << (c & 31)) >> 32) as u32),
                (false, true) => three!(|a, b, c| (pair(a, b) >> c.min(32)) as u32),
                (false, false) => three!(|a, b, c| (pair(a, b) >> (c & 31)) as u32),
            };
            x.simple(f, ty, &[B32, B32, U32], class, pipe)
        }
        "bfe" => {
            let ty = x.ty(&[U32, S32, U64, S64])?;
            let f = match ty {
                U32 => wide!(|a, b, c| field(a, b, c, 32, false)),
                S32 => wide!(|a, b, c| field(a, b, c, 32, true)),
                U64 => wide!(|a, b, c| field(a, b, c, 64, false)),
                _ => wide!(|a, b, c| field(a, b, c, 64, true)),
            };
            x.simple(f, ty, &[ty, U32, U32], class, pipe)
        }
        "bfi" => {
            let ty = x.ty(&[B32, B64])?;
            let f = match ty {
                B32 => wide!(|a, b, c, e| insert(a, b, c, e, 32)),
                _ => wide!(|a, b, c, e| insert(a, b, c, e, 64)),
            };
            x.simple(f, ty, &[ty, ty, U32, U32], class, pipe)
        }
        "brev" => {
            let ty = x.ty(&[B32, B64])?;
            let f = if ty == B32 { one!(|a| a.reverse_bits()) } else { wide!(|a| a.reverse_bits()) };
            x.simple(f, ty, &[ty], class, pipe)
        }
        "popc" => {
            let ty = x.ty(&[B32, B64])?;
            let f = if ty == B32 { one!(|a| a.count_ones()) } else { wide!(|a| u64::from(a.count_ones())) };
            x.simple(f, U32, &[ty], class, pipe)
        }
        "clz" => {
            let ty = x.ty(&[B32, B64])?;
            let f =
                if ty == B32 { one!(|a| a.leading_zeros()) } else { wide!(|a| u64::from(a.leading_zeros())) };
            x.simple(f, U32, &[ty], class, pipe)
        }
        "bfind" => {
            let shift = x.flag("shiftamt");
            let ty = x.ty(&[U32, S32, U64, S64])?;
            fn find(a: u64, bits: u32, signed: bool, shift: bool) -> u64 {
                let top = a << (64 - bits);
                let a = if signed && top >> 63 == 1 { !top >> (64 - bits) } else { a };
                match 63u32.checked_sub(a.leading_zeros()) {
                    None => 0xFFFF_FFFF,
                    Some(i) => u64::from(if shift { bits - 1 - i } else { i }),
                }
            }
            let f = match (ty, shift) {
                (U32, false) => wide!(|a| find(a, 32, false, false)),
                (S32, false) => wide!(|a| find(a, 32, true, false)),
                (U64, false) => wide!(|a| find(a, 64, false, false)),
                (_, false) => wide!(|a| find(a, 64, true, false)),
                (U32, true) => wide!(|a| find(a, 32, false, true)),
                (S32, true) => wide!(|a| find(a, 32, true, true)),
                (U64, true) => wide!(|a| find(a, 64, false, true)),
                (_, true) => wide!(|a| find(a, 64, true, true)),
            };
            x.simple(f, U32, &[ty], class, pipe)
        }
        "prmt" => {
            let ty = x.ty(&[B32])?;
            x.simple(three!(|a, b, c| permute(a, b, c)), ty, &[B32; 3], class, pipe)
        }
        _ => lop3(x),
    }
}

fn lop3(x: &mut Ins) -> Res<Built> {
    let ty = x.ty(&[B32])?;
    x.count(5)?;
    let lut = match x.op(4)? {
        crate::parse::Operand::Int(v, false) if v < 256 => v,
        o => return x.error(format!("the table must be a constant below 256, got {o}")),
    };
    let lut = x.b.preload(Slot::Const(lut), false)?;
    let s = [x.src(1, ty)?, x.src(2, ty)?, x.src(3, ty)?, lut];
    let f = wide!(|a, b, c, t| (0..8)
        .filter(|k| t >> k & 1 == 1)
        .map(|k: u64| {
            let on = |v: u64, bit: u64| if k & bit != 0 { v } else { !v };
            on(a, 4) & on(b, 2) & on(c, 1)
        })
        .fold(0, |m, v| m | v & 0xFFFF_FFFF));
    let d = x.dst(0, ty)?;
    match f {
        Lanes::Wide(f) => Ok((Kind::General { f, d, s, n: 4 }, Class::Alu, Pipe::Int)),
        _ => x.error("lop3 is wide"),
    }
}

/// Bits `pos..pos + len` of `a`, sign-extended from the field's top bit (or `a`'s, where the field sticks out).
fn field(a: u64, pos: u64, len: u64, bits: u64, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xFF, len & 0xFF);
    let bit = |i: u64| if i < bits { a >> i & 1 } else { 0 };
    let sign = if signed && len > 0 { bit((pos + len - 1).min(bits - 1)) } else { 0 };
    (0..bits).fold(0, |d, i| {
        let v = if i < len && pos + i < bits { bit(pos + i) } else { sign };
        d | v << i
    })
}

/// The low `len` bits of `a` at `pos` of `b`.
fn insert(a: u64, b: u64, pos: u64, len: u64, bits: u64) -> u64 {
    let (pos, len) = (pos & 0xFF, len & 0xFF);
    (0..len.min(bits))
        .filter(|i| pos + i < bits)
        .fold(b, |d, i| d & !(1 << (pos + i)) | (a >> i & 1) << (pos + i))
}

fn permute(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |d, i| {
        let sel = c >> (4 * i) & 0xF;
        let v = (bytes >> (8 * (sel & 7))) as u32 & 0xFF;
        let v = if sel & 8 != 0 { if v & 0x80 != 0 { 0xFF } else { 0 } } else { v };
        d | v << (8 * i)
    })
}
