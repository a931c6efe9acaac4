//! Barriers, fences, branches, ends.

use super::{Built, Ins};
use crate::op::{Class, Kind, Pipe, Slot};
use crate::parse::{Operand, Res};
use crate::types::Type::*;

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    let kind = match base {
        "bar" | "barrier" => return barrier(x, base == "barrier"),
        "membar" => {
            let far = x.choose(&["cta", "gl", "sys"])? != "cta";
            x.count(0)?;
            Kind::Fence(far)
        }
        "fence" => {
            x.one(&["sc", "acq_rel"]);
            let far = x.choose(&["cta", "gpu", "sys"])? != "cta";
            x.count(0)?;
            Kind::Fence(far)
        }
        "bra" => {
            let uni = x.flag("uni");
            x.count(1)?;
            match x.op(0)? {
                Operand::Name(label) => x.b.branch(&label),
                o => return x.error(format!("want a label, got {o}")),
            }
            Kind::Bra { to: 0, uni }
        }
        "ret" | "exit" => {
            if base == "ret" {
                x.flag("uni");
            }
            x.count(0)?;
            Kind::Exit
        }
        "trap" => {
            x.count(0)?;
            Kind::Trap
        }
        _ => {
            x.ty(&[U32])?;
            x.count(1)?;
            x.src32(0, U32)?;
            Kind::Nop
        }
    };
    Ok((kind, Class::Control, Pipe::None))
}

fn barrier(x: &mut Ins, long: bool) -> Res<Built> {
    if !long && x.flag("warp") {
        x.must("sync")?;
        x.count(1)?;
        return Ok((Kind::BarWarp(x.src32(0, U32)?), Class::Control, Pipe::None));
    }
    if x.flag("cta") {
        x.b.need(78, 30, "`.cta`")?;
    }
    let wait = x.choose(&["sync", "arrive"])? == "sync";
    // Convergence is demanded of both forms: a warp counts once.
    if long {
        x.flag("aligned");
    }
    let n = x.ops.len();
    if n == 0 || n > 2 || !wait && n != 2 {
        return x.error(format!("got {n} operands"));
    }
    if let Some(Operand::Int(v, _)) = x.ops.get(1)
        && (*v > 1024 || v % 32 != 0 || *v == 0)
    {
        return x.error(format!("{v} is no number of whole warps"));
    }
    let id = match x.op(0)? {
        Operand::Int(v, false) if v < 16 => x.b.preload(Slot::Const(v), false)?,
        Operand::Name(_) => x.src(0, U32)?,
        o => return x.error(format!("want a barrier below 16, got {o}")),
    };
    let count = if n == 2 { Some(x.src(1, U32)?) } else { None };
    Ok((Kind::Bar { id, count, wait }, Class::Control, Pipe::None))
}
