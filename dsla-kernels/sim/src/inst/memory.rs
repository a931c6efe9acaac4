//! ld, st, atom, red, cp.async, prefetch.

use super::{Built, Ins};
use crate::op::{A3, Access, Class, Kind, Order, Pipe, Space};
use crate::parse::{Operand, Res};
use crate::types::Type::{self, *};

const TYPES: [Type; 14] = [B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F32, F64];
const PREFETCH: [&str; 3] = ["L2::64B", "L2::128B", "L2::256B"];
const EVICT: [&str; 4] = ["L1::evict_normal", "L1::evict_first", "L1::evict_last", "L1::no_allocate"];
const SCOPES: [&str; 3] = ["cta", "gpu", "sys"];

pub(super) fn build(x: &mut Ins, base: &str) -> Res<Built> {
    match base {
        "ld" | "st" => access(x, base == "ld"),
        "atom" | "red" => atom(x, base == "atom"),
        "cp" => copy(x),
        _ => prefetch(x),
    }
}

fn class(space: Space) -> Class {
    if space == Space::Global { Class::Global } else { Class::Shared }
}

fn access(x: &mut Ins, load: bool) -> Res<Built> {
    let mut order = Order::default();
    let kinds: &[&str] = if load {
        &["weak", "volatile", "relaxed", "acquire"]
    } else {
        &["weak", "volatile", "relaxed", "release"]
    };
    let kind = x.one(kinds).unwrap_or("");
    match kind {
        "volatile" => order.strong = true,
        "relaxed" | "acquire" | "release" => {
            x.choose(&SCOPES)?;
            order = Order { strong: true, acquire: kind == "acquire", release: kind == "release" };
        }
        _ => {}
    }
    let place = x.one(if load {
        &["global", "shared", "shared::cta", "param"]
    } else {
        &["global", "shared", "shared::cta"]
    });
    let place = match place {
        Some(p) => p,
        None => return x.error("want a state space: generic addresses are not supported"),
    };
    if place == "shared::cta" {
        x.b.need(78, 30, "`::cta`")?;
    }
    if place == "param" && order.strong {
        return x.error("parameters do not change");
    }
    let mut cop = None;
    if kind.is_empty() || kind == "weak" {
        cop = x.one(if load { &["ca", "cg", "cs", "lu", "cv"] } else { &["wb", "cg", "cs", "wt"] });
    }
    if load && place == "global" && kind.is_empty() && !matches!(cop, Some("lu" | "cv")) {
        x.flag("nc");
    }
    if place == "global" {
        if x.one(&EVICT).is_some() {
            x.b.need(74, 70, "an eviction priority")?;
        }
        if load && x.one(&PREFETCH).is_some() {
            x.b.need(74, 75, "a prefetch size")?;
        }
    }
    let n = match x.one(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    };
    let ty = x.ty(&TYPES)?;
    if n * ty.size() > 16 {
        return x.error("a vector has at most 16 bytes");
    }
    x.count(2)?;
    let (values, at) = if load { (0, 1) } else { (1, 0) };
    let parts = if n > 1 { x.vector(values, n)? } else { vec![x.op(values)?] };
    let mut regs = [None; 4];
    let mut extend = 0;
    for (k, o) in parts.iter().enumerate() {
        regs[k] = match load {
            true if n > 1 && *o == Operand::Name("_".into()) => None,
            true => {
                let (r, t) = x.b.target(o, ty, Type::accepts_wider)?;
                extend = if ty.signed() { t.size() as u8 * 8 } else { 0 };
                Some(r)
            }
            false => Some(x.b.source(o, ty, Type::accepts_wider)?.0),
        };
    }
    let (size, n) = (ty.size() as u8, n as u8);
    let address = x.op(at)?;
    if place == "param" {
        let offset = parameter(x, &address, usize::from(size) * usize::from(n))?;
        return Ok((Kind::LdParam { offset, size, n, extend, d: regs }, Class::Other, Pipe::Int));
    }
    let space = if place == "global" { Space::Global } else { Space::Shared };
    let addr = x.b.address(&address, space == Space::Shared)?;
    let a = Access { space, size, n, addr, extend, order, regs };
    Ok((if load { Kind::Load(a) } else { Kind::Store(a) }, class(space), Pipe::Memory))
}

