//! Instructions whose lanes see one another.

use super::{Env, Hit, Run, Warp, lanes};
use crate::FaultKind;
use crate::op::{Ix, L, PredRef, Reg, Shfl, Vote};

impl Env<'_> {
    /// The member mask: equal in all lanes, and exactly the lanes that execute. Lanes that a partial last warp never had
    /// may be named.
    pub fn members(&self, w: &Warp, ix: Ix, mask: u32, what: &str) -> Run<u32> {
        let m = w.get32(ix, mask)?;
        let first = m[mask.trailing_zeros() as usize];
        if let Some(i) = lanes(mask).find(|i| m[*i] != first) {
            let detail = format!("{what}: member mask {:#010x} here, {first:#010x} in another lane", m[i]);
            return Err(Hit::new(FaultKind::DivergentBarrier, Some(i), detail));
        }
        w.converged(mask, first & w.exists, what)?;
        Ok(first & w.exists)
    }

    pub fn shuffle(
        &mut self,
        w: &mut Warp,
        mode: Shfl,
        (d, p): (Ix, Option<Ix>),
        (a, b, c): (Ix, Ix, Ix),
        mask: u32,
    ) -> Run<()> {
        let src = *w.get32(a, mask)?;
        let b = w.get32(b, mask)?;
        let c = w.get32(c, mask)?;
        let mut out: L = src;
        let (mut valid, mut lost) = (0u32, 0u32);
        for i in lanes(mask) {
            let lane = i as u32;
            let (bval, cval, seg) = (b[i] & 31, c[i] & 31, c[i] >> 8 & 31);
            let max = lane & seg | cval & !seg;
            let min = lane & seg;
            let (j, ok) = match mode {
                Shfl::Up => {
                    let j = lane.wrapping_sub(bval);
                    (j, j as i32 >= max as i32)
                }
                Shfl::Down => (lane + bval, lane + bval <= max),
                Shfl::Bfly => (lane ^ bval, lane ^ bval <= max),
                Shfl::Idx => {
                    let j = min | bval & !seg;
                    (j, j <= max)
                }
            };
            let j = if ok { j & 31 } else { lane };
            valid |= u32::from(ok) << i;
            if mask >> j & 1 == 1 {
                out[i] = src[j as usize];
            } else {
                lost |= 1 << i;
            }
        }
        w.put32(d, &out, mask);
        // What comes from a lane that takes no part is undefined.
        w.forget32(d, lost);
        if let Some(p) = p {
            w.put_pred(p, valid, mask);
        }
        Ok(())
    }

    pub fn vote(&mut self, w: &mut Warp, mode: Vote, d: Ix, p: PredRef, mask: u32) -> Run<()> {
        let v = w.get_pred(p, mask)? & mask;
        match mode {
            Vote::Ballot => w.put32(d, &[v; 32], mask),
            Vote::All => w.put_pred(d, if v == mask { !0 } else { 0 }, mask),
            Vote::Any => w.put_pred(d, if v != 0 { !0 } else { 0 }, mask),
            Vote::Uni => w.put_pred(d, if v == mask || v == 0 { !0 } else { 0 }, mask),
        }
        Ok(())
    }

    pub fn matching(&mut self, w: &mut Warp, all: bool, d: Ix, p: Option<Ix>, a: Reg, mask: u32) -> Run<()> {
        let v = w.get(a, mask)?;
        let mut out: L = [0; 32];
        for i in lanes(mask) {
            out[i] = lanes(mask).filter(|j| v[*j] == v[i]).fold(0, |m, j| m | 1 << j);
        }
        if all {
            let same = lanes(mask).all(|i| out[i] == mask);
            w.put32(d, &[if same { mask } else { 0 }; 32], mask);
            if let Some(p) = p {
                w.put_pred(p, if same { !0 } else { 0 }, mask);
            }
        } else {
            w.put32(d, &out, mask);
        }
        Ok(())
    }

    pub fn reduce(&mut self, w: &mut Warp, f: fn(u32, u32) -> u32, d: Ix, a: Ix, mask: u32) -> Run<()> {
        let v = w.get32(a, mask)?;
        let all = lanes(mask).map(|i| v[i]).reduce(f).unwrap_or(0);
        w.put32(d, &[all; 32], mask);
        Ok(())
    }
}
