//! Operands: their syntax, names and scopes.

use super::{Parser, Res};
use crate::lex::Tok;
use crate::op::{Ix, Special};
use crate::types::Type;

/// One operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    /// `!p`
    Not(String),
    /// `p|q`
    Pair(String, String),
    /// An integer in two's complement, and whether it had a minus sign.
    Int(u64, bool),
    F32(u32),
    F64(u64),
    Vector(Vec<Operand>),
    /// `variable+offset`, an address.
    Offset(String, i64),
    /// `[base + offset]`
    Address(Option<String>, i64),
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Operand::Name(n) => write!(f, "{n}"),
            Operand::Not(n) => write!(f, "!{n}"),
            Operand::Pair(a, b) => write!(f, "{a}|{b}"),
            Operand::Int(v, true) => write!(f, "{}", *v as i64),
            Operand::Int(v, false) => write!(f, "{v}"),
            Operand::F32(b) => write!(f, "{:?}f32", f32::from_bits(*b)),
            Operand::F64(b) => write!(f, "{:?}", f64::from_bits(*b)),
            Operand::Vector(v) => {
                let parts: Vec<String> = v.iter().map(Operand::to_string).collect();
                write!(f, "{{{}}}", parts.join(", "))
            }
            Operand::Offset(b, o) => write!(f, "{b}{o:+}"),
            Operand::Address(b, o) => write!(f, "[{}{o:+}]", b.as_deref().unwrap_or("")),
        }
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Var {
    /// A register, indexed once it is first used.
    Reg(Type, Option<Ix>),
    /// A shared variable at a known address.
    Shared(u32),
    /// The dynamic shared window.
    Dynamic,
}

impl Parser {
    /// Operands up to and including the `;`.
    pub(super) fn operands(&mut self) -> Res<Vec<Operand>> {
        let mut out = Vec::new();
        if self.eat(';') {
            return Ok(out);
        }
        loop {
            out.push(self.operand()?);
            if self.eat(';') {
                return Ok(out);
            }
            if !self.eat(',') {
                return Err(self.error(format!("`,` or `;`, got {}", self.peek())));
            }
        }
    }

    fn operand(&mut self) -> Res<Operand> {
        if self.eat('{') {
            let mut v = Vec::new();
            loop {
                v.push(self.operand()?);
                if self.eat('}') {
                    return Ok(Operand::Vector(v));
                }
                self.want(',')?;
            }
        }
        if self.eat('[') {
            let base = self.eat_word(|_| true);
            let offset = if base.is_none() || self.eat('+') { self.signed()? } else { 0 };
            self.want(']')?;
            return Ok(Operand::Address(base, offset));
        }
        if self.eat('!') {
            return Ok(Operand::Not(self.name("a predicate")?));
        }
        if self.eat('-') {
            return match self.next() {
                Tok::Int(v) => Ok(Operand::Int(v.wrapping_neg(), true)),
                Tok::Decimal(v) => Ok(Operand::F64(v ^ 1 << 63)),
                t => Err(self.error(format!("a number after `-`, got {t}"))),
            };
        }
        match self.peek().clone() {
            Tok::Int(v) => {
                self.next();
                Ok(Operand::Int(v, false))
            }
            Tok::F32(v) => {
                self.next();
                Ok(Operand::F32(v))
            }
            Tok::F64(v) | Tok::Decimal(v) => {
                self.next();
                Ok(Operand::F64(v))
            }
            Tok::Word(w) => {
                self.next();
                if self.eat('|') {
                    return Ok(Operand::Pair(w, self.name("a predicate")?));
                }
                if self.eat('+') {
                    return Ok(Operand::Offset(w, self.signed()?));
                }
                Ok(if w == "WARP_SZ" { Operand::Int(32, false) } else { Operand::Name(w) })
            }
            t => Err(self.error(format!("an operand, got {t}"))),
        }
    }

    fn signed(&mut self) -> Res<i64> {
        let minus = self.eat('-');
        let v = self.int("an offset")?;
        let limit = 1u64 << 32;
        if v >= limit && v <= u64::MAX - limit {
            return Err(self.error(format!("an offset of 32 bits, got {v:#x}")));
        }
        Ok(if minus { (v as i64).wrapping_neg() } else { v as i64 })
    }
}

/// A special register and its bytes.
pub(crate) fn special(name: &str) -> Option<Special> {
    use Special::*;
    let dim = |make: fn(u8) -> Special| match name.rsplit_once('.').map(|p| p.1) {
        Some("x") => Some(make(0)),
        Some("y") => Some(make(1)),
        Some("z") => Some(make(2)),
        _ => None,
    };
    match name.split_once('.').map_or(name, |p| p.0) {
        "%tid" => return dim(Tid),
        "%ntid" => return dim(Ntid),
        "%ctaid" => return dim(Ctaid),
        "%nctaid" => return dim(Nctaid),
        _ => {}
    }
    Some(match name {
        "%laneid" => LaneId,
        "%warpid" => WarpId,
        "%nwarpid" => NwarpId,
        "%smid" => SmId,
        "%nsmid" => NsmId,
        "%lanemask_lt" => LaneMaskLt,
        "%lanemask_le" => LaneMaskLe,
        "%lanemask_eq" => LaneMaskEq,
        "%lanemask_ge" => LaneMaskGe,
        "%lanemask_gt" => LaneMaskGt,
        "%dynamic_smem_size" => DynamicSharedSize,
        "%total_smem_size" => TotalSharedSize,
        _ => return None,
    })
}
