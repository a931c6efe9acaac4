//! ldmatrix, stmatrix, mma.

use super::{Built, Ins};
use crate::num::MmaKind;
use crate::op::{Class, Kind, Pipe};
use crate::parse::Res;
use crate::types::Type::*;

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    if base == "mma" {
        return mma(x);
    }
    let load = base == "ldmatrix";
    if !load {
        x.b.need(78, 90, "stmatrix")?;
    }
    x.must("sync")?;
    x.must("aligned")?;
    x.must("m8n8")?;
    let n = match x.choose(&["x1", "x2", "x4"])? {
        "x1" => 1,
        "x2" => 2,
        _ => 4,
    };
    let trans = x.flag("trans");
    if x.choose(&["shared", "shared::cta"])? == "shared::cta" {
        x.b.need(78, 30, "`::cta`")?;
    }
    x.ty(&[B16])?;
    x.count(2)?;
    let (regs, at) = if load { (0, 1) } else { (1, 0) };
    let o = x.op(at)?;
    let addr = x.b.address(&o, true)?;
    let r = x.fragment(regs, n, B32, load)?;
    let n = n as u8;
    let kind =
        if load { Kind::LdMatrix { n, trans, d: r, addr } } else { Kind::StMatrix { n, trans, s: r, addr } };
    Ok((kind, Class::Shared, Pipe::Memory))
}

fn mma(x: &mut Ins) -> Res<Built> {
    x.must("sync")?;
    x.must("aligned")?;
    let shape = x.choose(&["m16n8k4", "m16n8k8", "m16n8k16"])?.to_string();
    x.must("row")?;
    x.must("col")?;
    x.must("f32")?;
    let ty = x.choose(&["f16", "bf16", "tf32"])?;
    x.must(ty)?;
    x.must("f32")?;
    let kind = match (shape.as_str(), ty) {
        ("m16n8k16", "f16") => MmaKind::M16N8K16F16,
        ("m16n8k16", "bf16") => MmaKind::M16N8K16Bf16,
        ("m16n8k8", "f16") => MmaKind::M16N8K8F16,
        ("m16n8k8", "bf16") => MmaKind::M16N8K8Bf16,
        ("m16n8k8", "tf32") => MmaKind::M16N8K8Tf32,
        ("m16n8k4", "tf32") => MmaKind::M16N8K4Tf32,
        _ => return x.error("no such shape of these types"),
    };
    x.count(4)?;
    let d = x.fragment(0, kind.cd_regs(), F32, true)?;
    let a = x.fragment(1, kind.a_regs(), B32, false)?;
    let b = x.fragment(2, kind.b_regs(), B32, false)?;
    if ty == "tf32" {
        x.bits_only(1)?;
        x.bits_only(2)?;
    }
    let c = match x.op(3)? {
        // Constants are registers like any other here.
        crate::parse::Operand::Vector(v) if v.len() == kind.cd_regs() => {
            let mut c = [0; 4];
            for (k, o) in v.iter().enumerate() {
                c[k] = x.b.source(o, F32, crate::types::Type::accepts)?.0.ix;
            }
            c
        }
        _ => x.fragment(3, kind.cd_regs(), F32, false)?,
    };
    Ok((Kind::Mma { kind, a, b: [b[0], b[1]], c, d }, Class::Mma, Pipe::Tensor))
}
