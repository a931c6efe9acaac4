//! What all warps of a launch share.

use super::barrier::Bar;
use crate::bits::Bits;
use crate::memory::{Memory, STRIPE};
use crate::op::{Func, W};
use crate::race::{GlobalRaces, Shadow};
use crate::shared::Shared;
use crate::{Counters, FaultKind, Options};
use std::collections::HashMap;

use super::{Hit, Run, mix};

/// One allocation's use in this launch.
struct Use {
    read: Bits,
    written: Bits,
    shadow: Option<Shadow>,
}

/// Distinct bytes and races, over all allocations.
pub(crate) struct Track {
    index: HashMap<u64, usize>,
    uses: Vec<Use>,
    last: (u64, usize),
    pub races: Option<GlobalRaces>,
}

impl Track {
    fn of(&mut self, id: u64, bytes: usize) -> usize {
        if self.last.0 == id {
            return self.last.1;
        }
        let races = self.races.is_some();
        let uses = &mut self.uses;
        let i = *self.index.entry(id).or_insert_with(|| {
            let shadow = races.then(|| Shadow::new(bytes));
            uses.push(Use { read: Bits::new(bytes), written: Bits::new(bytes), shadow });
            uses.len() - 1
        });
        self.last = (id, i);
        i
    }

    pub fn unique(&self) -> (u64, u64) {
        self.uses.iter().fold((0, 0), |s, u| (s.0 + u.read.count(), s.1 + u.written.count()))
    }
}

pub(crate) struct Env<'a> {
    pub func: &'a Func,
    pub mem: &'a mut Memory,
    pub track: Track,
    pub shared: Shared,
    pub bars: [Bar; 16],
    pub options: &'a Options,
    pub params: &'a [u8],
    pub counters: Counters,
    /// Executions of each instruction.
    pub counts: Vec<u64>,
    /// L1 and shared-memory wavefronts: the load-store unit's work.
    pub wavefronts: u64,
    pub steps: u64,
    pub rng: u64,
    /// Operands of the instruction at hand.
    pub scratch: Box<[W; 4]>,
    /// Linear index of the CTA.
    pub cta: u64,
    pub warps: usize,
    /// Warps at barriers.
    pub released: Vec<usize>,
    /// Lanes of this CTA that have exited.
    pub exited: u32,
}

/// One global access.
#[derive(Clone, Copy)]
pub(crate) struct Touched {
    pub read: bool,
    pub write: bool,
    pub strong: bool,
}

impl<'a> Env<'a> {
    pub fn new(
        func: &'a Func,
        mem: &'a mut Memory,
        options: &'a Options,
        params: &'a [u8],
        shared: Shared,
    ) -> Env<'a> {
        Env {
            func,
            mem,
            track: Track {
                index: HashMap::new(),
                uses: Vec::new(),
                last: (u64::MAX, 0),
                races: options.races.then(GlobalRaces::new),
            },
            shared,
            bars: std::array::from_fn(|_| Bar::default()),
            options,
            params,
            counters: Counters::default(),
            counts: vec![0; func.ops.len()],
            wavefronts: 0,
            steps: 0,
            rng: options.schedule,
            scratch: Box::new([[0; 32]; 4]),
            cta: 0,
            warps: 0,
            released: Vec::new(),
            exited: 0,
        }
    }

    pub fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.rng)
    }

    /// Check and record one lane's access to `n` bytes of global memory; the bytes.
    #[inline]
    pub fn global(&mut self, address: u64, n: usize, lane: usize, t: Touched) -> Run<&mut [u8]> {
        if !address.is_multiple_of(n as u64) {
            let detail = format!("{n} bytes at global address {address:#x}, not a multiple of {n}");
            return Err(Hit::new(FaultKind::Misaligned, Some(lane), detail));
        }
        let (alloc, o) = match self.mem.find(address, n) {
            Ok(found) => found,
            Err(why) => {
                let detail = format!("{n} bytes at global address {address:#x}: {why}");
                return Err(Hit::new(FaultKind::OutOfBounds, Some(lane), detail));
            }
        };
        if t.read && !alloc.init.all(o, n) {
            let bad = alloc.init.first_clear(o, n).unwrap_or(o);
            let detail = format!(
                "{n} bytes at global address {address:#x}: byte {bad} of an allocation of {} was never written",
                alloc.data.len()
            );
            return Err(Hit::new(FaultKind::Uninitialised, Some(lane), detail));
        }
        let i = self.track.of(address >> STRIPE, alloc.data.len());
        let u = &mut self.track.uses[i];
        if let (Some(races), Some(shadow)) = (&mut self.track.races, &mut u.shadow)
            && let Err((other, wrote)) = races.touch(shadow, o, n, t.write, t.strong)
        {
            let who = other.map_or("several CTAs".to_string(), |c| format!("CTA {c}"));
            let what = if t.write { "write" } else { "read" };
            let how = if wrote { "written" } else { "read" };
            let detail = format!(
                "{what} of {n} bytes at global address {address:#x} (byte {o} of {}), {how} by {who}, not ordered",
                alloc.data.len()
            );
            return Err(Hit::new(FaultKind::GlobalRace, Some(lane), detail));
        }
        if t.read {
            u.read.set(o, n);
        }
        if t.write {
            u.written.set(o, n);
            alloc.init.set(o, n);
        }
        Ok(&mut alloc.data[o..o + n])
    }
}
