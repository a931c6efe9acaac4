//! Who touched what: races in shared memory between threads, in global memory between CTAs.

use std::collections::HashMap;

/// Times fit in 26 bits beside a lane.
const TIME_LIMIT: u32 = (1 << 26) - 2;
/// log2 of the bytes of a granule before the first access that needs finer ones.
const COARSE: u32 = 4;
/// The lane of a read by several lanes.
const MANY: u32 = 63;

/// One access to shared memory.
#[derive(Clone, Copy)]
pub(crate) struct Touch {
    pub warp: usize,
    /// 32: the warp as a whole.
    pub lane: usize,
    pub write: bool,
    /// The landing of a cp.async.
    pub landing: bool,
    /// An atomic or otherwise strong access.
    pub strong: bool,
}

/// The other side of a race.
pub(crate) struct Clash {
    pub warp: usize,
    /// None: several lanes.
    pub lane: Option<usize>,
    pub wrote: bool,
    pub landing: bool,
}

/// Happens-before in shared memory, by vector clocks of warps.
///
/// `now` counts synchronisations. An access by warp `v` at time `t` is ordered before warp `w` when `t < seen[w][v]`: barriers
/// raise `seen`. Within a warp it is ordered when a warp-wide `.sync` or `.aligned` instruction came later: `t < own[w]`.
pub(crate) struct SharedRaces {
    /// log2 of the bytes of one granule: as fine as the finest access so far.
    shift: u32,
    bytes: usize,
    /// time << 32 | thread << 2 | landing << 1 | strong
    writer: Vec<u64>,
    /// Per warp and granule: time << 6 | lane
    readers: Vec<Vec<u32>>,
    now: u32,
    own: [u32; 32],
    seen: [[u32; 32]; 32],
}

impl SharedRaces {
    pub fn new(bytes: usize, warps: usize) -> SharedRaces {
        let g = bytes.div_ceil(1 << COARSE);
        SharedRaces {
            shift: COARSE,
            bytes,
            writer: vec![0; g],
            readers: vec![vec![0; g]; warps],
            now: 0,
            own: [0; 32],
            seen: [[0; 32]; 32],
        }
    }

    /// Everything before is ordered before everything after.
    pub fn start(&mut self) {
        if self.now > TIME_LIMIT / 2 {
            self.writer.fill(0);
            self.readers.iter_mut().for_each(|r| r.fill(0));
            self.now = 0;
        }
        self.now += 1;
        self.own = [self.now; 32];
        self.seen = [[self.now; 32]; 32];
    }

    /// A warp-wide instruction.
    pub fn warp_sync(&mut self, warp: usize) {
        if self.now >= TIME_LIMIT {
            self.start();
        }
        self.now += 1;
        self.own[warp] = self.now;
    }

    /// `warp` arrives at a barrier; `joined` is what the barrier knows.
    pub fn arrive(&mut self, warp: usize, joined: &mut [u32; 32]) {
        self.warp_sync(warp);
        for (j, s) in joined.iter_mut().zip(&self.seen[warp]) {
            *j = (*j).max(*s);
        }
        joined[warp] = joined[warp].max(self.now);
    }

    /// `warp` leaves the barrier.
    pub fn leave(&mut self, warp: usize, joined: &[u32; 32]) {
        for (s, j) in self.seen[warp].iter_mut().zip(joined) {
            *s = (*s).max(*j);
        }
    }

    #[cold]
    fn refine(&mut self, shift: u32) {
        let times = 1 << (self.shift - shift);
        let g = self.bytes.div_ceil(1 << shift);
        self.writer = (0..g).map(|i| self.writer[i / times]).collect();
        for r in &mut self.readers {
            *r = (0..g).map(|i| r[i / times]).collect();
        }
        self.shift = shift;
    }

    /// A copy lands: nobody has touched the bytes since they were promised, when `touch` checked them.
    pub fn land(&mut self, at: usize, n: usize, warp: usize, lane: usize) {
        let first = at >> self.shift;
        let thread = (warp * 33 + lane) as u64;
        self.writer[first..first + (n >> self.shift)].fill(u64::from(self.now) << 32 | thread << 2 | 2);
    }

    /// Record an access of `n` bytes, or say whom it races with.
    pub fn touch(&mut self, at: usize, n: usize, t: Touch) -> Result<(), Clash> {
        let fine = ((at | n).trailing_zeros()).min(self.shift);
        if fine < self.shift {
            self.refine(fine);
        }
        let (w, lane) = (t.warp, t.lane);
        let first = at >> self.shift;
        let range = first..first + (n >> self.shift);
        let mut checked = 0;
        for &e in &self.writer[range.clone()] {
            if e == checked || t.strong && e & 1 == 1 {
                continue;
            }
            checked = e;
            let (time, thread) = ((e >> 32) as u32, (e >> 2) as usize & 0xFFFF);
            let (ow, ol) = (thread / 33, thread % 33);
            let ordered = if ow == w { ol == lane || time < self.own[w] } else { time < self.seen[w][ow] };
            if e != 0 && !ordered {
                let lane = (ol < 32).then_some(ol);
                return Err(Clash { warp: ow, lane, wrote: true, landing: e & 2 != 0 });
            }
        }
        if t.write {
            for (v, readers) in self.readers.iter().enumerate() {
                let limit = if v == w { self.own[w] } else { self.seen[w][v] };
                for &r in &readers[range.clone()] {
                    let (time, ol) = (r >> 6, r & MANY);
                    if time >= limit && r != 0 && (v != w || ol != lane as u32) {
                        let lane = (ol < 32).then_some(ol as usize);
                        return Err(Clash { warp: v, lane, wrote: false, landing: false });
                    }
                }
            }
            let thread = (w * 33 + lane) as u64;
            let flags = u64::from(t.landing) << 1 | u64::from(t.strong);
            self.writer[range].fill(u64::from(self.now) << 32 | thread << 2 | flags);
        } else if !t.strong {
            let own = self.own[w];
            for r in &mut self.readers[w][range] {
                let other = *r != 0 && *r >> 6 >= own && *r & MANY != lane as u32;
                *r = self.now << 6 | if other || lane > 31 { MANY } else { lane as u32 };
            }
        }
        Ok(())
    }
}

