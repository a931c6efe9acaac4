//! Where tensors live and kernels run.

use crate::{Error, Result};

/// A place to compute. `Cuda` joins with the PTX kernels; every op already dispatches on this enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// The host, with the best instruction set found at run time.
    #[default]
    Cpu,
}

impl Device {
    /// The best device that answers.
    pub fn auto() -> Device {
        Device::Cpu
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// `cpu`, `auto` or `cuda:N`.
    fn from_str(s: &str) -> Result<Device> {
        match s {
            "cpu" | "auto" => Ok(Device::Cpu),
            s if s == "cuda" || s.starts_with("cuda:") => Err(Error::NoDriver(s.into())),
            s => Err(Error::Argument {
                op: "device",
                arg: "name",
                got: s.into(),
                want: "cpu, cuda:N or auto".into(),
            }),
        }
    }
}