fn parameter(x: &Ins, o: &Operand, n: usize) -> Res<u32> {
    let Operand::Address(Some(name), offset) = o else {
        return x.error(format!("want a parameter in brackets, got {o}"));
    };
    let Some(p) = x.b.params.iter().find(|p| p.name == *name) else {
        return x.error(format!("{name} is no parameter"));
    };
    let at = p.offset as i64 + offset;
    if *offset < 0 || *offset + n as i64 > p.size as i64 {
        return x.error(format!("bytes {offset}..{} of {name}, which has {}", offset + n as i64, p.size));
    }
    if at % n as i64 != 0 {
        return x.error(format!("{n} bytes at offset {at} of the parameters, which is not a multiple"));
    }
    Ok(at as u32)
}

fn atom(x: &mut Ins, returns: bool) -> Res<Built> {
    let sem: &[&str] =
        if returns { &["relaxed", "acquire", "release", "acq_rel"] } else { &["relaxed", "release"] };
    let sem = x.one(sem).unwrap_or("");
    let scope = x.one(&SCOPES);
    let order = Order {
        strong: true,
        acquire: matches!(sem, "acquire" | "acq_rel"),
        release: matches!(sem, "release" | "acq_rel"),
    };
    if !sem.is_empty() && scope.is_none() {
        return x.error("a memory order wants a scope");
    }
    let Some(space) = x.one(&["global", "shared"]) else {
        return x.error("want a state space: generic addresses are not supported");
    };
    let space = if space == "global" { Space::Global } else { Space::Shared };
    let op = x.choose(&["and", "or", "xor", "cas", "exch", "add", "inc", "dec", "min", "max"])?;
    if !returns && matches!(op, "cas" | "exch") {
        return x.error("red has no cas and no exch");
    }
    let noftz = op == "add" && x.flag("noftz");
    let ty = x.ty(match op {
        "and" | "or" | "xor" | "exch" => &[B32, B64],
        "cas" => &[B16, B32, B64],
        "inc" | "dec" => &[U32],
        "min" | "max" => &[U32, S32, U64, S64],
        _ if noftz => &[F16, F16x2, Bf16, Bf16x2],
        _ => &[U32, S32, U64, F32, F64],
    })?;
    if matches!(ty, Bf16 | Bf16x2) {
        x.b.need(78, 90, "bf16 atomics")?;
    }
    let Some(f) = function(op, ty) else { return x.error("no such atomic") };
    let cas = op == "cas";
    x.count(usize::from(returns) + 2 + usize::from(cas))?;
    let d = match x.op(0)? {
        _ if !returns => None,
        Operand::Name(n) if n == "_" => None,
        _ => Some(x.dst(0, ty)?),
    };
    let i = usize::from(returns);
    let o = x.op(i)?;
    let addr = x.b.address(&o, space == Space::Shared)?;
    let b = x.src(i + 1, ty)?;
    let c = if cas { Some(x.src(i + 2, ty)?) } else { None };
    Ok((Kind::Atom { space, size: ty.size() as u8, f, d, addr, b, c, order }, class(space), Pipe::Memory))
}

