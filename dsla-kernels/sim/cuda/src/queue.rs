//! Work that waits: a graph of operations, each after the ones it must follow, run in a seeded order.

use crate::capture::Node;
use crate::code::{Code, Outcome};
use crate::state::{Handle, State};
use crate::wire::{FaultInfo, LaunchInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A kernel launch, complete.
pub struct LaunchOp {
    pub program: Arc<ptxsim::Module>,
    pub entry: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: Vec<u8>,
}

/// One operation.
#[derive(Clone)]
pub enum Op {
    /// Run a kernel.
    Launch(Arc<LaunchOp>),
    /// Host bytes, taken at the call, to the device.
    Write { to: u64, bytes: Arc<[u8]> },
    /// Page-locked host memory to the device, read when it runs.
    WritePinned { to: u64, from: usize, bytes: usize },
    /// Device to page-locked host memory.
    ReadPinned { to: usize, from: u64, bytes: usize },
    /// A pattern of 1, 2 or 4 bytes, over and over.
    Fill { to: u64, pattern: Vec<u8>, bytes: u64 },
    /// Device to device.
    Copy { to: u64, from: u64, bytes: u64 },
    /// Give memory back.
    Free(u64),
    /// An event's moment.
    Record(Handle),
    /// A host function and its argument.
    Host(unsafe extern "C" fn(*mut std::ffi::c_void), usize),
    /// A meeting point.
    Join,
}

impl Op {
    /// What a report calls it, where it has no kernel's name.
    fn name(&self) -> &'static str {
        match self {
            Op::Launch(_) => "launch",
            Op::Write { .. } | Op::WritePinned { .. } => "copy from the host",
            Op::ReadPinned { .. } => "copy to the host",
            Op::Fill { .. } => "fill",
            Op::Copy { .. } => "copy",
            Op::Free(_) => "free",
            Op::Record(_) | Op::Host(..) | Op::Join => "stream",
        }
    }
}

struct Pending {
    op: Op,
    lane: u64,
    after: Vec<u64>,
}

/// What is queued, and the dice.
#[derive(Default)]
pub struct Queue {
    pending: BTreeMap<u64, Pending>,
    last: u64,
    dice: u64,
    clock: u64,
}

/// Like hardware, submission blocks when a queue is full: this many operations.
const FULL: usize = 1024;

/// Which of the ready operations goes first.
enum Policy {
    /// Only what a goal waits for, these.
    Laziest(BTreeSet<u64>),
    /// Any.
    Any,
    /// The streams in an order by this seed.
    Favourites(u64),
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Queue {
    /// Operations queued.
    pub fn len(&self) -> usize {
        self.pending.len()
    }
    /// Forget all of them.
    pub fn clear(&mut self) {
        self.pending.clear();
    }
    /// Start the dice.
    pub fn seed(&mut self, seed: u64) {
        self.dice = mix(seed.wrapping_add(0x5851_f42d_4c95_7f2d));
    }
    /// Has it run?
    pub fn done(&self, id: u64) -> bool {
        !self.pending.contains_key(&id)
    }

    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.dice)
    }

    /// All that these must follow, themselves included.
    fn ancestors(&self, goal: &[u64]) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let mut todo: Vec<u64> = goal.to_vec();
        while let Some(id) = todo.pop() {
            if let Some(p) = self.pending.get(&id)
                && found.insert(id)
            {
                todo.extend(&p.after);
            }
        }
        found
    }

    /// An operation that may run now. There is one whenever anything is queued: each comes after older ones only.
    fn pick(&mut self, policy: &Policy) -> Option<u64> {
        let allowed = |id: &u64| !matches!(policy, Policy::Laziest(within) if !within.contains(id));
        let ready: Vec<(u64, u64)> = self
            .pending
            .iter()
            .filter(|(id, p)| allowed(id) && p.after.iter().all(|&a| self.done(a)))
            .map(|(&id, p)| (id, p.lane))
            .collect();
        match (ready.len(), policy) {
            (0, _) => None,
            (_, Policy::Favourites(seed)) => {
                ready.iter().min_by_key(|(_, lane)| mix(seed ^ lane)).map(|r| r.0)
            }
            (n, _) => Some(ready[(self.roll() % n as u64) as usize].0),
        }
    }

    /// A way to go, towards a goal or everywhere.
    fn policy(&mut self, goal: &[u64]) -> Policy {
        match self.roll() % 3 {
            0 if !goal.is_empty() => Policy::Laziest(self.ancestors(goal)),
            1 => Policy::Favourites(self.roll()),
            _ => Policy::Any,
        }
    }
}

