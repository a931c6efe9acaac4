//! Atomics.

use super::{Env, Run, Warp, lanes};
use crate::op::{A3, Addr, Order, Reg, Space};

impl Env<'_> {
    /// atom and red: lanes one after the other, in a random order under a schedule.
    pub fn atomic(
        &mut self,
        w: &mut Warp,
        (space, size): (Space, u8),
        f: A3,
        d: Option<Reg>,
        addr: Addr,
        b: Reg,
        c: Option<Reg>,
        order: Order,
        mask: u32,
    ) -> Run<()> {
        let addr = w.addresses(addr, mask)?;
        let b = w.get(b, mask)?;
        let c = match c {
            Some(c) => w.get(c, mask)?,
            None => b,
        };
        let size = usize::from(size);
        match space {
            Space::Global => self.global_traffic(&addr, mask, size, true),
            Space::Shared => self.shared_traffic(&addr, mask, size),
        }
        if space == Space::Global
            && let Some(r) = &mut self.track.races
        {
            for i in lanes(mask) {
                r.strong(addr[i], true, order.release);
            }
        }
        let first = if self.options.schedule == 0 { 0 } else { self.random() as usize % 32 };
        let mut old = [0; 32];
        for k in 0..32 {
            let i = (k + first) % 32;
            if mask >> i & 1 == 1 {
                old[i] = self.update(w, space, addr[i], size, i, |o| f(o, b[i], c[i]))?;
            }
        }
        if let Some(d) = d {
            w.put(d, &old, mask);
        }
        Ok(())
    }
}