fn function(op: &str, ty: Type) -> Option<A3> {
    use ::half::{bf16, f16};
    fn h(a: u64, b: u64) -> u64 {
        u64::from((f16::from_bits(a as u16) + f16::from_bits(b as u16)).to_bits())
    }
    fn bf(a: u64, b: u64) -> u64 {
        u64::from((bf16::from_bits(a as u16) + bf16::from_bits(b as u16)).to_bits())
    }
    Some(match (op, ty) {
        ("and", _) => |o, b, _| o & b,
        ("or", _) => |o, b, _| o | b,
        ("xor", _) => |o, b, _| o ^ b,
        ("exch", _) => |_, b, _| b,
        ("cas", _) => |o, b, c| if o == b { c } else { o },
        ("inc", _) => |o, b, _| if o >= b { 0 } else { o + 1 },
        ("dec", _) => |o, b, _| if o == 0 || o > b { b } else { o - 1 },
        ("add", F32) => |o, b, _| u64::from((f32::from_bits(o as u32) + f32::from_bits(b as u32)).to_bits()),
        ("add", F64) => |o, b, _| (f64::from_bits(o) + f64::from_bits(b)).to_bits(),
        ("add", F16) => |o, b, _| h(o, b),
        ("add", F16x2) => |o, b, _| h(o, b) | h(o >> 16, b >> 16) << 16,
        ("add", Bf16) => |o, b, _| bf(o, b),
        ("add", Bf16x2) => |o, b, _| bf(o, b) | bf(o >> 16, b >> 16) << 16,
        ("add", _) => |o, b, _| o.wrapping_add(b),
        ("min", U32 | U64) => |o, b, _| o.min(b),
        ("max", U32 | U64) => |o, b, _| o.max(b),
        ("min", S32) => |o, b, _| (o as i32).min(b as i32) as u32 as u64,
        ("max", S32) => |o, b, _| (o as i32).max(b as i32) as u32 as u64,
        ("min", S64) => |o, b, _| (o as i64).min(b as i64) as u64,
        ("max", S64) => |o, b, _| (o as i64).max(b as i64) as u64,
        _ => return None,
    })
}

fn copy(x: &mut Ins) -> Res<Built> {
    x.must("async")?;
    if x.flag("commit_group") {
        x.count(0)?;
        return Ok((Kind::CpCommit, Class::Other, Pipe::None));
    }
    if x.flag("wait_all") {
        x.count(0)?;
        return Ok((Kind::CpWait(None), Class::Other, Pipe::None));
    }
    if x.flag("wait_group") {
        x.count(1)?;
        return match x.op(0)? {
            Operand::Int(n, false) if n < 1 << 20 => {
                Ok((Kind::CpWait(Some(n as u32)), Class::Other, Pipe::None))
            }
            o => x.error(format!("want a small constant, got {o}")),
        };
    }
    let all = x.choose(&["ca", "cg"])? == "ca";
    if x.choose(&["shared", "shared::cta"])? == "shared::cta" {
        x.b.need(78, 30, "`::cta`")?;
    }
    x.must("global")?;
    if x.one(&PREFETCH).is_some() {
        x.b.need(74, 80, "a prefetch size")?;
    }
    if !(3..=4).contains(&x.ops.len()) {
        return x.error(format!("want 3 or 4 operands, got {}", x.ops.len()));
    }
    let size = match x.op(2)? {
        Operand::Int(16, false) => 16,
        Operand::Int(n @ (4 | 8), false) if all => n as u8,
        o => return x.error(format!("want 16 bytes (with .ca 4 or 8 too), got {o}")),
    };
    let (dst, src) = (x.op(0)?, x.op(1)?);
    let (dst, src) = (x.b.address(&dst, true)?, x.b.address(&src, false)?);
    let src_size = if x.ops.len() == 4 { Some(x.src32(3, U32)?) } else { None };
    Ok((Kind::CpAsync { dst, src, size, src_size }, Class::Global, Pipe::Memory))
}

fn prefetch(x: &mut Ins) -> Res<Built> {
    x.must("global")?;
    if x.choose(&["L1", "L2", "L2::evict_last", "L2::evict_normal"])?.contains(':') {
        x.b.need(74, 80, "an eviction priority")?;
    }
    x.count(1)?;
    let o = x.op(0)?;
    Ok((Kind::Prefetch(x.b.address(&o, false)?), Class::Global, Pipe::Memory))
}
