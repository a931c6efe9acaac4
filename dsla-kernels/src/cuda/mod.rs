//! The CUDA side: one context per device, memory, kernels expanded from their templates, typed launches.
//!
//! Nothing but the driver is needed: no toolkit, no cuBLAS. All work of a device goes to one stream, so that order is
//! program order; a buffer is freed on the same stream, after the kernels that use it.

mod expr;
mod graph;
mod launch;
mod memory;
mod source;
pub mod template;
pub(crate) mod tiles;

pub use graph::Graph;
pub use launch::{Grid, Launch, launch};
pub(crate) use memory::{Buffer, DevicePtr, DevicePtrMut};
pub use source::{Mutation, Source, Variant, mutate};

use crate::{Device, Error, Result};
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, CudaStream, DriverError};
use source::Modules;
use std::sync::{Arc, Mutex, PoisonError};

/// One opened device.
#[derive(Debug)]
pub struct Context {
    ordinal: usize,
    cuda: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Modules,
    multiprocessors: usize,
}

static CONTEXTS: Mutex<Vec<Arc<Context>>> = Mutex::new(Vec::new());

/// The context of a device, opened at its first use.
///
/// Errors: [`Error::NoDriver`].
pub fn context(ordinal: usize) -> Result<Arc<Context>> {
    let mut all = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(c) = all.iter().find(|c| c.ordinal == ordinal) {
        return Ok(c.clone());
    }
    let context = Arc::new(Context::open(ordinal)?);
    all.push(context.clone());
    Ok(context)
}

impl Context {
    fn open(ordinal: usize) -> Result<Context> {
        let device = Device::Cuda(ordinal);
        let none = |detail: String| Error::NoDriver { device: device.to_string(), detail };
        // SAFETY: only tries to open the library; cudarc's own calls would panic without it.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(none("libcuda is not on this machine".into()));
        }
        let words = |e: DriverError| none(e.to_string());
        let count = CudaContext::device_count().map_err(words)?;
        if ordinal >= count.max(0) as usize {
            return Err(none(format!("the driver knows {count} devices")));
        }
        let cuda = CudaContext::new(ordinal).map_err(words)?;
        // SAFETY: all work goes to the one stream made below, so there is nothing for events to order.
        unsafe { cuda.disable_event_tracking() };
        let (major, minor) = cuda.compute_capability().map_err(words)?;
        if major < 8 {
            return Err(none(format!("compute capability {major}.{minor}, want 8.0 or later")));
        }
        let multiprocessors =
            cuda.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_err(words)?;
        // A stream of our own: the legacy one synchronises with every other and cannot be captured into a graph.
        let stream = cuda.new_stream().map_err(words)?;
        let modules = Modules::default();
        Ok(Context { ordinal, cuda, stream, modules, multiprocessors: multiprocessors as usize })
    }

    /// The device.
    pub fn device(&self) -> Device {
        Device::Cuda(self.ordinal)
    }

    /// The device's name.
    ///
    /// Errors: the driver's refusal.
    pub fn name(&self) -> Result<String> {
        self.cuda.name().map_err(|e| self.failed("name", e))
    }

    /// Its streaming multiprocessors: how many blocks fill it.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// The stream that all work goes to.
    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Wait until all work queued here is done.
    ///
    /// Errors: a kernel that failed.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.failed("synchronize", e))
    }

    /// A driver's error as ours.
    pub(crate) fn failed(&self, what: impl Into<String>, e: DriverError) -> Error {
        Error::Driver { device: self.device(), what: what.into(), detail: e.to_string() }
    }

    /// Make this context the calling thread's.
    pub(crate) fn bind(&self) -> Result<()> {
        self.cuda.bind_to_thread().map_err(|e| self.failed("bind", e))
    }
}
