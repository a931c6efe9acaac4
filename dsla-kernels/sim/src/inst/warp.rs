//! shfl, vote, match, redux, activemask.

use super::{Built, Ins};
use crate::op::{Class, Kind, Pipe, Shfl, Vote};
use crate::parse::{Operand, Res};
use crate::types::Type::*;

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    let other = |k| Ok((k, Class::Other, Pipe::None));
    match base {
        "shfl" => shfl(x),
        "vote" => vote(x),
        "match" => {
            let all = x.choose(&["any", "all"])? == "all";
            x.must("sync")?;
            let ty = x.ty(&[B32, B64])?;
            x.count(3)?;
            let (d, p) = pair(x, all, U32)?;
            other(Kind::Match { all, d, p, a: x.src(1, ty)?, mask: x.src32(2, U32)? })
        }
        "redux" => {
            x.must("sync")?;
            let op = x.choose(&["add", "min", "max", "and", "or", "xor"])?;
            x.b.need(70, 80, "redux")?;
            let bits = matches!(op, "and" | "or" | "xor");
            let ty = x.ty(if bits { &[B32] } else { &[U32, S32] })?;
            let f: fn(u32, u32) -> u32 = match (op, ty) {
                ("add", _) => u32::wrapping_add,
                ("min", U32) => |a, b| a.min(b),
                ("max", U32) => |a, b| a.max(b),
                ("min", _) => |a, b| (a as i32).min(b as i32) as u32,
                ("max", _) => |a, b| (a as i32).max(b as i32) as u32,
                ("and", _) => |a, b| a & b,
                ("or", _) => |a, b| a | b,
                _ => |a, b| a ^ b,
            };
            x.count(3)?;
            let ty = if bits { U32 } else { ty };
            let kind = Kind::Redux { f, d: x.dst(0, ty)?.ix, a: x.src32(1, ty)?, mask: x.src32(2, U32)? };
            Ok((kind, Class::Alu, Pipe::Int))
        }
        _ => {
            x.ty(&[B32])?;
            x.count(1)?;
            other(Kind::ActiveMask(x.dst(0, B32)?.ix))
        }
    }
}

/// `d` or `d|p`.
fn pair(x: &mut Ins, may: bool, ty: crate::types::Type) -> Res<(u16, Option<u16>)> {
    match x.op(0)? {
        Operand::Pair(d, p) if may => {
            let d = x.b.target(&Operand::Name(d), ty, crate::types::Type::accepts)?.0.ix;
            Ok((d, Some(x.b.pred(&p)?)))
        }
        _ => Ok((x.dst(0, ty)?.ix, None)),
    }
}

fn shfl(x: &mut Ins) -> Res<Built> {
    x.must("sync")?;
    let mode = match x.choose(&["up", "down", "bfly", "idx"])? {
        "up" => Shfl::Up,
        "down" => Shfl::Down,
        "bfly" => Shfl::Bfly,
        _ => Shfl::Idx,
    };
    x.ty(&[B32])?;
    x.count(5)?;
    let (d, p) = pair(x, true, B32)?;
    let (a, b, c) = (x.src32(1, B32)?, x.src32(2, B32)?, x.src32(3, B32)?);
    let mask = x.src32(4, U32)?;
    Ok((Kind::Shfl { mode, d, p, a, b, c, mask }, Class::Shared, Pipe::None))
}

fn vote(x: &mut Ins) -> Res<Built> {
    x.must("sync")?;
    let mode = match x.choose(&["all", "any", "uni", "ballot"])? {
        "all" => Vote::All,
        "any" => Vote::Any,
        "uni" => Vote::Uni,
        _ => Vote::Ballot,
    };
    let ballot = mode == Vote::Ballot;
    x.ty(if ballot { &[B32] } else { &[Pred] })?;
    x.count(3)?;
    let d = if ballot { x.dst(0, B32)?.ix } else { x.pred(0)? };
    Ok((Kind::Vote { mode, d, p: x.pred_src(1)?, mask: x.src32(2, U32)? }, Class::Other, Pipe::None))
}
