//! What a parsed instruction is: flat, typed, with register-file indices.

use crate::num::{Approx, Fp, Half, MmaKind, Round, Ty};

/// 32 lanes of 32 bits.
pub(crate) type L = [u32; 32];
/// 32 lanes of 64 bits.
pub(crate) type W = [u64; 32];
/// Index in one of the register files. Immediates, special registers and shared addresses are registers preloaded.
pub(crate) type Ix = u16;

/// A register of either width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg {
    pub ix: Ix,
    /// In the 64-bit file.
    pub wide: bool,
}

pub(crate) type F1 = fn(&L, &mut L);
pub(crate) type F2 = fn(&L, &L, &mut L);
pub(crate) type F3 = fn(&L, &L, &L, &mut L);
pub(crate) type G = fn(&[W; 4], &mut W);
pub(crate) type C32 = fn(&L, &L) -> u32;
pub(crate) type C64 = fn(&W, &W) -> u32;
/// Lane masks in, lane mask out.
pub(crate) type P2 = fn(u32, u32) -> u32;
/// Old value, operand, second operand: new value.
pub(crate) type A3 = fn(u64, u64, u64) -> u64;

/// A predicate, perhaps negated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PredRef {
    pub ix: Ix,
    pub not: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
}

/// Register plus constant; no register: the constant alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub base: Option<Reg>,
    pub offset: i64,
}

/// Memory order of an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Relaxed or stronger, atomics too: no race with others of its kind.
    pub strong: bool,
    pub acquire: bool,
    pub release: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub space: Space,
    /// Bytes of one element.
    pub size: u8,
    /// Elements.
    pub n: u8,
    pub addr: Addr,
    /// Sign-extend what is loaded to this many bits; 0: do not.
    pub extend: u8,
    pub order: Order,
    pub regs: [Option<Reg>; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shfl {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy)]
pub(crate) enum CmpFn {
    Short(C32),
    Long(C64),
}

/// Where a comparison's result goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CmpTo {
    Pred(Option<Ix>, Option<Ix>),
    /// A register gets this value where true, else 0.
    Reg(Ix, u32),
}

