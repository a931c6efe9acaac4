//! Everything the driver knows, behind one lock.

use crate::capture::{Capture, Exec, Graph};
use crate::code::{Code, Outcome};
use crate::queue::Queue;
use crate::wire::{FaultInfo, LaunchInfo, Options, Usage};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

/// The name of a resource: never a real address, never used twice.
pub type Handle = usize;

/// A device allocation.
pub struct Allocation {
    pub bytes: u64,
    pub device: usize,
    /// A free of it is queued.
    pub freed: bool,
}

/// A context: a device's primary one, counted, or one of its own.
pub struct Context {
    pub device: usize,
    pub references: u64,
    /// The stream that is everybody's default.
    pub legacy: Handle,
    /// Each thread's own default stream.
    pub per_thread: HashMap<ThreadId, Handle>,
}

/// A queue of work.
pub struct Stream {
    pub context: Handle,
    /// Ordered against the legacy stream.
    pub blocking: bool,
    /// What the next operation comes after.
    pub after: Vec<u64>,
    /// The capture it takes part in, and the nodes that the next node comes after.
    pub capture: Option<(Handle, Vec<usize>)>,
    /// Made by the program, not by the context.
    pub owned: bool,
    /// Its number among the streams, the same in every run of the program.
    pub lane: u64,
}

/// A mark in a stream.
#[derive(Default)]
pub struct Event {
    pub timed: bool,
    /// The operation that records it.
    pub record: Option<u64>,
    /// When it was, on the simulated clock; of `record` only.
    pub time: Option<u64>,
    /// The capture it was last recorded in, and the nodes it stands for.
    pub captured: Option<(Handle, Vec<usize>)>,
}

/// A kernel handle.
pub struct Function {
    pub program: Arc<ptxsim::Module>,
    pub entry: usize,
    /// The most dynamic shared memory a launch may ask for.
    pub max_dynamic: u32,
}

/// A loaded module, by kernel name: its functions.
pub struct Loaded {
    pub program: Arc<ptxsim::Module>,
    pub functions: BTreeMap<String, Handle>,
}

/// The whole driver.
pub struct State {
    pub initialised: bool,
    pub options: Options,
    pub memory: ptxsim::Memory,
    pub allocations: BTreeMap<u64, Allocation>,
    /// Page-locked host memory: address to bytes.
    pub pinned: BTreeMap<usize, usize>,
    pub contexts: BTreeMap<Handle, Context>,
    /// Primary context of each device.
    pub primary: BTreeMap<usize, Handle>,
    pub modules: BTreeMap<Handle, Loaded>,
    pub functions: BTreeMap<Handle, Function>,
    pub streams: BTreeMap<Handle, Stream>,
    pub events: BTreeMap<Handle, Event>,
    pub captures: BTreeMap<Handle, Capture>,
    pub graphs: BTreeMap<Handle, Graph>,
    pub execs: BTreeMap<Handle, Exec>,
    pub queue: Queue,
    /// The error that has killed the context.
    pub sticky: Option<Code>,
    pub faults: Vec<FaultInfo>,
    pub launches: Vec<LaunchInfo>,
    pub launched: u64,
    pub live: u64,
    pub peak: u64,
    /// Injected errors, by call.
    pub fail_next: Vec<(String, u32)>,
    next_handle: Handle,
    next_lane: u64,
}

/// Room for every capacity: limits are kept by [`State::allocate`].
const ADDRESSES: u64 = 1 << 46;

impl State {
    fn new() -> State {
        State {
            initialised: false,
            options: Options::default(),
            memory: ptxsim::Memory::new(ADDRESSES),
            allocations: BTreeMap::new(),
            pinned: BTreeMap::new(),
            contexts: BTreeMap::new(),
            primary: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            execs: BTreeMap::new(),
            queue: Queue::default(),
            sticky: None,
            faults: Vec::new(),
            launches: Vec::new(),
            launched: 0,
            live: 0,
            peak: 0,
            fail_next: Vec::new(),
            next_handle: 0x10_0000,
            next_lane: 0,
        }
    }

    /// A fresh handle.
    pub fn handle(&mut self) -> Handle {
        self.next_handle += 16;
        self.next_handle
    }

    /// Note a wrong call and give its code.
    pub fn refuse(&mut self, code: Code, call: &str, detail: impl Into<String>) -> Code {
        self.faults.push(FaultInfo::driver(call, detail));
        code
    }

    /// The calling thread's context.
    pub fn current(&self) -> Outcome<Handle> {
        let current = CURRENT.get();
        if self.contexts.contains_key(&current) { Ok(current) } else { Err(Code::INVALID_CONTEXT) }
    }

    /// The calling thread's device.
    pub fn device(&self) -> Outcome<usize> {
        Ok(self.contexts[&self.current()?].device)
    }

