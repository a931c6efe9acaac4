//! Contiguous tensors: what an op writes into and a model keeps.

use crate::cuda::Buffer;
use crate::host::{Host, Kept};
use crate::vec::narrow;
use crate::view::{Place, PlaceMut};
use crate::{DType, Device, Result, Shape, Slice, SliceMut, View, ViewMut, par};
use half::{bf16, f16};
use std::sync::atomic::{AtomicBool, Ordering};

/// The elements of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    F32(Host<f32>),
    BF16(Host<bf16>),
    F16(Host<f16>),
    U32(Host<u32>),
    Cuda(Buffer),
}

/// An owned, contiguous tensor on the host or on a device. Cloning copies the elements.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(crate) shape: Shape,
    pub(crate) data: Data,
}

static POISON: AtomicBool = AtomicBool::new(false);

/// Fill the memory of [`Tensor::empty`] with NaN (and `u32::MAX`): tests use it to catch reads before writes.
pub fn poison_empty(on: bool) {
    POISON.store(on, Ordering::Relaxed);
}

fn empty<T: Kept>(n: usize, poison: T) -> Host<T> {
    match POISON.load(Ordering::Relaxed) {
        true => Host::filled(poison, n),
        false => Host::scratch(n),
    }
}

impl Tensor {
    /// Host memory to be written by an op before anyone reads it.
    pub fn empty(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let n = shape.len();
        let data = match dtype {
            DType::F32 => Data::F32(empty(n, f32::NAN)),
            DType::BF16 => Data::BF16(empty(n, bf16::NAN)),
            DType::F16 => Data::F16(empty(n, f16::NAN)),
            DType::U32 => Data::U32(empty(n, u32::MAX)),
        };
        Tensor { shape, data }
    }

    /// [`Tensor::empty`] on any device.
    ///
    /// Errors: no such device, no memory left there.
    pub fn empty_on(device: Device, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        match device {
            Device::Cpu => Ok(Tensor::empty(shape, dtype)),
            Device::Cuda(i) => Ok(Tensor { shape, data: Data::Cuda(Buffer::new(i, shape.len(), dtype)?) }),
        }
    }

