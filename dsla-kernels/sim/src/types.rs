//! PTX types and register classes.

/// A type as an instruction names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Type {
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Pred,
}

use Type::*;

impl Type {
    const ALL: [(&'static str, Type); 19] = [
        ("b8", B8),
        ("b16", B16),
        ("b32", B32),
        ("b64", B64),
        ("u8", U8),
        ("u16", U16),
        ("u32", U32),
        ("u64", U64),
        ("s8", S8),
        ("s16", S16),
        ("s32", S32),
        ("s64", S64),
        ("f16", F16),
        ("f16x2", F16x2),
        ("bf16", Bf16),
        ("bf16x2", Bf16x2),
        ("f32", F32),
        ("f64", F64),
        ("pred", Pred),
    ];

    /// From its name without the dot.
    pub fn named(name: &str) -> Option<Type> {
        Type::ALL.iter().find(|t| t.0 == name).map(|t| t.1)
    }

    /// Its name without the dot.
    pub fn name(self) -> &'static str {
        Type::ALL.iter().find(|t| t.1 == self).map_or("?", |t| t.0)
    }

    /// Bytes; 0 for predicates.
    pub fn size(self) -> usize {
        match self {
            Pred => 0,
            B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    /// Signed integer.
    pub fn signed(self) -> bool {
        matches!(self, S8 | S16 | S32 | S64)
    }

    /// Unsigned integer.
    pub fn unsigned(self) -> bool {
        matches!(self, U8 | U16 | U32 | U64)
    }

    /// Untyped bits.
    pub fn bits(self) -> bool {
        matches!(self, B8 | B16 | B32 | B64)
    }

    /// Integer of either sign.
    pub fn int(self) -> bool {
        self.signed() || self.unsigned()
    }

    /// Floating point, packed included.
    pub fn float(self) -> bool {
        !self.int() && !self.bits() && self != Pred
    }

    /// May an operand declared as `reg` stand where an instruction wants this type?
    pub fn accepts(self, reg: Type) -> bool {
        if self == Pred || reg == Pred {
            return self == reg;
        }
        self.size() == reg.size() && self.kin(reg)
    }

    /// The same for loads, stores and conversions, where a register may be wider than the type.
    pub fn accepts_wider(self, reg: Type) -> bool {
        if self == Pred || reg == Pred {
            return false;
        }
        if self.float() { self.accepts(reg) } else { self.size() <= reg.size() && self.kin(reg) }
    }

    fn kin(self, reg: Type) -> bool {
        match () {
            _ if self.bits() || reg.bits() => true,
            _ if self.int() => reg.int(),
            _ => self == reg,
        }
    }

    /// As `num` names it, for scalar types.
    pub fn num(self) -> Option<crate::num::Ty> {
        use crate::num::Ty;
        Some(match self {
            F16 => Ty::F16,
            Bf16 => Ty::Bf16,
            F32 => Ty::F32,
            F64 => Ty::F64,
            U8 => Ty::U8,
            U16 => Ty::U16,
            U32 => Ty::U32,
            U64 => Ty::U64,
            S8 => Ty::S8,
            S16 => Ty::S16,
            S32 => Ty::S32,
            S64 => Ty::S64,
            _ => return None,
        })
    }
}
