//! A functional simulator of PTX kernels.

mod counters;
mod fault;
pub mod num;

pub use counters::Counters;
pub use fault::{Fault, FaultKind};

/// A parsed PTX module: everything that will run, checked at load.
pub struct Module {}

/// One kernel of a module.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Static shared memory, bytes.
    pub shared_bytes: u32,
    /// `.reqntid` or `.maxntid` product, where given.
    pub max_threads: Option<u32>,
}

/// One kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its PTX type without the dot: `u64`, `f32`, `b8`...
    pub ty: String,
    /// Bytes.
    pub size: usize,
    /// Byte offset in the parameter block.
    pub offset: usize,
}

impl Module {
    /// Parse and check. An opcode, modifier, operand or directive that is not known is an error with its line.
    pub fn parse(_text: &str) -> Result<Module, Fault> {
        Err(Fault::load(0, "not built yet"))
    }

    /// The kernels, in file order.
    pub fn entries(&self) -> &[Entry] {
        &[]
    }
}

/// Device memory: allocations with guards, poison and initialisation shadow.
pub struct Memory {}

impl Memory {
    /// Empty. `capacity`: bytes that may be live at once.
    pub fn new(_capacity: u64) -> Memory {
        Memory {}
    }
    /// Fresh, uninitialised (NaN-poisoned) memory, 256-byte aligned. None when the capacity is spent.
    pub fn alloc(&mut self, _bytes: u64) -> Option<u64> {
        None
    }
    /// Free. A pointer that is not the start of a live allocation is a fault.
    pub fn free(&mut self, _address: u64) -> Result<(), Fault> {
        Ok(())
    }
    /// Host to device.
    pub fn write(&mut self, _address: u64, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
    /// Device to host. Uninitialised bytes are a fault.
    pub fn read(&self, _address: u64, _bytes: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }
    /// Fill with a byte.
    pub fn fill(&mut self, _address: u64, _byte: u8, _n: u64) -> Result<(), Fault> {
        Ok(())
    }
    /// Device to device; initialisation travels along.
    pub fn copy(&mut self, _to: u64, _from: u64, _n: u64) -> Result<(), Fault> {
        Ok(())
    }
    /// Bytes live now.
    pub fn live(&self) -> u64 {
        0
    }
    /// Allocations live now.
    pub fn allocations(&self) -> usize {
        0
    }
}

/// How tensor cores round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mma {
    /// The exact dot product and accumulator, rounded once to nearest.
    Exact,
    /// Products added one after the other in f32.
    Sequential,
    /// As hardware is known to: products aligned to the largest exponent and truncated, the result truncated.
    Truncate,
}

/// One way of running.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tensor-core numerics.
    pub mma: Mma,
    /// None: approximations are exact and rounded. Some(seed): perturbed at random within the ISA manual's bound.
    pub perturb: Option<u64>,
    /// 0: warps and CTAs in order; else a seed for their order and interleaving.
    pub schedule: u64,
    /// Shared and global race detection.
    pub races: bool,
    /// Warp instructions before a launch counts as hung.
    pub budget: u64,
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Kernel name.
    pub entry: &'a str,
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads per CTA.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// The parameter block, laid out as [`Param::offset`] says.
    pub params: &'a [u8],
}

/// Run a kernel to its end.
pub fn run(_m: &Module, _l: &Launch, _mem: &mut Memory, _o: &Options) -> Result<Counters, Fault> {
    Err(Fault::load(0, "not built yet"))
}
