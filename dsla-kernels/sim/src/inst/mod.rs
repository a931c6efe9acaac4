//! Opcodes: their modifiers, operand types and what they compute, family by family.

mod arith;
mod compare;
mod control;
mod convert;
mod float;
mod half;
mod int;
mod lift;
mod logic;
mod memory;
mod tensor;
mod warp;

use crate::op::{Class, F1, F2, F3, G, Ix, Kind, Pipe, PredRef, Reg};
use crate::parse::{Body, Operand, Res};
use crate::types::Type;

/// What a family builds.
pub(crate) type Built = (Kind, Class, Pipe);

/// A function of lanes, by the shape it fits.
#[derive(Clone, Copy)]
pub(crate) enum Lanes {
    One(F1),
    Two(F2),
    Three(F3),
    /// Over 64-bit lanes, any widths in and out.
    Wide(G),
}

/// One instruction being built: modifiers are taken from the front, in the order of the ISA manual.
pub(crate) struct Ins<'b, 'a> {
    pub b: &'b mut Body<'a>,
    pub opcode: String,
    mods: Vec<String>,
    at: usize,
    pub ops: Vec<Operand>,
}

/// Build one instruction.
pub(crate) fn build(b: &mut Body, opcode: &str, ops: Vec<Operand>) -> Res<Built> {
    let mut parts = opcode.split('.').map(str::to_string);
    let base = parts.next().unwrap_or_default();
    let mut x = Ins { b, opcode: opcode.to_string(), mods: parts.collect(), at: 0, ops };
    x.b.variables = matches!(base.as_str(), "mov" | "cvta");
    x.b.specials = base == "mov";
    let built = match base.as_str() {
        "add" | "sub" | "mul" | "mad" | "fma" | "min" | "max" | "abs" | "neg" | "div" | "rem" | "sqrt"
        | "rcp" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "testp" | "addc"
        | "subc" | "madc" => arith::build(&mut x, &base),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "bfe" | "bfi" | "brev" | "popc"
        | "clz" | "bfind" | "prmt" | "lop3" => logic::build(&mut x, &base),
        "setp" | "set" | "selp" | "slct" => compare::build(&mut x, &base),
        "mov" | "cvt" | "cvta" => convert::build(&mut x, &base),
        "ld" | "st" | "atom" | "red" | "cp" | "prefetch" => memory::build(&mut x, &base),
        "ldmatrix" | "stmatrix" | "mma" => tensor::build(&mut x, &base),
        "shfl" | "vote" | "match" | "redux" | "activemask" => warp::build(&mut x, &base),
        "bar" | "barrier" | "membar" | "fence" | "bra" | "ret" | "exit" | "trap" | "nanosleep" => {
            control::build(&mut x, &base)
        }
        _ => return Err(x.b.error(format!("opcode `{opcode}` is not supported"))),
    }?;
    x.finished()?;
    Ok(built)
}

impl Ins<'_, '_> {
    pub fn error<T>(&self, what: impl std::fmt::Display) -> Res<T> {
        Err(self.b.error(format!("`{}`: {what}", self.opcode)))
    }

    /// The next modifier.
    pub fn peek(&self) -> &str {
        self.mods.get(self.at).map_or("", String::as_str)
    }

    /// Take this modifier if it is next.
    pub fn flag(&mut self, m: &str) -> bool {
        let hit = self.peek() == m;
        self.at += usize::from(hit);
        hit
    }

