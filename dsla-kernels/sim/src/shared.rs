//! One CTA's shared memory.

use crate::bits::Bits;
use crate::race::{SharedRaces, Touch};
use crate::{FaultKind, exec::Hit};

/// Bytes, what is written, what a cp.async still writes, who touched what.
pub(crate) struct Shared {
    pub data: Vec<u8>,
    pub init: Bits,
    pending: Bits,
    /// Bytes pending.
    pub waiting: usize,
    pub races: Option<SharedRaces>,
}

impl Shared {
    pub fn new(bytes: usize, warps: usize, races: bool) -> Shared {
        Shared {
            data: vec![0xFF; bytes],
            init: Bits::new(bytes),
            pending: Bits::new(bytes),
            waiting: 0,
            races: races.then(|| SharedRaces::new(bytes, warps)),
        }
    }

    /// A new CTA: nothing is written.
    pub fn start(&mut self) {
        self.data.fill(0xFF);
        self.init.reset();
        if self.waiting > 0 {
            self.pending.reset();
            self.waiting = 0;
        }
        if let Some(r) = &mut self.races {
            r.start();
        }
    }

    /// Bounds, pending copies, initialisation of what is read, races. `align`: of the whole access.
    #[inline]
    pub fn check(&mut self, at: u64, n: usize, t: Touch) -> Result<usize, Hit> {
        let lane = Some(t.lane).filter(|l| *l < 32);
        if at.checked_add(n as u64).is_none_or(|e| e > self.data.len() as u64) {
            return Err(Hit::new(
                FaultKind::OutOfBounds,
                lane,
                format!("{n} bytes at shared address {at:#x}, the CTA has {} bytes", self.data.len()),
            ));
        }
        let o = at as usize;
        if !o.is_multiple_of(n.next_power_of_two()) {
            return Err(Hit::new(
                FaultKind::Misaligned,
                lane,
                format!("{n} bytes at shared address {at:#x}, not a multiple of {n}"),
            ));
        }
        if self.waiting > 0 && self.pending.any(o, n) {
            return Err(Hit::new(
                FaultKind::AsyncPending,
                lane,
                format!(
                    "{n} bytes at shared address {at:#x}, where a cp.async has not landed: it wants its wait first"
                ),
            ));
        }
        if !t.write && !self.init.all(o, n) {
            let bad = self.init.first_clear(o, n).unwrap_or(o);
            return Err(Hit::new(
                FaultKind::Uninitialised,
                lane,
                format!("{n} bytes at shared address {at:#x}: byte {bad:#x} was never written"),
            ));
        }
        if let Some(r) = &mut self.races
            && let Err(c) = r.touch(o, n, t)
        {
            let who = match c.lane {
                Some(l) => format!("thread {}", c.warp * 32 + l),
                None => format!("several threads of warp {}", c.warp),
            };
            let (kind, how) = match (c.landing, c.wrote) {
                (true, _) => {
                    (FaultKind::AsyncPending, "copied by cp.async, waited for, but no barrier since")
                }
                (_, true) => (FaultKind::SharedRace, "written"),
                _ => (FaultKind::SharedRace, "read"),
            };
            let what = if t.write { "write" } else { "read" };
            return Err(Hit::new(
                kind,
                lane,
                format!("{what} of {n} bytes at shared address {at:#x}, {how} by {who}, not ordered"),
            ));
        }
        if t.write {
            self.init.set(o, n);
        }
        Ok(o)
    }

    /// A cp.async to here is under way: its bytes are nobody's until it lands. Where it lands is checked now, as a write.
    pub fn promise(&mut self, at: u64, n: usize, warp: usize, lane: usize) -> Result<usize, Hit> {
        let written = usize::try_from(at).is_ok_and(|o| o + n <= self.data.len() && self.init.all(o, n));
        let o = self.check(at, n, Touch { warp, lane, write: true, landing: true, strong: false })?;
        if !written {
            self.init.clear(o, n);
        }
        self.pending.set(o, n);
        self.waiting += n;
        Ok(o)
    }

    /// It has landed: the thread that issued it wrote these bytes now.
    pub fn land(&mut self, o: usize, bytes: &[u8], warp: usize, lane: usize) {
        let n = bytes.len();
        self.pending.clear(o, n);
        self.waiting -= n;
        self.init.set(o, n);
        self.data[o..o + n].copy_from_slice(bytes);
        if let Some(r) = &mut self.races {
            r.land(o, n, warp, lane);
        }
    }
}
