//! One warp: registers of 32 lanes, who is where.

use super::copy::Copies;
use super::{Hit, Run, lanes};
use crate::FaultKind;
use crate::op::{Addr, Func, Ix, L, PredRef, Reg, W};

/// What a warp waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// At this barrier.
    Waiting(usize),
    Done,
}

pub(crate) struct Warp<'a> {
    pub func: &'a Func,
    pub id: usize,
    pub r32: Vec<L>,
    pub r64: Vec<W>,
    pub pr: Vec<u32>,
    /// Lanes whose register was written.
    i32: Vec<u32>,
    i64: Vec<u32>,
    ip: Vec<u32>,
    pub carry: u32,
    pub pc: u32,
    /// Lanes that execute now.
    pub active: u32,
    /// Lanes that have not exited.
    pub alive: u32,
    /// Lanes that ever were.
    pub exists: u32,
    /// Other groups of lanes, each at its own instruction.
    pub others: Vec<(u32, u32)>,
    pub copies: Copies,
    pub state: State,
}

impl<'a> Warp<'a> {
    pub fn new(func: &'a Func, id: usize, exists: u32) -> Warp<'a> {
        Warp {
            func,
            id,
            r32: vec![[0; 32]; func.r32.len()],
            r64: vec![[0; 32]; func.r64.len()],
            pr: vec![0; func.preds],
            i32: vec![0; func.r32.len()],
            i64: vec![0; func.r64.len()],
            ip: vec![0; func.preds],
            carry: 0,
            pc: 0,
            active: exists,
            alive: exists,
            exists,
            others: Vec::new(),
            copies: Copies::default(),
            state: State::Ready,
        }
    }

    /// At the kernel's start; `preloaded` gives what fills a register.
    pub fn start(&mut self) {
        use crate::op::Slot;
        for (i, s) in self.i32.iter_mut().zip(&self.func.r32) {
            *i = if *s == Slot::Var { 0 } else { !0 };
        }
        for (i, s) in self.i64.iter_mut().zip(&self.func.r64) {
            *i = if *s == Slot::Var { 0 } else { !0 };
        }
        self.ip.fill(0);
        self.pc = 0;
        (self.active, self.alive) = (self.exists, self.exists);
        self.others.clear();
        self.copies = Copies::default();
        self.state = State::Ready;
    }

    #[cold]
    fn unwritten(&self, file: usize, ix: Ix, miss: u32) -> Hit {
        let name = self.func.names[file].get(ix as usize).map_or("?", String::as_str);
        let lane = miss.trailing_zeros() as usize;
        Hit::new(
            FaultKind::Uninitialised,
            Some(lane),
            format!("register {name} is read before it is written"),
        )
    }

    /// The 32-bit register, which these lanes must have written.
    #[inline]
    pub fn get32(&self, ix: Ix, mask: u32) -> Run<&L> {
        let miss = mask & !self.i32[ix as usize];
        if miss != 0 {
            return Err(self.unwritten(0, ix, miss));
        }
        Ok(&self.r32[ix as usize])
    }

    #[inline]
    pub fn get64(&self, ix: Ix, mask: u32) -> Run<&W> {
        let miss = mask & !self.i64[ix as usize];
        if miss != 0 {
            return Err(self.unwritten(1, ix, miss));
        }
        Ok(&self.r64[ix as usize])
    }

    /// A register of either width as 64-bit lanes.
    pub fn get(&self, r: Reg, mask: u32) -> Run<W> {
        if r.wide {
            return self.get64(r.ix, mask).copied();
        }
        let v = self.get32(r.ix, mask)?;
        Ok(std::array::from_fn(|i| u64::from(v[i])))
    }

    /// The same, into a place that is there already.
    #[inline]
    pub fn get_into(&self, r: Reg, mask: u32, out: &mut W) -> Run<()> {
        if r.wide {
            *out = *self.get64(r.ix, mask)?;
        } else {
            for (o, v) in out.iter_mut().zip(self.get32(r.ix, mask)?) {
                *o = u64::from(*v);
            }
        }
        Ok(())
    }

    #[inline]
    pub fn get_pred(&self, p: PredRef, mask: u32) -> Run<u32> {
        let miss = mask & !self.ip[p.ix as usize];
        if miss != 0 {
            return Err(self.unwritten(2, p.ix, miss));
        }
        let v = self.pr[p.ix as usize];
        Ok(if p.not { !v } else { v })
    }

    #[inline]
    pub fn put32(&mut self, ix: Ix, v: &L, mask: u32) {
        let r = &mut self.r32[ix as usize];
        if mask == !0 {
            *r = *v;
        } else {
            for i in 0..32 {
                r[i] = if mask >> i & 1 == 1 { v[i] } else { r[i] };
            }
        }
        self.i32[ix as usize] |= mask;
    }

    /// A register of either width from 64-bit lanes.
    pub fn put(&mut self, d: Reg, v: &W, mask: u32) {
        if d.wide {
            let r = &mut self.r64[d.ix as usize];
            if mask == !0 {
                *r = *v;
            } else {
                for i in 0..32 {
                    r[i] = if mask >> i & 1 == 1 { v[i] } else { r[i] };
                }
            }
            self.i64[d.ix as usize] |= mask;
        } else {
            let low = std::array::from_fn(|i| v[i] as u32);
            self.put32(d.ix, &low, mask);
        }
    }

    #[inline]
    pub fn put_pred(&mut self, ix: Ix, v: u32, mask: u32) {
        let p = &mut self.pr[ix as usize];
        *p = *p & !mask | v & mask;
        self.ip[ix as usize] |= mask;
    }

    /// These lanes hold nothing sensible any more.
    pub fn forget32(&mut self, ix: Ix, mask: u32) {
        self.i32[ix as usize] &= !mask;
    }

    /// Each lane's address. Shared ones wrap at 32 bits.
    pub fn addresses(&self, a: Addr, mask: u32) -> Run<W> {
        Ok(match a.base {
            None => [a.offset as u64; 32],
            Some(Reg { ix, wide: true }) => {
                let b = self.get64(ix, mask)?;
                std::array::from_fn(|i| b[i].wrapping_add(a.offset as u64))
            }
            Some(Reg { ix, .. }) => {
                let b = self.get32(ix, mask)?;
                std::array::from_fn(|i| u64::from(b[i].wrapping_add(a.offset as u32)))
            }
        })
    }

    /// The group at the lowest instruction goes next; groups at the same one join.
    pub fn settle(&mut self) {
        if self.active != 0 {
            self.others.push((self.pc, self.active));
        }
        let Some(low) = self.others.iter().map(|g| g.0).min() else { return };
        self.pc = low;
        self.active = self.others.iter().filter(|g| g.0 == low).fold(0, |m, g| m | g.1);
        self.others.retain(|g| g.0 != low);
    }

    /// Warp-wide instructions demand that `want` is exactly who executes.
    pub fn converged(&self, mask: u32, want: u32, what: &str) -> Run<()> {
        if mask == want {
            return Ok(());
        }
        let lane = lanes(mask ^ want).next();
        Err(Hit::new(
            FaultKind::DivergentBarrier,
            lane,
            format!(
                "{what} wants lanes {want:#010x}, executed by {mask:#010x} (exited: {:#010x}, elsewhere: {:#010x})",
                self.exists & !self.alive,
                self.alive & !self.active
            ),
        ))
    }
}
