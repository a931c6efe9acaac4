//! What crosses the boundary between a test and the shared library, as JSON.

use ptxsim::{Counters, FaultKind, Mma};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The boundary's version: a library of another one is refused.
pub const VERSION: u32 = 1;

/// One way of running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Tensor-core numerics.
    #[serde(with = "mma")]
    pub mma: Mma,
    /// See [`ptxsim::Options::perturb`].
    pub perturb: Option<u64>,
    /// Order of warps and CTAs, see [`ptxsim::Options::schedule`].
    pub schedule: u64,
    /// Race detection inside a launch.
    pub races: bool,
    /// Warp instructions before a launch counts as hung.
    pub budget: u64,
    /// 0: every operation runs at its call. Else streams are lazy queues, and this seeds the order between them.
    pub reorder: u64,
    /// Memory of each device, bytes.
    pub capacity: u64,
    /// Devices present.
    pub devices: u32,
    /// Keep a [`LaunchInfo`] of each launch.
    pub record: bool,
    /// Launches do nothing: what would be launched, at no cost.
    pub dry: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mma: Mma::Exact,
            perturb: None,
            schedule: 0,
            races: true,
            budget: 200_000_000,
            reorder: 0,
            capacity: 40 << 30,
            devices: 1,
            record: false,
            dry: false,
        }
    }
}

impl Options {
    /// The part the simulator sees.
    pub(crate) fn simulator(&self) -> ptxsim::Options {
        ptxsim::Options {
            mma: self.mma,
            perturb: self.perturb,
            schedule: self.schedule,
            races: self.races,
            budget: self.budget,
        }
    }
}

/// [`Mma`] by name.
mod mma {
    use ptxsim::Mma;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const ALL: [Mma; 3] = [Mma::Exact, Mma::Sequential, Mma::Truncate];

    pub fn serialize<S: Serializer>(m: &Mma, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{m:?}"))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Mma, D::Error> {
        let name = String::deserialize(d)?;
        ALL.into_iter()
            .find(|m| format!("{m:?}") == name)
            .ok_or_else(|| D::Error::custom(format!("{name}: no such numerics")))
    }
}

/// One thing that went wrong on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultInfo {
    /// The name of a [`FaultKind`]; `Driver` for a wrong call of the driver, `Panic` for a defect of this library.
    pub kind: String,
    /// The kernel, or the driver call.
    pub kernel: String,
    /// Line in the PTX text, 1-based; 0: none.
    pub line: usize,
    /// What, where, got, want.
    pub detail: String,
}

impl FaultInfo {
    /// Is it of this kind?
    pub fn is(&self, kind: FaultKind) -> bool {
        self.kind == format!("{kind:?}")
    }
    /// A wrong driver call.
    pub(crate) fn driver(call: &str, detail: impl Into<String>) -> FaultInfo {
        FaultInfo { kind: "Driver".into(), kernel: call.into(), line: 0, detail: detail.into() }
    }
}

impl std::fmt::Display for FaultInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}:{}: {}", self.kind, self.kernel, self.line, self.detail)
    }
}

impl From<&ptxsim::Fault> for FaultInfo {
    fn from(f: &ptxsim::Fault) -> FaultInfo {
        FaultInfo {
            kind: format!("{:?}", f.kind),
            kernel: f.kernel.clone(),
            line: f.line,
            detail: f.detail.clone(),
        }
    }
}

/// One launch, in the order of execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchInfo {
    /// The kernel.
    pub kernel: String,
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads per CTA.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// What it cost.
    #[serde(with = "CountersWire")]
    pub counters: Counters,
}

/// [`Counters`], field by field.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Counters")]
struct CountersWire {
    warp_instructions: [u64; 8],
    active_lanes: u64,
    shared_wavefronts: u64,
    shared_ideal: u64,
    global_load_sectors: u64,
    global_store_sectors: u64,
    global_ideal: u64,
    unique_load_bytes: u64,
    unique_store_bytes: u64,
    mma: u64,
    mma_flops: u64,
    issue_cycles: f64,
    mma_cycles: f64,
    lines: HashMap<usize, u64>,
}

/// What a test asks of the library.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Set(Options),
    Get,
    TakeFaults,
    TakeLaunches,
    Usage,
    ResetPeak,
    FailNext { call: String, code: u32 },
    ClearError,
    Reset,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Done,
    Options(Options),
    Faults(Vec<FaultInfo>),
    Launches(Vec<LaunchInfo>),
    Usage(Usage),
    /// The request was not understood.
    Error(String),
}

/// What is alive, and how much has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Device bytes allocated and not freed, in the order of the calls.
    pub bytes: u64,
    /// The most they have been since the last reset.
    pub peak_bytes: u64,
    /// Device allocations.
    pub allocations: u64,
    /// Modules loaded.
    pub modules: u64,
    /// Streams created.
    pub streams: u64,
    /// Events created.
    pub events: u64,
    /// Graphs, instantiated or not.
    pub graphs: u64,
    /// References to contexts.
    pub contexts: u64,
    /// Kernels run, ever.
    pub launches: u64,
    /// Operations queued and not run.
    pub pending: u64,
}
