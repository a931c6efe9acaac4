//! Borrowed contiguous tensors, on the host or on a device: all that an op takes or gives.

use crate::cuda::{DevicePtr, DevicePtrMut};
use crate::{DType, Device, Error, Result, Shape};
use half::{bf16, f16};

/// Borrowed elements on the host.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// f32 elements.
    F32(&'a [f32]),
    /// bf16 elements.
    BF16(&'a [bf16]),
    /// f16 elements.
    F16(&'a [f16]),
    /// u32 elements.
    U32(&'a [u32]),
}

impl Slice<'_> {
    fn dtype(&self) -> DType {
        match self {
            Slice::F32(_) => DType::F32,
            Slice::BF16(_) => DType::BF16,
            Slice::F16(_) => DType::F16,
            Slice::U32(_) => DType::U32,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    Host(Slice<'a>),
    Cuda(DevicePtr<'a>),
}

/// A borrowed contiguous tensor.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) shape: Shape,
    pub(crate) place: Place<'a>,
}

impl<'a> View<'a> {
    /// A view of f32 elements. Panics when the length does not fit the shape.
    pub fn from_f32(shape: impl Into<Shape>, data: &'a [f32]) -> View<'a> {
        View::host(shape.into(), Slice::F32(data), data.len())
    }

    /// A view of u32 elements. Panics when the length does not fit the shape.
    pub fn from_u32(shape: impl Into<Shape>, data: &'a [u32]) -> View<'a> {
        View::host(shape.into(), Slice::U32(data), data.len())
    }

    fn host(shape: Shape, data: Slice<'a>, len: usize) -> View<'a> {
        assert_eq!(shape.len(), len, "elements for shape {shape}");
        View { shape, place: Place::Host(data) }
    }

    /// Row-major dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Row-major dimensions as an array of known rank.
    pub fn dims<const N: usize>(&self, op: &'static str, arg: &'static str) -> Result<[usize; N]> {
        self.shape.dims().try_into().map_err(|_| Error::Shape {
            op,
            arg,
            got: self.shape,
            want: format!("{N} dimensions"),
        })
    }

    /// The elements of a tensor on the host. Panics for one on a device: ops match on [`View::device`] first.
    pub fn slice(&self) -> Slice<'a> {
        match self.place {
            Place::Host(s) => s,
            Place::Cuda(_) => panic!("a host tensor was expected, this one is on {}", self.device()),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &self.place {
            Place::Host(s) => s.dtype(),
            Place::Cuda(p) => p.dtype,
        }
    }

    /// The device the memory is on.
    pub fn device(&self) -> Device {
        match &self.place {
            Place::Host(_) => Device::Cpu,
            Place::Cuda(p) => p.device(),
        }
    }

    /// Rows `start..end` of the outermost dimension.
    pub fn rows(&self, start: usize, end: usize) -> View<'a> {
        assert!(start <= end && end <= self.shape.dims[0], "rows {start}..{end} of {}", self.shape);
        let row: usize = self.shape.dims[1..].iter().product();
        let (a, b) = (start * row, end * row);
        let place = match self.place {
            Place::Host(Slice::F32(v)) => Place::Host(Slice::F32(&v[a..b])),
            Place::Host(Slice::BF16(v)) => Place::Host(Slice::BF16(&v[a..b])),
            Place::Host(Slice::F16(v)) => Place::Host(Slice::F16(&v[a..b])),
            Place::Host(Slice::U32(v)) => Place::Host(Slice::U32(&v[a..b])),
            Place::Cuda(p) => Place::Cuda(p.offset(a)),
        };
        let mut shape = self.shape;
        shape.dims[0] = end - start;
        View { shape, place }
    }

    /// The same elements under another shape of the same length.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> View<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.shape.len(), "reshape {} to {shape}", self.shape);
        self.shape = shape;
        self
    }

    /// Checks for f32, the exact shape and the host; the elements.
    pub fn expect_f32(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a [f32]> {
        self.expect_shape(op, arg, want)?;
        match self.place {
            Place::Host(Slice::F32(v)) => Ok(v),
            _ => Err(self.refuse(op, arg, "f32")),
        }
    }

    /// Checks for u32, the exact shape and the host; the elements.
    pub fn expect_u32(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a [u32]> {
        self.expect_shape(op, arg, want)?;
        match self.place {
            Place::Host(Slice::U32(v)) => Ok(v),
            _ => Err(self.refuse(op, arg, "u32")),
        }
    }

    /// Checks the exact shape, the dtype and the device, whatever they are: what an op of several launches does before
    /// the first.
    pub(crate) fn expect_on(
        &self,
        op: &'static str,
        arg: &'static str,
        device: Device,
        dtype: DType,
        want: &[usize],
    ) -> Result<()> {
        self.expect_shape(op, arg, want)?;
        if self.dtype() != dtype {
            return Err(Error::DType { op, arg, got: self.dtype(), want: dtype.name() });
        }
        if self.device() != device {
            return Err(Error::Device { op, arg, got: self.device(), want: device });
        }
        Ok(())
    }

    fn refuse(&self, op: &'static str, arg: &'static str, want: &'static str) -> Error {
        match self.device() {
            Device::Cpu => Error::DType { op, arg, got: self.dtype(), want },
            device => Error::Device { op, arg, got: device, want: Device::Cpu },
        }
    }

    /// Checks the exact shape.
    pub fn expect_shape(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<()> {
        if self.shape.dims() != want {
            return Err(Error::Shape { op, arg, got: self.shape, want: format!("{want:?}") });
        }
        Ok(())
    }
}

/// Mutably borrowed elements on the host.
#[derive(Debug)]
pub enum SliceMut<'a> {
    /// f32 elements.
    F32(&'a mut [f32]),
    /// bf16 elements.
    BF16(&'a mut [bf16]),
    /// f16 elements.
    F16(&'a mut [f16]),
    /// u32 elements.
    U32(&'a mut [u32]),
}

#[derive(Debug)]
pub(crate) enum PlaceMut<'a> {
    Host(SliceMut<'a>),
    Cuda(DevicePtrMut<'a>),
}

/// A mutably borrowed contiguous tensor.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(crate) shape: Shape,
    pub(crate) place: PlaceMut<'a>,
}

impl<'a> ViewMut<'a> {
    /// The elements on the host: the caller has matched on the device.
    pub(crate) fn into_host(self) -> SliceMut<'a> {
        match self.place {
            PlaceMut::Host(s) => s,
            PlaceMut::Cuda(_) => unreachable!("dispatch on the device comes first"),
        }
    }

    /// A view of f32 elements. Panics when the length does not fit the shape.
    pub fn from_f32(shape: impl Into<Shape>, data: &'a mut [f32]) -> ViewMut<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "elements for shape {shape}");
        ViewMut { shape, place: PlaceMut::Host(SliceMut::F32(data)) }
    }

    /// Row-major dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &self.place {
            PlaceMut::Host(SliceMut::F32(_)) => DType::F32,
            PlaceMut::Host(SliceMut::BF16(_)) => DType::BF16,
            PlaceMut::Host(SliceMut::F16(_)) => DType::F16,
            PlaceMut::Host(SliceMut::U32(_)) => DType::U32,
            PlaceMut::Cuda(p) => p.dtype(),
        }
    }

    /// The device the memory is on.
    pub fn device(&self) -> Device {
        match &self.place {
            PlaceMut::Host(_) => Device::Cpu,
            PlaceMut::Cuda(p) => p.device(),
        }
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        let place = match &mut self.place {
            PlaceMut::Host(SliceMut::F32(v)) => PlaceMut::Host(SliceMut::F32(v)),
            PlaceMut::Host(SliceMut::BF16(v)) => PlaceMut::Host(SliceMut::BF16(v)),
            PlaceMut::Host(SliceMut::F16(v)) => PlaceMut::Host(SliceMut::F16(v)),
            PlaceMut::Host(SliceMut::U32(v)) => PlaceMut::Host(SliceMut::U32(v)),
            PlaceMut::Cuda(p) => PlaceMut::Cuda(p.offset(0)),
        };
        ViewMut { shape: self.shape, place }
    }

    /// Read what is there.
    pub fn as_view(&self) -> View<'_> {
        let place = match &self.place {
            PlaceMut::Host(SliceMut::F32(v)) => Place::Host(Slice::F32(v)),
            PlaceMut::Host(SliceMut::BF16(v)) => Place::Host(Slice::BF16(v)),
            PlaceMut::Host(SliceMut::F16(v)) => Place::Host(Slice::F16(v)),
            PlaceMut::Host(SliceMut::U32(v)) => Place::Host(Slice::U32(v)),
            PlaceMut::Cuda(p) => Place::Cuda(p.shared()),
        };
        View { shape: self.shape, place }
    }

    /// Rows `start..end` of the outermost dimension.
    pub fn rows(self, start: usize, end: usize) -> ViewMut<'a> {
        assert!(start <= end && end <= self.shape.dims[0], "rows {start}..{end} of {}", self.shape);
        let row: usize = self.shape.dims[1..].iter().product();
        let (a, b) = (start * row, end * row);
        let place = match self.place {
            PlaceMut::Host(SliceMut::F32(v)) => PlaceMut::Host(SliceMut::F32(&mut v[a..b])),
            PlaceMut::Host(SliceMut::BF16(v)) => PlaceMut::Host(SliceMut::BF16(&mut v[a..b])),
            PlaceMut::Host(SliceMut::F16(v)) => PlaceMut::Host(SliceMut::F16(&mut v[a..b])),
            PlaceMut::Host(SliceMut::U32(v)) => PlaceMut::Host(SliceMut::U32(&mut v[a..b])),
            PlaceMut::Cuda(p) => PlaceMut::Cuda(p.into_offset(a)),
        };
        let mut shape = self.shape;
        shape.dims[0] = end - start;
        ViewMut { shape, place }
    }

    /// The same elements under another shape of the same length.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> ViewMut<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.shape.len(), "reshape {} to {shape}", self.shape);
        self.shape = shape;
        self
    }

    /// Checks for f32, the exact shape and the host; the elements.
    pub fn expect_f32(self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a mut [f32]> {
        self.as_view().expect_shape(op, arg, want)?;
        let refuse = self.as_view().refuse(op, arg, "f32");
        match self.place {
            PlaceMut::Host(SliceMut::F32(v)) => Ok(v),
            _ => Err(refuse),
        }
    }

    /// Checks for u32, the exact shape and the host; the elements.
    pub fn expect_u32(self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a mut [u32]> {
        self.as_view().expect_shape(op, arg, want)?;
        let refuse = self.as_view().refuse(op, arg, "u32");
        match self.place {
            PlaceMut::Host(SliceMut::U32(v)) => Ok(v),
            _ => Err(refuse),
        }
    }
}
