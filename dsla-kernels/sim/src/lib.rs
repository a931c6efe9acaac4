#![doc = include_str!("../README.md")]

mod bits;
mod counters;
mod exec;
mod fault;
mod inst;
mod lex;
mod memory;
pub mod num;
mod op;
mod parse;
mod race;
mod shared;
mod types;

pub use counters::Counters;
pub use fault::{Fault, FaultKind};
pub use memory::Memory;

/// A parsed PTX module: everything that will run, checked at load.
pub struct Module {
    entries: Vec<Entry>,
    funcs: Vec<op::Func>,
}

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
    pub fn parse(text: &str) -> Result<Module, Fault> {
        let (entries, funcs) = parse::module(text)?;
        Ok(Module { entries, funcs })
    }

    /// The kernels, in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn function(&self, name: &str) -> Option<&op::Func> {
        self.entries.iter().position(|e| e.name == name).map(|i| &self.funcs[i])
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
pub fn run(m: &Module, l: &Launch, mem: &mut Memory, o: &Options) -> Result<Counters, Fault> {
    exec::launch(m, l, mem, o)
}

impl Default for Options {
    /// Exact numerics, warps in order, races checked, 2^32 instructions.
    fn default() -> Options {
        Options { mma: Mma::Exact, perturb: None, schedule: 0, races: true, budget: 1 << 32 }
    }
}