pub(crate) enum Kind {
    Nop,
    One(F1, Ix, Ix),
    Two(F2, Ix, Ix, Ix),
    Three(F3, Ix, Ix, Ix, Ix),
    General {
        f: G,
        d: Reg,
        s: [Reg; 4],
        n: u8,
    },
    /// add.cc, addc, sub.cc, subc, mad.lo.cc ...: (a op b) with the carry flag in and out.
    Carry {
        sub: bool,
        read: bool,
        write: bool,
        d: Reg,
        a: Reg,
        b: Reg,
    },
    Cmp {
        f: CmpFn,
        a: Reg,
        b: Reg,
        to: CmpTo,
        with: Option<(P2, PredRef)>,
    },
    Pred2(P2, Ix, PredRef, PredRef),
    PredConst(Ix, bool),
    Select {
        d: Reg,
        a: Reg,
        b: Reg,
        p: PredRef,
    },
    /// Elements of `size` bytes, lowest first, into one register.
    Pack {
        d: Reg,
        s: [Reg; 4],
        n: u8,
        size: u8,
    },
    Unpack {
        d: [Option<Reg>; 4],
        n: u8,
        size: u8,
        a: Reg,
    },
    Cvt {
        to: Ty,
        from: Ty,
        round: Round,
        sat: bool,
        ftz: bool,
        relu: bool,
        d: Reg,
        a: Reg,
        sext: u8,
    },
    Pack2 {
        to: Ty,
        round: Round,
        relu: bool,
        d: Ix,
        hi: Ix,
        lo: Ix,
    },
    Approx {
        op: Approx,
        ftz: bool,
        d: Ix,
        a: Ix,
    },
    /// One half, or both.
    Approx16 {
        op: Approx,
        kind: Half,
        ftz: bool,
        halves: u8,
        d: Ix,
        a: Ix,
    },
    /// Rounding other than to nearest, f32 or f64.
    Rounded {
        op: Fp,
        round: Round,
        ftz: bool,
        sat: bool,
        d: Reg,
        s: [Reg; 3],
    },
    DivApprox {
        full: bool,
        ftz: bool,
        d: Ix,
        a: Ix,
        b: Ix,
    },
    LdParam {
        offset: u32,
        size: u8,
        n: u8,
        extend: u8,
        d: [Option<Reg>; 4],
    },
    Load(Access),
    Store(Access),
    Atom {
        space: Space,
        size: u8,
        f: A3,
        d: Option<Reg>,
        addr: Addr,
        b: Reg,
        c: Option<Reg>,
        order: Order,
    },
    Prefetch(Addr),
    CpAsync {
        dst: Addr,
        src: Addr,
        size: u8,
        src_size: Option<Ix>,
    },
    CpCommit,
    /// None: all.
    CpWait(Option<u32>),
    LdMatrix {
        n: u8,
        trans: bool,
        d: [Ix; 4],
        addr: Addr,
    },
    StMatrix {
        n: u8,
        trans: bool,
        s: [Ix; 4],
        addr: Addr,
    },
    Mma {
        kind: MmaKind,
        a: [Ix; 4],
        b: [Ix; 2],
        c: [Ix; 4],
        d: [Ix; 4],
    },
    Shfl {
        mode: Shfl,
        d: Ix,
        p: Option<Ix>,
        a: Ix,
        b: Ix,
        c: Ix,
        mask: Ix,
    },
    /// To a predicate, or to a register (ballot).
    Vote {
        mode: Vote,
        d: Ix,
        p: PredRef,
        mask: Ix,
    },
    Match {
        all: bool,
        d: Ix,
        p: Option<Ix>,
        a: Reg,
        mask: Ix,
    },
    Redux {
        f: fn(u32, u32) -> u32,
        d: Ix,
        a: Ix,
        mask: Ix,
    },
    ActiveMask(Ix),
    /// `wait` false: bar.arrive.
    Bar {
        id: Reg,
        count: Option<Reg>,
        wait: bool,
    },
    BarWarp(Ix),
    /// True: orders more than the CTA.
    Fence(bool),
    Bra {
        to: u32,
        uni: bool,
    },
    Exit,
    Trap,
    Clock(Reg),
}

/// For counting: index in [`crate::Counters::CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Alu = 0,
    Fma = 1,
    Sfu = 2,
    Mma = 3,
    Shared = 4,
    Global = 5,
    Control = 6,
    Other = 7,
}

/// Which unit is busy, for the cost estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    Int,
    Fp32,
    Fp64,
    Sfu,
    Tensor,
    Memory,
    None,
}

/// One instruction.
pub(crate) struct Op {
    pub kind: Kind,
    pub guard: Option<PredRef>,
    pub line: u32,
    pub class: Class,
    pub pipe: Pipe,
}

/// What fills a register before the kernel starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// A variable: nothing.
    Var,
    Const(u64),
    Special(Special),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskEq,
    LaneMaskGe,
    LaneMaskGt,
    DynamicSharedSize,
    TotalSharedSize,
    /// Where dynamic shared memory starts.
    DynamicBase,
}

/// One kernel, ready to run.
pub(crate) struct Func {
    pub ops: Vec<Op>,
    pub r32: Vec<Slot>,
    pub r64: Vec<Slot>,
    pub preds: usize,
    /// Names of registers, for messages: `[32-bit, 64-bit, predicates]`.
    pub names: [Vec<String>; 3],
    pub static_shared: u32,
    /// Where dynamic shared memory starts.
    pub dynamic_base: u32,
    pub param_bytes: usize,
    pub reqntid: Option<[u32; 3]>,
    pub max_threads: Option<u32>,
}
