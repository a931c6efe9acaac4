//! Typed launches: the list of arguments is the list of checks.

use super::source::{Kernel, Source};
use super::{Context, context};
use crate::view::{Place, PlaceMut};
use crate::{DType, Device, Error, Result, View, ViewMut};
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MAX_SHARED;
use cudarc::driver::{LaunchConfig, PushKernelArg};
use std::sync::{Arc, PoisonError};

/// Blocks of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Grid(pub u32, pub u32, pub u32);

impl From<usize> for Grid {
    fn from(x: usize) -> Grid {
        Grid(x as u32, 1, 1)
    }
}

impl From<[usize; 2]> for Grid {
    fn from([x, y]: [usize; 2]) -> Grid {
        Grid(x as u32, y as u32, 1)
    }
}

impl From<[usize; 3]> for Grid {
    fn from([x, y, z]: [usize; 3]) -> Grid {
        Grid(x as u32, y as u32, z as u32)
    }
}

/// Bytes that every tensor of a kernel must be aligned to unless it says otherwise: its vector accesses.
const ALIGN: u64 = 16;

#[derive(Clone, Copy, Debug)]
enum Arg {
    Ptr(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Arg {
    fn ty(self) -> &'static str {
        match self {
            Arg::Ptr(_) | Arg::U64(_) => "u64",
            Arg::U32(_) => "u32",
            Arg::F32(_) => "f32",
            Arg::F64(_) => "f64",
        }
    }
}

/// A launch being put together. The first thing that is wrong is what [`Launch::run`] returns; nothing is launched then.
pub struct Launch {
    op: &'static str,
    cx: Arc<Context>,
    kernel: Arc<Kernel>,
    names: Vec<&'static str>,
    args: Vec<Arg>,
    wrong: Option<Error>,
}

/// Begin a launch of `entry` from `source` specialised to `values` on `device`.
///
/// Errors: no driver; a specialisation that does not exist; a module the driver refuses.
pub fn launch(
    op: &'static str,
    device: Device,
    source: &'static Source,
    values: &[&str],
    entry: &'static str,
) -> Result<Launch> {
    let Device::Cuda(ordinal) = device else {
        return Err(Error::Argument { op, arg: "device", got: device.to_string(), want: "cuda".into() });
    };
    let cx = context(ordinal)?;
    cx.bind()?;
    let kernel = cx.modules.get(&cx, source, values, entry)?;
    Ok(Launch { op, cx, kernel, names: Vec::with_capacity(16), args: Vec::with_capacity(16), wrong: None })
}

impl Launch {
    fn push(&mut self, name: &'static str, arg: Arg) {
        self.names.push(name);
        self.args.push(arg);
    }

    /// A tensor that the kernel reads: dtype, shape, device and 16-byte alignment are checked.
    pub fn input(self, name: &'static str, x: View, dtype: DType, want: &[usize]) -> Launch {
        self.input_aligned(name, x, dtype, want, ALIGN)
    }

    /// [`Launch::input`] with another alignment: the element size for kernels with scalar accesses.
    pub fn input_aligned(
        mut self,
        name: &'static str,
        x: View,
        dtype: DType,
        want: &[usize],
        align: u64,
    ) -> Launch {
        let checked = self.check(name, x, dtype, want, align);
        let address = checked.unwrap_or_else(|e| {
            self.wrong.get_or_insert(e);
            0
        });
        self.push(name, Arg::Ptr(address));
        self
    }

    /// A tensor that the kernel may do without: null.
    pub fn optional(self, name: &'static str, x: Option<View>, dtype: DType, want: &[usize]) -> Launch {
        match x {
            Some(x) => self.input(name, x, dtype, want),
            None => self.null(name),
        }
    }

    /// A null pointer.
    pub fn null(mut self, name: &'static str) -> Launch {
        self.push(name, Arg::Ptr(0));
        self
    }

    /// A tensor that the kernel writes, or reads and writes.
    pub fn output(self, name: &'static str, y: &mut ViewMut, dtype: DType, want: &[usize]) -> Launch {
        self.input(name, y.as_view(), dtype, want)
    }

    /// [`Launch::output`] with another alignment.
    pub fn output_aligned(
        self,
        name: &'static str,
        y: &mut ViewMut,
        dtype: DType,
        want: &[usize],
        align: u64,
    ) -> Launch {
        self.input_aligned(name, y.as_view(), dtype, want, align)
    }