impl State {
    /// What a new operation of a stream comes after.
    fn predecessors(&self, stream: Handle) -> Vec<u64> {
        let s = &self.streams[&stream];
        let mut after = s.after.clone();
        let legacy = self.contexts.get(&s.context).map(|c| c.legacy);
        if legacy == Some(stream) {
            let others = self.streams.values().filter(|o| o.context == s.context && o.blocking);
            after.extend(others.flat_map(|o| &o.after));
        } else if let (true, Some(legacy)) = (s.blocking, legacy) {
            after.extend(&self.streams[&legacy].after);
        }
        after.retain(|&a| !self.queue.done(a));
        after.sort_unstable();
        after.dedup();
        after
    }

    /// Queue an operation in a stream, or note it in the stream's capture. Runs it at once when nothing is reordered.
    pub fn submit(&mut self, stream: Handle, op: Op) -> Outcome {
        self.forbid_implicit(stream)?;
        if let Some((capture, after)) = self.streams[&stream].capture.clone() {
            let node = self.capture_mut(capture)?.add(Node { op, after });
            if let Some(s) = self.streams.get_mut(&stream) {
                s.capture = Some((capture, vec![node]));
            }
            return Ok(());
        }
        let after = self.predecessors(stream);
        let id = self.push(stream, op, after);
        if let Some(s) = self.streams.get_mut(&stream) {
            s.after = vec![id];
        }
        self.settle()
    }

    /// Queue one operation after given ones.
    pub fn push(&mut self, stream: Handle, op: Op, after: Vec<u64>) -> u64 {
        self.queue.last += 1;
        let id = self.queue.last;
        if let Op::Record(event) = op
            && let Some(event) = self.events.get_mut(&event)
        {
            (event.record, event.time, event.captured) = (Some(id), None, None);
        }
        let lane = self.streams.get(&stream).map_or(0, |s| s.lane);
        self.queue.pending.insert(id, Pending { op, lane, after });
        id
    }

    /// After a submission: run everything when nothing is reordered, some of it when the queue is full.
    pub fn settle(&mut self) -> Outcome {
        if self.options.reorder == 0 {
            return self.run_all();
        }
        if self.queue.len() >= FULL {
            let policy = self.queue.policy(&[]);
            while self.queue.len() > FULL / 2 {
                self.step(&policy)?;
            }
        }
        Ok(())
    }

