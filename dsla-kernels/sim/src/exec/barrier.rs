//! bar.sync, bar.arrive.

use super::warp::State;
use super::{Env, Hit, Run, Warp, lanes};
use crate::FaultKind;
use crate::op::Reg;

/// One of a CTA's sixteen barriers.
#[derive(Clone, Default)]
pub(crate) struct Bar {
    /// Warps that have arrived.
    arrived: u32,
    /// Of these, the warps that wait.
    waiting: Vec<usize>,
    /// Threads expected; 0: none has arrived.
    want: u32,
    /// Without a count: all of the CTA.
    whole: bool,
    joined: [u32; 32],
}

impl Env<'_> {
    fn uniform(&self, w: &Warp, r: Reg, mask: u32) -> Run<u32> {
        let v = w.get(r, mask)?;
        let first = v[mask.trailing_zeros() as usize];
        match lanes(mask).find(|i| v[*i] != first) {
            None => Ok(first as u32),
            Some(i) => Err(Hit::new(
                FaultKind::DivergentBarrier,
                Some(i),
                format!("barrier operand {} here, {first} in another lane", v[i]),
            )),
        }
    }

    /// A warp at a barrier; its state says whether it waits.
    pub fn barrier(&mut self, w: &mut Warp, id: Reg, count: Option<Reg>, wait: bool, mask: u32) -> Run<()> {
        w.converged(mask, w.alive, "a barrier")?;
        let id = self.uniform(w, id, mask)? as usize;
        let count = match count {
            Some(c) => Some(self.uniform(w, c, mask)?),
            None => None,
        };
        let hit = |kind, detail: String| Err(Hit::new(kind, None, detail));
        if id > 15 {
            return hit(FaultKind::DivergentBarrier, format!("barrier {id} of 16"));
        }
        if let Some(c) = count
            && (c == 0 || c % 32 != 0 || c as usize > self.warps * 32)
        {
            let detail = format!("barrier {id} of {c} threads: want a multiple of 32, at most the CTA's");
            return hit(FaultKind::DivergentBarrier, detail);
        }
        if count.is_none() && self.exited > 0 {
            let detail =
                format!("barrier {id} of the whole CTA after {} of its threads have exited", self.exited);
            return hit(FaultKind::DivergentBarrier, detail);
        }
        let whole = count.is_none();
        let want = count.unwrap_or(self.warps as u32 * 32);
        let bar = &mut self.bars[id];
        if bar.want != 0 && bar.want != want {
            let detail = format!("barrier {id} of {want} threads, while others are there for {}", bar.want);
            return hit(FaultKind::DivergentBarrier, detail);
        }
        if bar.arrived >> w.id & 1 == 1 {
            return hit(FaultKind::DivergentBarrier, format!("warp {} arrives twice at barrier {id}", w.id));
        }
        bar.want = want;
        bar.whole |= whole;
        bar.arrived |= 1 << w.id;
        if let Some(r) = &mut self.shared.races {
            r.arrive(w.id, &mut bar.joined);
        }
        if wait {
            bar.waiting.push(w.id);
            w.state = State::Waiting(id);
        }
        if bar.arrived.count_ones() * 32 >= want {
            let done = std::mem::take(bar);
            for v in done.waiting {
                if let Some(r) = &mut self.shared.races {
                    r.leave(v, &done.joined);
                }
                self.released.push(v);
            }
        }
        Ok(())
    }

    /// Lanes exit: nobody may be waiting for the whole CTA.
    pub fn exit(&mut self, w: &Warp, mask: u32) -> Run<()> {
        self.exited += mask.count_ones();
        if let Some(i) = self.bars.iter().position(|b| b.whole && b.want != 0) {
            let bar = &self.bars[i];
            let detail = format!(
                "lanes {mask:#010x} of warp {} exit while warps {:?} wait at barrier {i} for the whole CTA",
                w.id, bar.waiting
            );
            return Err(Hit::new(FaultKind::DivergentBarrier, lanes(mask).next(), detail));
        }
        Ok(())
    }
}
