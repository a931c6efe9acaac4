//! One instruction after the other.

use super::access::extend;
use super::warp::State;
use super::{Env, Hit, Run, Warp, lanes, mix};
use crate::FaultKind;
use crate::num::{approx, approx_half, cvt, div_approx, fp32, fp64, pack2};
use crate::op::{Class, CmpFn, CmpTo, Ix, Kind, L, Op, Reg, W};

impl<'a> Env<'a> {
    /// Run a warp until it blocks, is done, or `slice` instructions are spent.
    pub fn run_warp(&mut self, w: &mut Warp<'a>, mut slice: u64) -> Run<()> {
        let ops = &self.func.ops;
        while w.state == State::Ready && slice > 0 {
            slice -= 1;
            let pc = w.pc as usize;
            let op = &ops[pc];
            let mut mask = w.active;
            if let Some(g) = op.guard {
                mask &= w.get_pred(g, mask)?;
            }
            self.counts[pc] += 1;
            self.counters.active_lanes += u64::from(mask.count_ones());
            self.steps += 1;
            if self.steps > self.options.budget {
                let detail = format!("{} warp instructions are spent", self.options.budget);
                return Err(Hit::new(FaultKind::Budget, None, detail));
            }
            if let Kind::Bra { to, uni } = op.kind {
                self.branch(w, mask, to, uni)?;
                continue;
            }
            if mask != 0 {
                self.execute(w, op, mask, pc)?;
            }
            w.pc += 1;
            if w.active == 0 {
                if w.alive == 0 {
                    w.state = State::Done;
                    return Ok(());
                }
                w.settle();
            } else if !w.others.is_empty() {
                w.settle();
            }
            // Under a schedule, warps change where they could see one another.
            if self.options.schedule != 0
                && matches!(op.class, Class::Shared | Class::Global | Class::Control)
                && self.random().is_multiple_of(4)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn branch(&mut self, w: &mut Warp, taken: u32, to: u32, uni: bool) -> Run<()> {
        let stay = w.active & !taken;
        if taken == 0 {
            w.pc += 1;
        } else if stay == 0 {
            w.pc = to;
        } else {
            if uni {
                let detail = format!("bra.uni taken by lanes {taken:#010x} of {:#010x}", w.active);
                return Err(Hit::new(FaultKind::DivergentBarrier, lanes(taken).next(), detail));
            }
            w.others.push((to, taken));
            w.active = stay;
            w.pc += 1;
        }
        if !w.others.is_empty() {
            w.settle();
        }
        Ok(())
    }

    /// The approximations of this lane are off by this much, if at all.
    fn perturb(&self, w: &Warp, pc: usize, lane: usize) -> Option<u64> {
        self.options
            .perturb
            .map(|s| mix(mix(s ^ self.cta << 16) ^ ((w.id * 32 + lane) as u64) << 32 ^ pc as u64))
    }

    fn sync(&mut self, w: &Warp) {
        if let Some(r) = &mut self.shared.races {
            r.warp_sync(w.id);
        }
    }

    fn execute(&mut self, w: &mut Warp<'a>, op: &Op, mask: u32, pc: usize) -> Run<()> {
        match &op.kind {
            Kind::One(f, d, a) => {
                let mut out = [0; 32];
                f(w.get32(*a, mask)?, &mut out);
                w.put32(*d, &out, mask);
            }
            Kind::Two(f, d, a, b) => {
                let mut out = [0; 32];
                f(w.get32(*a, mask)?, w.get32(*b, mask)?, &mut out);
                w.put32(*d, &out, mask);
            }
            Kind::Three(f, d, a, b, c) => {
                let mut out = [0; 32];
                f(w.get32(*a, mask)?, w.get32(*b, mask)?, w.get32(*c, mask)?, &mut out);
                w.put32(*d, &out, mask);
            }
            Kind::General { f, d, s, n } => {
                let mut out = [0; 32];
                for (v, s) in self.scratch.iter_mut().zip(s).take(usize::from(*n)) {
                    w.get_into(*s, mask, v)?;
                }
                f(&self.scratch, &mut out);
                w.put(*d, &out, mask);
            }
            Kind::Cmp { f, a, b, to, with } => {
                let mut m = match f {
                    CmpFn::Short(f) => f(w.get32(a.ix, mask)?, w.get32(b.ix, mask)?),
                    CmpFn::Long(f) => f(&w.get(*a, mask)?, &w.get(*b, mask)?),
                };
                let mut not = !m;
                if let Some((f, p)) = with {
                    let p = w.get_pred(*p, mask)?;
                    (m, not) = (f(m, p), f(not, p));
                }
                match *to {
                    CmpTo::Pred(p, q) => {
                        if let Some(p) = p {
                            w.put_pred(p, m, mask);
                        }
                        if let Some(q) = q {
                            w.put_pred(q, not, mask);
                        }
                    }
                    CmpTo::Reg(d, v) => {
                        let out = std::array::from_fn(|i| if m >> i & 1 == 1 { v } else { 0 });
                        w.put32(d, &out, mask);
                    }
                }
            }
            Kind::Pred2(f, d, a, b) => {
                let v = f(w.get_pred(*a, mask)?, w.get_pred(*b, mask)?);
                w.put_pred(*d, v, mask);
            }
            Kind::PredConst(d, v) => w.put_pred(*d, if *v { !0 } else { 0 }, mask),
            Kind::Select { d, a, b, p } => {
                // Only the operand that is picked must have been written.
                let p = w.get_pred(*p, mask)?;
                let (x, y) = (w.get(*a, mask & p)?, w.get(*b, mask & !p)?);
                let out = std::array::from_fn(|i| if p >> i & 1 == 1 { x[i] } else { y[i] });
                w.put(*d, &out, mask);
            }
            Kind::Load(a) => self.load(w, a, mask)?,
            Kind::Store(a) => self.store(w, a, mask)?,
            Kind::Mma { kind, a, b, c, d } => {
                w.converged(mask, !0, "mma")?;
                self.sync(w);
                self.mma(w, *kind, a, b, c, d)?;
            }
            Kind::LdMatrix { n, trans, d, addr } => {
                w.converged(mask, !0, "ldmatrix")?;
                self.sync(w);
                self.load_matrix(w, *n, *trans, d, *addr)?;
                self.sync(w);
            }
            Kind::StMatrix { n, trans, s, addr } => {
                w.converged(mask, !0, "stmatrix")?;
                self.sync(w);
                self.store_matrix(w, *n, *trans, s, *addr)?;
                self.sync(w);
            }
            _ => self.rest(w, op, mask, pc)?,
        }
        Ok(())
    }

    fn rest(&mut self, w: &mut Warp<'a>, op: &Op, mask: u32, pc: usize) -> Run<()> {
        match &op.kind {
            Kind::Carry { sub, read, write, d, a, b } => {
                self.carry(w, (*sub, *read, *write), *d, *a, *b, mask)?
            }
            Kind::Pack { d, s, n, size } => {
                let mut out = [0u64; 32];
                for k in 0..usize::from(*n) {
                    let v = w.get(s[k], mask)?;
                    for i in 0..32 {
                        out[i] |= v[i] << (8 * k * usize::from(*size));
                    }
                }
                w.put(*d, &out, mask);
            }
            Kind::Unpack { d, n, size, a } => {
                let v = w.get(*a, mask)?;
                let ones = (1u64 << (8 * size)) - 1;
                for k in 0..usize::from(*n) {
                    if let Some(r) = d[k] {
                        let part = std::array::from_fn(|i| v[i] >> (8 * k * usize::from(*size)) & ones);
                        w.put(r, &part, mask);
                    }
                }
            }
            Kind::Cvt { to, from, round, sat, ftz, relu, d, a, sext } => {
                let v = w.get(*a, mask)?;
                let size = to.bits() as usize / 8;
                let mut out = [0; 32];
                for i in lanes(mask) {
                    let r = cvt(*to, *from, *round, *sat, *ftz, *relu, v[i]);
                    out[i] = extend(r, size, *sext * 8);
                }
                w.put(*d, &out, mask);
            }
            Kind::Pack2 { to, round, relu, d, hi, lo } => {
                let (h, l) = (w.get32(*hi, mask)?, w.get32(*lo, mask)?);
                let mut out = [0; 32];
                for i in lanes(mask) {
                    out[i] = pack2(*to, *round, f32::from_bits(h[i]), f32::from_bits(l[i]), *relu);
                }
                w.put32(*d, &out, mask);
            }
            Kind::Approx { op, ftz, d, a } => {
                let v = w.get32(*a, mask)?;
                let mut out: L = [0; 32];
                for i in lanes(mask) {
                    out[i] = approx(*op, *ftz, f32::from_bits(v[i]), self.perturb(w, pc, i)).to_bits();
                }
                w.put32(*d, &out, mask);
            }
            Kind::Approx16 { op, kind, ftz, halves, d, a } => {
                let v = w.get32(*a, mask)?;
                let mut out: L = [0; 32];
                for i in lanes(mask) {
                    for h in 0..*halves {
                        let p = self.perturb(w, pc, i).map(|p| mix(p + u64::from(h)));
                        let r = approx_half(*op, *kind, *ftz, (v[i] >> (16 * h)) as u16, p);
                        out[i] |= u32::from(r) << (16 * h);
                    }
                }
                w.put32(*d, &out, mask);
            }
            Kind::Rounded { op, round, ftz, sat, d, s } => {
                let (a, b, c) = (w.get(s[0], mask)?, w.get(s[1], mask)?, w.get(s[2], mask)?);
                let mut out = [0; 32];
                for i in lanes(mask) {
                    out[i] = if d.wide {
                        let f = f64::from_bits;
                        fp64(*op, *round, f(a[i]), f(b[i]), f(c[i])).to_bits()
                    } else {
                        let f = |v: u64| f32::from_bits(v as u32);
                        u64::from(fp32(*op, *round, *ftz, *sat, f(a[i]), f(b[i]), f(c[i])).to_bits())
                    };
                }
                w.put(*d, &out, mask);
            }
            Kind::DivApprox { full, ftz, d, a, b } => {
                let (x, y) = (w.get32(*a, mask)?, w.get32(*b, mask)?);
                let mut out: L = [0; 32];
                for i in lanes(mask) {
                    let p = self.perturb(w, pc, i);
                    out[i] = div_approx(f32::from_bits(x[i]), f32::from_bits(y[i]), *full, *ftz, p).to_bits();
                }
                w.put32(*d, &out, mask);
            }
            Kind::LdParam { offset, size, n, extend, d } => {
                self.load_param(w, *offset, *size, *n, *extend, d, mask)?;
            }
            Kind::Atom { space, size, f, d, addr, b, c, order } => {
                self.atomic(w, (*space, *size), *f, *d, *addr, *b, *c, *order, mask)?;
            }
            Kind::Prefetch(a) => self.prefetch(w, *a, mask)?,
            Kind::CpAsync { dst, src, size, src_size } => {
                self.copy_async(w, *dst, *src, *size, *src_size, mask)?;
            }
            Kind::CpCommit => w.copies.commit(mask),
            Kind::CpWait(keep) => self.copy_wait(w, *keep, mask),
            Kind::Exit => {
                w.alive &= !mask;
                w.active &= !mask;
                self.exit(w, mask)?;
            }
            Kind::Trap => return Err(Hit::new(FaultKind::Trap, lanes(mask).next(), "trap".to_string())),
            Kind::Clock(d) => {
                let now = self.steps;
                let now = if d.wide { now } else { now & 0xFFFF_FFFF };
                w.put(*d, &[now; 32], mask);
            }
            Kind::ActiveMask(d) => w.put32(*d, &[mask; 32], mask),
            Kind::Fence(far) => {
                if *far && let Some(r) = &mut self.track.races {
                    r.fence();
                }
            }
            Kind::Bar { id, count, wait } => self.barrier(w, *id, *count, *wait, mask)?,
            _ => self.together(w, op, mask)?,
        }
        Ok(())
    }

    /// Instructions with a member mask.
    fn together(&mut self, w: &mut Warp<'a>, op: &Op, mask: u32) -> Run<()> {
        let (ix, what): (Ix, &str) = match &op.kind {
            Kind::Shfl { mask, .. } => (*mask, "shfl.sync"),
            Kind::Vote { mask, .. } => (*mask, "vote.sync"),
            Kind::Match { mask, .. } => (*mask, "match.sync"),
            Kind::Redux { mask, .. } => (*mask, "redux.sync"),
            Kind::BarWarp(mask) => (*mask, "bar.warp.sync"),
            _ => return Ok(()),
        };
        self.members(w, ix, mask, what)?;
        self.sync(w);
        match &op.kind {
            Kind::Shfl { mode, d, p, a, b, c, .. } => self.shuffle(w, *mode, (*d, *p), (*a, *b, *c), mask),
            Kind::Vote { mode, d, p, .. } => self.vote(w, *mode, *d, *p, mask),
            Kind::Match { all, d, p, a, .. } => self.matching(w, *all, *d, *p, *a, mask),
            Kind::Redux { f, d, a, .. } => self.reduce(w, *f, *d, *a, mask),
            _ => Ok(()),
        }
    }

    fn carry(
        &mut self,
        w: &mut Warp,
        (sub, read, write): (bool, bool, bool),
        d: Reg,
        a: Reg,
        b: Reg,
        mask: u32,
    ) -> Run<()> {
        let (x, y) = (w.get(a, mask)?, w.get(b, mask)?);
        let mut out: W = [0; 32];
        let mut flags = 0u32;
        for i in 0..32 {
            let cin = u128::from(read && w.carry >> i & 1 == 1);
            let bits = if d.wide { 64 } else { 32 };
            let (p, q) = (u128::from(x[i]), u128::from(y[i]));
            // The flag is a borrow after a subtraction.
            let r = if sub { p.wrapping_sub(q).wrapping_sub(cin) } else { p + q + cin };
            out[i] = if bits == 64 { r as u64 } else { r as u32 as u64 };
            flags |= ((r >> bits & 1) as u32) << i;
        }
        if write {
            w.carry = w.carry & !mask | flags & mask;
        }
        w.put(d, &out, mask);
        Ok(())
    }
}