const STRONG: u32 = 1 << 31;
const SEVERAL: u32 = STRONG - 1;

/// Readers and writers of one allocation in one launch, by interval.
pub(crate) struct Shadow {
    shift: u32,
    bytes: usize,
    writer: Vec<u32>,
    reader: Vec<u32>,
}

impl Shadow {
    pub fn new(bytes: usize) -> Shadow {
        let g = bytes.div_ceil(1 << COARSE);
        Shadow { shift: COARSE, bytes, writer: vec![0; g], reader: vec![0; g] }
    }

    fn refine(&mut self, shift: u32) {
        let times = 1 << (self.shift - shift);
        let g = self.bytes.div_ceil(1 << shift);
        for v in [&mut self.writer, &mut self.reader] {
            *v = (0..g).map(|i| v[i / times]).collect();
        }
        self.shift = shift;
    }
}

/// A set of small numbers.
#[derive(Clone, Default)]
struct Set(Vec<u64>);

impl Set {
    fn add(&mut self, i: u32) {
        let w = i as usize / 64;
        if self.0.len() <= w {
            self.0.resize(w + 1, 0);
        }
        self.0[w] |= 1 << (i % 64);
    }
    fn has(&self, i: u32) -> bool {
        self.0.get(i as usize / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }
    fn join(&mut self, other: &Set) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Happens-before between CTAs.
///
/// A CTA's accesses fall into intervals that its fences end. An atomic (or a release store) after a fence publishes the
/// intervals before that fence, and all that the CTA itself has seen, at its address; an atomic (or strong load) of the same
/// address by another CTA sees them. So a last-block reduction is clean exactly when the fence stands between the partial
/// results and the ticket. Not modelled: which thread of the CTA fenced, and scopes.
pub(crate) struct GlobalRaces {
    /// The CTA of each interval; 0 is none.
    intervals: Vec<u32>,
    cta: u32,
    dirty: bool,
    fenced: Set,
    known: Set,
    published: HashMap<u64, Set>,
}

impl GlobalRaces {
    pub fn new() -> GlobalRaces {
        GlobalRaces {
            intervals: vec![u32::MAX],
            cta: 0,
            dirty: false,
            fenced: Set::default(),
            known: Set::default(),
            published: HashMap::new(),
        }
    }

    pub fn start(&mut self, cta: u32) {
        self.cta = cta;
        self.fenced = Set::default();
        self.known = Set::default();
        self.open();
    }

    fn open(&mut self) {
        self.intervals.push(self.cta);
        self.dirty = false;
    }

    pub fn fence(&mut self) {
        if self.dirty {
            self.fenced.add(self.intervals.len() as u32 - 1);
            self.open();
        }
    }

    /// A strong access to `address`.
    pub fn strong(&mut self, address: u64, writes: bool, release: bool) {
        if let Some(s) = self.published.get(&address) {
            self.known.join(s);
        }
        if release {
            self.fence();
        }
        if writes && !(self.fenced.is_empty() && self.known.is_empty()) {
            let s = self.published.entry(address).or_default();
            s.join(&self.fenced);
            s.join(&self.known);
        }
    }

    fn ordered(&self, interval: u32) -> bool {
        self.intervals[interval as usize] == self.cta || self.known.has(interval)
    }

    /// Record an access, or name the CTA it races with (None: several) and whether that one wrote.
    pub fn touch(
        &mut self,
        s: &mut Shadow,
        at: usize,
        n: usize,
        write: bool,
        strong: bool,
    ) -> Result<(), (Option<u32>, bool)> {
        let fine = ((at | n).trailing_zeros()).min(s.shift);
        if fine < s.shift {
            s.refine(fine);
        }
        self.dirty = true;
        let me = self.intervals.len() as u32 - 1;
        let first = at >> s.shift;
        for g in first..first + (n >> s.shift) {
            let w = s.writer[g];
            let by = w & !STRONG;
            let fine = w == 0 || by == me || strong && w != by || self.ordered(by);
            if !fine {
                return Err((Some(self.intervals[by as usize]), true));
            }
            let r = s.reader[g];
            if write {
                if r == SEVERAL {
                    return Err((None, false));
                }
                if r != 0 && r != me && !self.ordered(r) {
                    return Err((Some(self.intervals[r as usize]), false));
                }
                s.writer[g] = me | if strong { STRONG } else { 0 };
            } else if !strong && r != me && r != SEVERAL {
                s.reader[g] = if r == 0 || self.ordered(r) { me } else { SEVERAL };
            }
        }
        Ok(())
    }
}