    fn check(&self, arg: &'static str, x: View, dtype: DType, want: &[usize], align: u64) -> Result<u64> {
        let (op, device) = (self.op, self.cx.device());
        x.expect_shape(op, arg, want)?;
        if x.dtype() != dtype {
            return Err(Error::DType { op, arg, got: x.dtype(), want: dtype.name() });
        }
        match x.place {
            Place::Cuda(p) if p.device() == device => {
                if p.address % align != 0 && !x.shape.is_empty() {
                    return Err(Error::Misaligned { op, arg, got: p.address, want: align });
                }
                Ok(p.address)
            }
            _ => Err(Error::Device { op, arg, got: x.device(), want: device }),
        }
    }

    /// A size or an index. More than u32 holds is an error.
    pub fn u32(mut self, name: &'static str, n: usize) -> Launch {
        if u32::try_from(n).is_err() {
            let want = "at most 4294967295".into();
            self.wrong.get_or_insert(Error::Argument { op: self.op, arg: name, got: n.to_string(), want });
        }
        self.push(name, Arg::U32(n as u32));
        self
    }

    /// A 64-bit number.
    pub fn u64(mut self, name: &'static str, n: u64) -> Launch {
        self.push(name, Arg::U64(n));
        self
    }

    /// A float.
    pub fn f32(mut self, name: &'static str, x: f32) -> Launch {
        self.push(name, Arg::F32(x));
        self
    }

    /// A double.
    pub fn f64(mut self, name: &'static str, x: f64) -> Launch {
        self.push(name, Arg::F64(x));
        self
    }

    /// Launch: `grid` blocks of `block` threads with `shared` bytes of dynamic shared memory. An empty grid is no work.
    ///
    /// Errors: what any argument got wrong; arguments that are not the kernel's, by name and type; the driver's refusal.
    pub fn run(self, grid: impl Into<Grid>, block: usize, shared: usize) -> Result<()> {
        if let Some(e) = self.wrong {
            return Err(e);
        }
        let Grid(x, y, z) = grid.into();
        let given: Vec<_> =
            self.names.iter().zip(&self.args).map(|(n, a)| (n.to_string(), a.ty().to_string())).collect();
        if given != self.kernel.params {
            return Err(Error::Argument {
                op: self.op,
                arg: "signature",
                got: format!("{given:?}"),
                want: format!("{} {:?}", self.kernel.name, self.kernel.params),
            });
        }
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        if y > 65535 || z > 65535 || x > i32::MAX as u32 {
            let want = "at most 2147483647 by 65535 by 65535 blocks".into();
            return Err(Error::Argument {
                op: self.op,
                arg: "grid",
                got: format!("{x} by {y} by {z}"),
                want,
            });
        }
        let failed = |e| self.cx.failed(format!("{}: kernel {}", self.op, self.kernel.name), e);
        {
            let mut most = self.kernel.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if shared as u32 > *most {
                self.kernel.function.set_attribute(MAX_SHARED, shared as i32).map_err(failed)?;
                *most = shared as u32;
            }
        }
        let mut builder = self.cx.stream().launch_builder(&self.kernel.function);
        for arg in &self.args {
            match arg {
                Arg::Ptr(v) | Arg::U64(v) => builder.arg(v),
                Arg::U32(v) => builder.arg(v),
                Arg::F32(v) => builder.arg(v),
                Arg::F64(v) => builder.arg(v),
            };
        }
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (block as u32, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        // SAFETY: names and types of the arguments are those the kernel declares; every pointer is null or a live
        // view of the shape its kernel's header asks for; memory is freed on this stream, after the launch.
        unsafe { builder.launch(config) }.map_err(failed)?;
        Ok(())
    }
}

impl View<'_> {
    /// The address of a device tensor; 0 on the host: which of two paths its alignment allows.
    pub(crate) fn address(&self) -> u64 {
        match &self.place {
            Place::Cuda(p) => p.address,
            Place::Host(_) => 0,
        }
    }
}

impl ViewMut<'_> {
    /// The address of a device tensor; 0 on the host. For tests.
    #[doc(hidden)]
    pub fn address(&self) -> u64 {
        match &self.place {
            PlaceMut::Cuda(p) => p.shared().address,
            PlaceMut::Host(_) => 0,
        }
    }
}