    /// Queue the operations of a graph, each node after its own; one that has none after `base`. A node's id each.
    pub fn push_nodes(&mut self, stream: Handle, nodes: &[Node], base: &[u64]) -> Vec<u64> {
        let mut ids: Vec<u64> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let after = match node.after.as_slice() {
                [] => base.to_vec(),
                after => after.iter().map(|&a| ids[a]).collect(),
            };
            // A stream of its own for each chain would be wrong as often as right: nodes are picked one by one.
            let id = self.push(stream, node.op.clone(), after);
            ids.push(id);
        }
        ids
    }

    /// As [`State::predecessors`], for a whole graph.
    pub fn base(&self, stream: Handle) -> Vec<u64> {
        self.predecessors(stream)
    }

    /// Run until these are done.
    pub fn run_until(&mut self, goal: &[u64]) -> Outcome {
        let policy = self.queue.policy(goal);
        while goal.iter().any(|&g| !self.queue.done(g)) {
            self.step(&policy)?;
        }
        Ok(())
    }

    /// Run everything.
    pub fn run_all(&mut self) -> Outcome {
        let policy = self.queue.policy(&[]);
        while self.queue.len() > 0 {
            self.step(&policy)?;
        }
        Ok(())
    }

    /// A program looks whether these are done: some work happens meanwhile, at least one operation.
    pub fn glance(&mut self, goal: &[u64]) -> Outcome<bool> {
        let mut steps = 1 + self.queue.roll() % 8;
        let policy = self.queue.policy(goal);
        while steps > 0 && goal.iter().any(|&g| !self.queue.done(g)) {
            self.step(&policy)?;
            steps -= 1;
        }
        Ok(goal.iter().all(|&g| self.queue.done(g)))
    }

    /// Run one operation. A fault kills the context: what is queued is dropped, memory to be freed is freed.
    fn step(&mut self, policy: &Policy) -> Outcome {
        let id = self.queue.pick(policy).ok_or(Code::UNKNOWN)?;
        let Some(pending) = self.queue.pending.remove(&id) else { return Err(Code::UNKNOWN) };
        let Err(mut fault) = self.execute(id, &pending.op) else { return Ok(()) };
        if fault.kernel.is_empty() {
            fault.kernel = pending.op.name().into();
        }
        let code = Code::of(fault.kind);
        self.faults.push(FaultInfo::from(&fault));
        self.sticky = Some(code);
        self.abandon();
        Err(code)
    }

    /// Drop all queued work but the frees.
    pub fn abandon(&mut self) {
        for (_, p) in std::mem::take(&mut self.queue.pending) {
            if let Op::Free(address) = p.op {
                self.allocations.remove(&address);
                if let Err(fault) = self.memory.free(address) {
                    self.faults.push(FaultInfo::from(&fault));
                }
            }
        }
    }

    fn execute(&mut self, id: u64, op: &Op) -> Result<(), ptxsim::Fault> {
        // The simulated clock: a microsecond each. No measurement, only an order.
        self.queue.clock += 1;
        match op {
            Op::Launch(l) => self.execute_launch(l),
            Op::Write { to, bytes } => self.memory.write(*to, bytes),
            Op::WritePinned { to, from, bytes } => {
                self.check_pinned(*from, *bytes)?;
                // SAFETY: the range lies in memory that cuMemHostAlloc gave and cuMemFreeHost has not taken back;
                // the program must not write to it until it has synchronised, as on hardware.
                let host = unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes) };
                self.memory.write(*to, host)
            }
            Op::ReadPinned { to, from, bytes } => {
                self.check_pinned(*to, *bytes)?;
                // SAFETY: the range lies in memory that cuMemHostAlloc gave and cuMemFreeHost has not taken back;
                // the program must not touch it until it has synchronised, as on hardware.
                let host = unsafe { std::slice::from_raw_parts_mut(*to as *mut u8, *bytes) };
                self.memory.read(*from, host)
            }
            Op::Fill { to, pattern, bytes } => match pattern.as_slice() {
                [first, rest @ ..] if rest.iter().all(|b| b == first) => {
                    self.memory.fill(*to, *first, *bytes)
                }
                _ => {
                    let all: Vec<u8> = pattern.iter().copied().cycle().take(*bytes as usize).collect();
                    self.memory.write(*to, &all)
                }
            },
            Op::Copy { to, from, bytes } => self.memory.copy(*to, *from, *bytes),
            Op::Free(address) => {
                self.allocations.remove(address);
                self.memory.free(*address)
            }
            Op::Record(event) => {
                let clock = self.queue.clock;
                if let Some(event) = self.events.get_mut(event).filter(|e| e.record == Some(id)) {
                    event.time = Some(clock);
                }
                Ok(())
            }
            Op::Host(function, argument) => {
                // SAFETY: the caller of cuLaunchHostFunc vouches that the function may be called once with this
                // argument when the stream gets there; like hardware's, it must not call the driver.
                unsafe { function(*argument as *mut std::ffi::c_void) };
                Ok(())
            }
            Op::Join => Ok(()),
        }
    }

    /// A graph may outlive the host memory it names.
    fn check_pinned(&self, address: usize, bytes: usize) -> Result<(), ptxsim::Fault> {
        if self.is_pinned(address, bytes) {
            return Ok(());
        }
        Err(ptxsim::Fault {
            kind: ptxsim::FaultKind::OutOfBounds,
            kernel: String::new(),
            line: 0,
            detail: format!("{bytes} bytes at {address:#x}: the page-locked host memory is freed"),
        })
    }

    fn execute_launch(&mut self, l: &LaunchOp) -> Result<(), ptxsim::Fault> {
        let kernel = &l.program.entries()[l.entry].name;
        let launch = ptxsim::Launch {
            entry: kernel,
            grid: l.grid,
            block: l.block,
            shared: l.shared,
            params: &l.params,
        };
        self.launched += 1;
        let counters = if self.options.dry {
            ptxsim::Counters::default()
        } else {
            ptxsim::run(&l.program, &launch, &mut self.memory, &self.options.simulator())?
        };
        if self.options.record {
            let (kernel, grid, block, shared) = (kernel.clone(), l.grid, l.block, l.shared);
            self.launches.push(LaunchInfo { kernel, grid, block, shared, counters });
        }
        Ok(())
    }
}
