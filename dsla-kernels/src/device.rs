//! Where tensors live and kernels run.

use crate::{Error, Result, cuda};

/// A place to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// The host, with the best instruction set found at run time.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its ordinal, sm_80 or later; the driver is looked for at run time.
    Cuda(usize),
}

impl Device {
    /// The first GPU when a driver answers and it can run the kernels, else the host.
    pub fn auto() -> Device {
        Device::cuda(0).unwrap_or(Device::Cpu)
    }

    /// The GPU with this ordinal, opened.
    ///
    /// Errors: [`Error::NoDriver`] when there is no driver, no such device, or one older than sm_80.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        cuda::context(ordinal)?;
        Ok(Device::Cuda(ordinal))
    }

    /// Wait until all work queued on the device is done. The host has nothing to wait for.
    ///
    /// Errors: a kernel that failed.
    pub fn synchronize(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(i) => cuda::context(i)?.synchronize(),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(i) => write!(f, "cuda:{i}"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// `cpu`, `auto`, `cuda` or `cuda:N`.
    fn from_str(s: &str) -> Result<Device> {
        let unknown = || Error::Argument {
            op: "device",
            arg: "name",
            got: s.into(),
            want: "cpu, cuda:N or auto".into(),
        };
        match s {
            "cpu" => Ok(Device::Cpu),
            "auto" => Ok(Device::auto()),
            "cuda" => Device::cuda(0),
            s => {
                let n = s.strip_prefix("cuda:").ok_or_else(unknown)?;
                Device::cuda(n.parse().map_err(|_| unknown())?)
            }
        }
    }
}