    /// A fresh stream.
    pub fn add_stream(&mut self, handle: Handle, context: Handle, blocking: bool, owned: bool) {
        self.next_lane += 1;
        let lane = self.next_lane;
        let stream = Stream { context, blocking, after: Vec::new(), capture: None, owned, lane };
        self.streams.insert(handle, stream);
    }

    /// Number the streams afresh and start the dice: from here on the order depends on the program alone.
    pub fn seed(&mut self, seed: u64) {
        self.queue.seed(seed);
        self.next_lane = 0;
        for stream in self.streams.values_mut() {
            self.next_lane += 1;
            stream.lane = self.next_lane;
        }
    }

    /// A context on a device, with its default stream.
    pub fn new_context(&mut self, device: usize) -> Handle {
        let (context, legacy) = (self.handle(), self.handle());
        self.add_stream(legacy, context, true, false);
        let per_thread = HashMap::new();
        self.contexts.insert(context, Context { device, references: 1, legacy, per_thread });
        context
    }

    /// A context is gone: so are its default streams. What else it owned stays visible as a leak.
    pub fn drop_context(&mut self, context: Handle) {
        self.contexts.remove(&context);
        self.streams.retain(|_, s| s.owned || s.context != context);
        self.primary.retain(|_, &mut h| h != context);
        if self.contexts.is_empty() {
            self.sticky = None;
        }
    }

    /// The stream behind a handle: 0 and 1 are the current context's legacy stream, 2 the thread's own.
    pub fn stream(&mut self, handle: Handle) -> Outcome<Handle> {
        let context = self.current()?;
        match handle {
            0 | 1 => Ok(self.contexts[&context].legacy),
            2 => {
                let thread = std::thread::current().id();
                if let Some(&stream) = self.contexts[&context].per_thread.get(&thread) {
                    return Ok(stream);
                }
                let stream = self.handle();
                self.add_stream(stream, context, true, false);
                if let Some(c) = self.contexts.get_mut(&context) {
                    c.per_thread.insert(thread, stream);
                }
                Ok(stream)
            }
            _ if self.streams.get(&handle).is_some_and(|s| s.owned) => Ok(handle),
            _ => Err(Code::INVALID_HANDLE),
        }
    }

    /// What is alive.
    pub fn usage(&self) -> Usage {
        Usage {
            bytes: self.live,
            peak_bytes: self.peak,
            allocations: self.allocations.values().filter(|a| !a.freed).count() as u64,
            modules: self.modules.len() as u64,
            streams: self.streams.values().filter(|s| s.owned).count() as u64,
            events: self.events.len() as u64,
            graphs: (self.graphs.len() + self.execs.len()) as u64,
            contexts: self.contexts.values().map(|c| c.references).sum(),
            launches: self.launched,
            pending: self.queue.len() as u64,
        }
    }

    /// Forget errors, injected faults and recordings, give up all device memory and work; handles stay valid.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.captures.clear();
        for stream in self.streams.values_mut() {
            stream.after.clear();
            stream.capture = None;
        }
        for event in self.events.values_mut() {
            *event = Event { timed: event.timed, ..Event::default() };
        }
        // Freed one by one: addresses are never used twice, so a stale pointer hits nothing new.
        for (address, _) in std::mem::take(&mut self.allocations) {
            let _ = self.memory.free(address);
        }
        self.options = Options::default();
        self.seed(0);
        self.sticky = None;
        self.faults.clear();
        self.launches.clear();
        self.fail_next.clear();
        (self.live, self.peak) = (0, 0);
    }
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::new()));

thread_local! {
    /// The calling thread's context, 0: none.
    pub static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// The driver, whatever happened to a thread that held it.
pub fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a call works in a context that a kernel's fault has killed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dead {
    /// It does: a question about the machine.
    Fine,
    /// It fails with the fault's code.
    Fails,
    /// It gives back its resource, then fails with the fault's code.
    Releases,
}

/// The frame of every entry point: the lock, injected errors, sticky errors, no unwinding into C.
pub fn enter(call: &str, dead: Dead, body: impl FnOnce(&mut State) -> Outcome) -> u32 {
    let mut guard = lock();
    let state = &mut *guard;
    if let Some(i) = state.fail_next.iter().position(|f| f.0 == call) {
        return state.fail_next.remove(i).1;
    }
    if !state.initialised && !matches!(call, "cuInit" | "cuDriverGetVersion") {
        return Code::NOT_INITIALIZED.0;
    }
    let before = state.sticky;
    if let (Dead::Fails, Some(code)) = (dead, before) {
        return code.0;
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&mut *state))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| s.to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic".into());
        state.faults.push(FaultInfo { kind: "Panic".into(), kernel: call.into(), line: 0, detail: text });
        Err(Code::UNKNOWN)
    });
    match (outcome, before) {
        (Ok(()), Some(code)) if dead == Dead::Releases => code.0,
        (Ok(()), _) => 0,
        (Err(code), _) => code.0,
    }
}