    /// Take one of these if it is next.
    pub fn one<'s>(&mut self, of: &[&'s str]) -> Option<&'s str> {
        let hit = of.iter().find(|m| **m == self.peek()).copied();
        self.at += usize::from(hit.is_some());
        hit
    }

    /// Take this modifier, which must be next.
    pub fn must(&mut self, m: &str) -> Res<()> {
        if self.flag(m) { Ok(()) } else { self.error(format!("want `.{m}`, got `.{}`", self.peek())) }
    }

    /// Take one of these, one of which must be next.
    pub fn choose<'s>(&mut self, of: &[&'s str]) -> Res<&'s str> {
        match self.one(of) {
            Some(m) => Ok(m),
            None => self.error(format!("want one of `.{}`, got `.{}`", of.join("` `."), self.peek())),
        }
    }

    /// Take the type, which must be one of these.
    pub fn ty(&mut self, of: &[Type]) -> Res<Type> {
        match Type::named(self.peek()).filter(|t| of.contains(t)) {
            Some(t) => {
                self.at += 1;
                Ok(t)
            }
            None => {
                let names: Vec<_> = of.iter().map(|t| t.name()).collect();
                self.error(format!("want a type among `.{}`, got `.{}`", names.join("` `."), self.peek()))
            }
        }
    }

    /// The type that ends the opcode, before any modifier is taken.
    pub fn last_type(&self) -> Option<Type> {
        self.mods.last().and_then(|m| Type::named(m))
    }

    fn finished(&self) -> Res<()> {
        match self.mods.get(self.at) {
            Some(m) => self.error(format!("modifier `.{m}` does not belong here")),
            None => Ok(()),
        }
    }

    pub fn count(&self, n: usize) -> Res<()> {
        if self.ops.len() == n {
            Ok(())
        } else {
            self.error(format!("want {n} operands, got {}", self.ops.len()))
        }
    }

    pub fn op(&self, i: usize) -> Res<Operand> {
        match self.ops.get(i) {
            Some(o) => Ok(o.clone()),
            None => self.error(format!("operand {} is missing", i + 1)),
        }
    }

    /// Source operand `i` of exactly this type.
    pub fn src(&mut self, i: usize, ty: Type) -> Res<Reg> {
        let o = self.op(i)?;
        Ok(self.b.source(&o, ty, Type::accepts)?.0)
    }

    /// The same, of at most 32 bits.
    pub fn src32(&mut self, i: usize, ty: Type) -> Res<Ix> {
        Ok(self.src(i, ty)?.ix)
    }

    /// Destination operand `i`.
    pub fn dst(&mut self, i: usize, ty: Type) -> Res<Reg> {
        let o = self.op(i)?;
        Ok(self.b.target(&o, ty, Type::accepts)?.0)
    }

    /// A predicate destination.
    pub fn pred(&mut self, i: usize) -> Res<Ix> {
        match self.op(i)? {
            Operand::Name(n) => self.b.pred(&n),
            o => self.error(format!("want a predicate, got {o}")),
        }
    }

    /// A predicate source, perhaps negated.
    pub fn pred_src(&mut self, i: usize) -> Res<PredRef> {
        match self.op(i)? {
            Operand::Name(n) => Ok(PredRef { ix: self.b.pred(&n)?, not: false }),
            Operand::Not(n) => Ok(PredRef { ix: self.b.pred(&n)?, not: true }),
            o => self.error(format!("want a predicate, got {o}")),
        }
    }

    /// A vector operand's parts.
    pub fn vector(&mut self, i: usize, n: usize) -> Res<Vec<Operand>> {
        match self.op(i)? {
            Operand::Vector(v) if v.len() == n => Ok(v),
            o => self.error(format!("want a vector of {n}, got {o}")),
        }
    }

    /// A vector of `n` 32-bit registers, read or written; one register alone needs braces too.
    pub fn fragment(&mut self, i: usize, n: usize, ty: Type, write: bool) -> Res<[Ix; 4]> {
        let mut out = [0; 4];
        for (k, o) in self.vector(i, n)?.iter().enumerate() {
            out[k] = if write {
                self.b.target(o, ty, Type::accepts)?.0.ix
            } else {
                match o {
                    Operand::Name(_) => self.b.source(o, ty, Type::accepts)?.0.ix,
                    _ => return self.error(format!("want registers, got {o}")),
                }
            };
        }
        Ok(out)
    }

    /// tf32 values are .b32: registers of another type do not do.
    pub fn bits_only(&mut self, i: usize) -> Res<()> {
        let parts = match self.op(i)? {
            Operand::Vector(v) => v,
            o => vec![o],
        };
        for o in parts {
            if let Operand::Name(n) = &o
                && self.b.register(n)?.1.float()
            {
                return self.error(format!("{o} must be .b32"));
            }
        }
        Ok(())
    }

    /// A plain function of operands: destination of type `d`, then sources of these types.
    pub fn simple(&mut self, f: Lanes, d: Type, s: &[Type], class: Class, pipe: Pipe) -> Res<Built> {
        self.count(s.len() + 1)?;
        let d = self.dst(0, d)?;
        let mut r = [Reg { ix: 0, wide: false }; 4];
        for (i, t) in s.iter().enumerate() {
            r[i] = self.src(i + 1, *t)?;
        }
        Ok((general(f, d, r, s.len()), class, pipe))
    }
}

/// The instruction that applies a function to registers.
pub(crate) fn general(f: Lanes, d: Reg, s: [Reg; 4], n: usize) -> Kind {
    match f {
        Lanes::One(f) => Kind::One(f, d.ix, s[0].ix),
        Lanes::Two(f) => Kind::Two(f, d.ix, s[0].ix, s[1].ix),
        Lanes::Three(f) => Kind::Three(f, d.ix, s[0].ix, s[1].ix, s[2].ix),
        Lanes::Wide(f) => Kind::General { f, d, s, n: n as u8 },
    }
}