    /// All zero, on the host.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let n = shape.len();
        let data = match dtype {
            DType::F32 => Data::F32(Host::zeros(n)),
            DType::BF16 => Data::BF16(Host::zeros(n)),
            DType::F16 => Data::F16(Host::zeros(n)),
            DType::U32 => Data::U32(Host::zeros(n)),
        };
        Tensor { shape, data }
    }

    /// [`Tensor::zeros`] on any device.
    ///
    /// Errors: as [`Tensor::empty_on`].
    pub fn zeros_on(device: Device, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        match device {
            Device::Cpu => Ok(Tensor::zeros(shape, dtype)),
            Device::Cuda(_) => {
                let mut t = Tensor::empty_on(device, shape, dtype)?;
                t.zero()?;
                Ok(t)
            }
        }
    }

    /// An f32 tensor from its elements. Panics when the length does not fit the shape.
    pub fn from_f32(shape: impl Into<Shape>, data: Vec<f32>) -> Tensor {
        Tensor::host(shape.into(), data.len(), Data::F32(data.into()))
    }

    /// A bf16 tensor from its elements. Panics when the length does not fit the shape.
    pub fn from_bf16(shape: impl Into<Shape>, data: Vec<bf16>) -> Tensor {
        Tensor::host(shape.into(), data.len(), Data::BF16(data.into()))
    }

    /// An f16 tensor from its elements. Panics when the length does not fit the shape.
    pub fn from_f16(shape: impl Into<Shape>, data: Vec<f16>) -> Tensor {
        Tensor::host(shape.into(), data.len(), Data::F16(data.into()))
    }

    /// Token ids. Panics when the length does not fit the shape.
    pub fn from_u32(shape: impl Into<Shape>, data: Vec<u32>) -> Tensor {
        Tensor::host(shape.into(), data.len(), Data::U32(data.into()))
    }

    /// The first n as a u32 vector [n], in memory that is used again: positions and ids of a step.
    pub fn ids(n: usize, ids: impl Iterator<Item = u32>) -> Tensor {
        let mut data = Host::zeros(n);
        data.iter_mut().zip(ids).for_each(|(to, id)| *to = id);
        Tensor { shape: [n].into(), data: Data::U32(data) }
    }

    fn host(shape: Shape, len: usize, data: Data) -> Tensor {
        assert_eq!(shape.len(), len, "elements for shape {shape}");
        Tensor { shape, data }
    }

    /// Row-major dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Row-major dimensions as a slice.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.view().dtype()
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        match &self.data {
            Data::Cuda(b) => b.device(),
            _ => Device::Cpu,
        }
    }

    /// The same elements under another shape of the same length.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "reshape {} to {shape}", self.shape);
        self.shape = shape;
        self
    }

    /// A copy with another float dtype, rounding to nearest even, on the same device.
    ///
    /// Errors: no memory on the device. (On the host it cannot fail.)
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        let on_host = self.device() == Device::Cpu;
        if on_host && (dtype == self.dtype() || dtype == DType::U32 || self.dtype() == DType::U32) {
            return Ok(self.clone());
        }
        let mut y = Tensor::empty_on(self.device(), self.shape, dtype)?;
        crate::ops::copy::cast(self.view(), y.view_mut())?;
        Ok(y)
    }

    /// A copy on another device (or the same one).
    ///
    /// Errors: no such device, no memory left there, a failed copy.
    pub fn to_device(&self, device: Device) -> Result<Tensor> {
        match (&self.data, device) {
            (Data::Cuda(b), Device::Cpu) => {
                let mut t = Tensor::empty(self.shape, self.dtype());
                match &mut t.data {
                    Data::F32(v) => b.read(v)?,
                    Data::BF16(v) => b.read(v)?,
                    Data::F16(v) => b.read(v)?,
                    Data::U32(v) => b.read(v)?,
                    Data::Cuda(_) => {}
                }
                Ok(t)
            }
            (Data::Cuda(_), d) if d != self.device() => self.to_device(Device::Cpu)?.to_device(d),
            (Data::Cuda(_), _) => self.try_clone(),
            (_, Device::Cpu) => Ok(self.clone()),
            (_, Device::Cuda(i)) => {
                let mut b = Buffer::new(i, self.len(), self.dtype())?;
                match self.view().slice() {
                    Slice::F32(v) => b.write(v)?,
                    Slice::BF16(v) => b.write(v)?,
                    Slice::F16(v) => b.write(v)?,
                    Slice::U32(v) => b.write(v)?,
                }
                Ok(Tensor { shape: self.shape, data: Data::Cuda(b) })
            }
        }
    }

    /// Overwrite a device tensor with one on the host of the same shape and dtype: the address stays, as a graph needs it.
    ///
    /// Errors: a failed copy. Panics when the two do not fit: the caller made both.
    pub fn write(&mut self, from: &Tensor) -> Result<()> {
        assert_eq!((self.shape, self.dtype()), (from.shape, from.dtype()), "write");
        match (&mut self.data, from.view().slice()) {
            (Data::Cuda(b), Slice::F32(v)) => b.write(v),
            (Data::Cuda(b), Slice::BF16(v)) => b.write(v),
            (Data::Cuda(b), Slice::F16(v)) => b.write(v),
            (Data::Cuda(b), Slice::U32(v)) => b.write(v),
            (data, _) => {
                *data = from.data.clone();
                Ok(())
            }
        }
    }

    /// A copy on the same device.
    ///
    /// Errors: no memory left there.
    pub fn try_clone(&self) -> Result<Tensor> {
        match &self.data {
            Data::Cuda(b) => Ok(Tensor { shape: self.shape, data: Data::Cuda(b.try_clone()?) }),
            _ => Ok(self.clone()),
        }
    }

    /// Set every element to zero.
    ///
    /// Errors: a device that fails.
    pub fn zero(&mut self) -> Result<()> {
        match &mut self.data {
            Data::F32(v) => v.fill(0.0),
            Data::BF16(v) => v.fill(bf16::ZERO),
            Data::F16(v) => v.fill(f16::ZERO),
            Data::U32(v) => v.fill(0),
            Data::Cuda(b) => b.zero(0, self.shape.len())?,
        }
        Ok(())
    }

    /// Set rows `start..end` of the outermost dimension to zero.
    ///
    /// Errors: a device that fails.
    pub fn zero_rows(&mut self, start: usize, end: usize) -> Result<()> {
        let row = self.row();
        let (a, b) = (start * row, end * row);
        match &mut self.data {
            Data::F32(v) => v[a..b].fill(0.0),
            Data::BF16(v) => v[a..b].fill(bf16::ZERO),
            Data::F16(v) => v[a..b].fill(f16::ZERO),
            Data::U32(v) => v[a..b].fill(0),
            Data::Cuda(buffer) => buffer.zero(a, b)?,
        }
        Ok(())
    }

    /// Every element as f32, whatever the dtype. Panics for a tensor on a device: bring it to the host first.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        match self.view().slice() {
            Slice::F32(v) => v.to_vec(),
            Slice::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Slice::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Slice::U32(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }

    /// The f32 elements. Panics for another dtype or a device: the caller made the tensor.
    pub fn f32(&self) -> &[f32] {
        match &self.data {
            Data::F32(v) => v,
            _ => panic!("an f32 host tensor was expected, this one is {} on {}", self.dtype(), self.device()),
        }
    }

    /// The elements of a u32 tensor on the host; panics for other tensors, as [`Tensor::f32`] does.
    pub fn u32(&self) -> &[u32] {
        match &self.data {
            Data::U32(v) => v,
            _ => panic!("a u32 host tensor was expected, this one is {} on {}", self.dtype(), self.device()),
        }
    }

    /// The f32 elements, mutable. Panics as [`Tensor::f32`].
    pub fn f32_mut(&mut self) -> &mut [f32] {
        let (dtype, device) = (self.dtype(), self.device());
        match &mut self.data {
            Data::F32(v) => v,
            _ => panic!("an f32 host tensor was expected, this one is {dtype} on {device}"),
        }
    }

    /// Borrow the whole.
    pub fn view(&self) -> View<'_> {
        let place = match &self.data {
            Data::F32(v) => Place::Host(Slice::F32(v)),
            Data::BF16(v) => Place::Host(Slice::BF16(v)),
            Data::F16(v) => Place::Host(Slice::F16(v)),
            Data::U32(v) => Place::Host(Slice::U32(v)),
            Data::Cuda(b) => Place::Cuda(b.ptr()),
        };
        View { shape: self.shape, place }
    }

    /// Borrow the whole, mutable.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let place = match &mut self.data {
            Data::F32(v) => PlaceMut::Host(SliceMut::F32(v)),
            Data::BF16(v) => PlaceMut::Host(SliceMut::BF16(v)),
            Data::F16(v) => PlaceMut::Host(SliceMut::F16(v)),
            Data::U32(v) => PlaceMut::Host(SliceMut::U32(v)),
            Data::Cuda(b) => PlaceMut::Cuda(b.ptr_mut()),
        };
        ViewMut { shape: self.shape, place }
    }

    /// Rows `start..end` of the outermost dimension.
    pub fn rows(&self, start: usize, end: usize) -> View<'_> {
        self.view().rows(start, end)
    }

    /// Elements per row of the outermost dimension.
    fn row(&self) -> usize {
        self.shape.dims[1..].iter().product()
    }

    /// Append n rows (the outermost dimension), to be written before anyone reads them.
    ///
    /// Errors: no memory left on the device.
    pub fn grow(&mut self, n: usize) -> Result<()> {
        let more = n * self.row();
        match &mut self.data {
            Data::F32(a) => drop(a.grow(more)),
            Data::BF16(a) => drop(a.grow(more)),
            Data::F16(a) => drop(a.grow(more)),
            Data::U32(a) => drop(a.grow(more)),
            Data::Cuda(b) => {
                let old = self.shape.len();
                b.grow(old, old + more)?;
            }
        }
        self.shape.dims[0] += n;
        Ok(())
    }

    /// Append rows (the outermost dimension) of the same row length on the same device, converting floats to this
    /// tensor's dtype: how a KV cache grows.
    ///
    /// Errors: no memory left on the device. Panics when the rows do not fit: the caller made both.
    pub fn extend(&mut self, rows: View<'_>) -> Result<()> {
        let row = self.row();
        assert_eq!(rows.shape.len() % row.max(1), 0, "rows of {row} elements");
        let more = rows.shape.len() / row.max(1);
        if let Data::Cuda(b) = &mut self.data {
            let old = self.shape.len();
            b.grow(old, old + rows.shape.len())?;
            self.shape.dims[0] += more;
            let new = self.shape.dims[0];
            return crate::ops::copy::cast(rows, self.view_mut().rows(new - more, new).reshape(rows.shape));
        }
        match (&mut self.data, rows.slice()) {
            (Data::F32(a), Slice::F32(b)) => put(b, a.grow(b.len()), <[f32]>::copy_from_slice),
            (Data::BF16(a), Slice::BF16(b)) => put(b, a.grow(b.len()), <[bf16]>::copy_from_slice),
            (Data::F16(a), Slice::F16(b)) => put(b, a.grow(b.len()), <[f16]>::copy_from_slice),
            (Data::U32(a), Slice::U32(b)) => put(b, a.grow(b.len()), <[u32]>::copy_from_slice),
            (Data::BF16(a), Slice::F32(b)) => put(b, a.grow(b.len()), |out, b| narrow(b, out)),
            (Data::F16(a), Slice::F32(b)) => a.extend(b.iter().map(|&x| f16::from_f32(x))),
            (Data::F32(a), Slice::BF16(b)) => a.extend(b.iter().map(|x| x.to_f32())),
            (Data::F32(a), Slice::F16(b)) => a.extend(b.iter().map(|x| x.to_f32())),
            _ => panic!("extend {} with {}", self.dtype(), rows.dtype()),
        }
        self.shape.dims[0] += more;
        Ok(())
    }

    /// Drop the first `n` rows of the outermost dimension.
    ///
    /// Errors: no memory left on the device.
    pub fn drop_front(&mut self, n: usize) -> Result<()> {
        let row = self.row();
        let len = self.shape.len();
        match &mut self.data {
            Data::F32(a) => a.drop_front(n * row),
            Data::BF16(a) => a.drop_front(n * row),
            Data::F16(a) => a.drop_front(n * row),
            Data::U32(a) => a.drop_front(n * row),
            Data::Cuda(b) => b.drop_front(n * row, len)?,
        }
        self.shape.dims[0] -= n;
        Ok(())
    }
}

/// `out` from x piece by piece, in parallel where that is worth it.
fn put<S: Sync, T: Send>(x: &[S], out: &mut [T], put: impl Fn(&mut [T], &[S]) + Sync) {
    const PIECE: usize = 16 << 10;
    par::for_each_chunk(out, PIECE, |i, out| put(out, &x[i * PIECE..][..out.len()]));
}

impl View<'_> {
    /// An owned copy on the same device.
    ///
    /// Errors: no memory left there.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let data = match self.place {
            Place::Host(Slice::F32(v)) => Data::F32(v.into()),
            Place::Host(Slice::BF16(v)) => Data::BF16(v.into()),
            Place::Host(Slice::F16(v)) => Data::F16(v.into()),
            Place::Host(Slice::U32(v)) => Data::U32(v.into()),
            Place::Cuda(p) => Data::Cuda(Buffer::copy_of(p, self.shape.len())?),
        };
        Ok(Tensor { shape: self.shape, data })
    }
}
