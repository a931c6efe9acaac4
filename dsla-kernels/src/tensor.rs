//! Contiguous tensors and borrowed views of them: all that an op takes or gives.

use crate::{DType, Device, Error, Result};
use half::bf16;
use std::sync::atomic::{AtomicBool, Ordering};

/// Up to four dimensions, row-major, copied by value so that a view costs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<&[usize]> for Shape {
    /// Panics beyond four dimensions: shapes are written by this workspace, never by a file.
    fn from(d: &[usize]) -> Shape {
        assert!(d.len() <= 4, "a shape has at most 4 dimensions, got {}", d.len());
        let mut dims = [1; 4];
        dims[..d.len()].copy_from_slice(d);
        Shape { dims, rank: d.len() }
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(d: [usize; N]) -> Shape {
        Shape::from(&d[..])
    }
}

/// The elements of a tensor on the host. (Device memory becomes a further variant.)
#[derive(Clone, Debug)]
pub(crate) enum Data {
    F32(Vec<f32>),
    BF16(Vec<bf16>),
    U32(Vec<u32>),
}

/// An owned, contiguous tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Shape,
    data: Data,
}

static POISON: AtomicBool = AtomicBool::new(false);

/// Fill the memory of [`Tensor::empty`] with NaN (and `u32::MAX`): tests use it to catch reads before writes.
pub fn poison_empty(on: bool) {
    POISON.store(on, Ordering::Relaxed);
}

impl Tensor {
    /// Memory to be written by an op before anyone reads it.
    pub fn empty(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let n = shape.len();
        let poison = POISON.load(Ordering::Relaxed);
        let data = match dtype {
            DType::F32 => Data::F32(vec![if poison { f32::NAN } else { 0.0 }; n]),
            DType::BF16 => Data::BF16(vec![if poison { bf16::NAN } else { bf16::ZERO }; n]),
            DType::U32 => Data::U32(vec![if poison { u32::MAX } else { 0 }; n]),
        };
        Tensor { shape, data }
    }

    /// All zero.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let n = shape.len();
        let data = match dtype {
            DType::F32 => Data::F32(vec![0.0; n]),
            DType::BF16 => Data::BF16(vec![bf16::ZERO; n]),
            DType::U32 => Data::U32(vec![0; n]),
        };
        Tensor { shape, data }
    }

    /// An f32 tensor from its elements. Panics when the length does not fit the shape.
    pub fn from_f32(shape: impl Into<Shape>, data: Vec<f32>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "elements for shape {shape}");
        Tensor { shape, data: Data::F32(data) }
    }

    /// A bf16 tensor from its elements. Panics when the length does not fit the shape.
    pub fn from_bf16(shape: impl Into<Shape>, data: Vec<bf16>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "elements for shape {shape}");
        Tensor { shape, data: Data::BF16(data) }
    }

    /// Token ids. Panics when the length does not fit the shape.
    pub fn from_u32(shape: impl Into<Shape>, data: Vec<u32>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "elements for shape {shape}");
        Tensor { shape, data: Data::U32(data) }
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
        match self.data {
            Data::F32(_) => DType::F32,
            Data::BF16(_) => DType::BF16,
            Data::U32(_) => DType::U32,
        }
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The same elements under another shape of the same length.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "reshape {} to {shape}", self.shape);
        self.shape = shape;
        self
    }

    /// A copy with another float dtype, rounding to nearest even.
    pub fn to_dtype(&self, dtype: DType) -> Tensor {
        match (&self.data, dtype) {
            (Data::F32(v), DType::BF16) => {
                Tensor::from_bf16(self.shape, v.iter().map(|&x| bf16::from_f32(x)).collect())
            }
            (Data::BF16(v), DType::F32) => {
                Tensor::from_f32(self.shape, v.iter().map(|x| x.to_f32()).collect())
            }
            _ => self.clone(),
        }
    }

    /// Every element as f32, whatever the dtype.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        match &self.data {
            Data::F32(v) => v.clone(),
            Data::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::U32(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }

    /// The f32 elements. Panics for another dtype: the caller made the tensor.
    pub fn f32(&self) -> &[f32] {
        match &self.data {
            Data::F32(v) => v,
            _ => panic!("an f32 tensor was expected, this one is {}", self.dtype()),
        }
    }

    /// The f32 elements, mutable. Panics for another dtype.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        match &mut self.data {
            Data::F32(v) => v,
            Data::BF16(_) => panic!("an f32 tensor was expected, this one is bf16"),
            Data::U32(_) => panic!("an f32 tensor was expected, this one is u32"),
        }
    }

    /// Borrow the whole.
    pub fn view(&self) -> View<'_> {
        let data = match &self.data {
            Data::F32(v) => Slice::F32(v),
            Data::BF16(v) => Slice::BF16(v),
            Data::U32(v) => Slice::U32(v),
        };
        View { shape: self.shape, data }
    }

    /// Borrow the whole, mutable.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let data = match &mut self.data {
            Data::F32(v) => SliceMut::F32(v),
            Data::BF16(v) => SliceMut::BF16(v),
            Data::U32(v) => SliceMut::U32(v),
        };
        ViewMut { shape: self.shape, data }
    }

    /// Rows `start..end` of the outermost dimension.
    pub fn rows(&self, start: usize, end: usize) -> View<'_> {
        self.view().rows(start, end)
    }

    /// Append rows (the outermost dimension) of the same dtype and row length: how a KV cache grows.
    pub fn extend(&mut self, rows: View<'_>) {
        let row: usize = self.shape.dims[1..].iter().product();
        assert_eq!(rows.shape.len() % row.max(1), 0, "rows of {row} elements");
        match (&mut self.data, rows.data) {
            (Data::F32(a), Slice::F32(b)) => a.extend_from_slice(b),
            (Data::BF16(a), Slice::BF16(b)) => a.extend_from_slice(b),
            (Data::BF16(a), Slice::F32(b)) => a.extend(b.iter().map(|&x| bf16::from_f32(x))),
            (Data::F32(a), Slice::BF16(b)) => a.extend(b.iter().map(|x| x.to_f32())),
            (Data::U32(a), Slice::U32(b)) => a.extend_from_slice(b),
            _ => panic!("extend with another dtype"),
        }
        self.shape.dims[0] += rows.shape.len() / row.max(1);
    }

    /// Drop the first `n` rows of the outermost dimension.
    pub fn drop_front(&mut self, n: usize) {
        let row: usize = self.shape.dims[1..].iter().product();
        match &mut self.data {
            Data::F32(a) => drop(a.drain(..n * row)),
            Data::BF16(a) => drop(a.drain(..n * row)),
            Data::U32(a) => drop(a.drain(..n * row)),
        }
        self.shape.dims[0] -= n;
    }
}

/// Borrowed elements.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// f32 elements.
    F32(&'a [f32]),
    /// bf16 elements.
    BF16(&'a [bf16]),
    /// u32 elements.
    U32(&'a [u32]),
}

/// A borrowed contiguous tensor.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    shape: Shape,
    data: Slice<'a>,
}

impl<'a> View<'a> {
    /// A view of f32 elements. Panics when the length does not fit the shape.
    pub fn from_f32(shape: impl Into<Shape>, data: &'a [f32]) -> View<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "elements for shape {shape}");
        View { shape, data: Slice::F32(data) }
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

    /// The elements.
    pub fn slice(&self) -> Slice<'a> {
        self.data
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            Slice::F32(_) => DType::F32,
            Slice::BF16(_) => DType::BF16,
            Slice::U32(_) => DType::U32,
        }
    }

    /// The device the memory is on.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// Rows `start..end` of the outermost dimension.
    pub fn rows(&self, start: usize, end: usize) -> View<'a> {
        let row: usize = self.shape.dims[1..].iter().product();
        let (a, b) = (start * row, end * row);
        let data = match self.data {
            Slice::F32(v) => Slice::F32(&v[a..b]),
            Slice::BF16(v) => Slice::BF16(&v[a..b]),
            Slice::U32(v) => Slice::U32(&v[a..b]),
        };
        let mut shape = self.shape;
        shape.dims[0] = end - start;
        View { shape, data }
    }

    /// The same elements under another shape of the same length.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> View<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.shape.len(), "reshape {} to {shape}", self.shape);
        self.shape = shape;
        self
    }

    /// Checks for f32 and the exact shape; the elements.
    pub fn expect_f32(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a [f32]> {
        self.expect_shape(op, arg, want)?;
        match self.data {
            Slice::F32(v) => Ok(v),
            _ => Err(Error::DType { op, arg, got: self.dtype(), want: "f32" }),
        }
    }

    /// Checks for u32 and the exact shape; the elements.
    pub fn expect_u32(&self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a [u32]> {
        self.expect_shape(op, arg, want)?;
        match self.data {
            Slice::U32(v) => Ok(v),
            _ => Err(Error::DType { op, arg, got: self.dtype(), want: "u32" }),
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

/// Mutably borrowed elements.
#[derive(Debug)]
pub enum SliceMut<'a> {
    /// f32 elements.
    F32(&'a mut [f32]),
    /// bf16 elements.
    BF16(&'a mut [bf16]),
    /// u32 elements.
    U32(&'a mut [u32]),
}

/// A mutably borrowed contiguous tensor.
#[derive(Debug)]
pub struct ViewMut<'a> {
    shape: Shape,
    data: SliceMut<'a>,
}

impl<'a> ViewMut<'a> {
    /// A view of f32 elements. Panics when the length does not fit the shape.
    pub fn from_f32(shape: impl Into<Shape>, data: &'a mut [f32]) -> ViewMut<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), data.len(), "elements for shape {shape}");
        ViewMut { shape, data: SliceMut::F32(data) }
    }

    /// Row-major dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            SliceMut::F32(_) => DType::F32,
            SliceMut::BF16(_) => DType::BF16,
            SliceMut::U32(_) => DType::U32,
        }
    }

    /// Rows `start..end` of the outermost dimension.
    pub fn rows(self, start: usize, end: usize) -> ViewMut<'a> {
        let row: usize = self.shape.dims[1..].iter().product();
        let (a, b) = (start * row, end * row);
        let data = match self.data {
            SliceMut::F32(v) => SliceMut::F32(&mut v[a..b]),
            SliceMut::BF16(v) => SliceMut::BF16(&mut v[a..b]),
            SliceMut::U32(v) => SliceMut::U32(&mut v[a..b]),
        };
        let mut shape = self.shape;
        shape.dims[0] = end - start;
        ViewMut { shape, data }
    }

    /// The same elements under another shape of the same length.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> ViewMut<'a> {
        let shape = shape.into();
        assert_eq!(shape.len(), self.shape.len(), "reshape {} to {shape}", self.shape);
        self.shape = shape;
        self
    }

    /// Checks for f32 and the exact shape; the elements.
    pub fn expect_f32(self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a mut [f32]> {
        if self.shape.dims() != want {
            return Err(Error::Shape { op, arg, got: self.shape, want: format!("{want:?}") });
        }
        let got = self.dtype();
        match self.data {
            SliceMut::F32(v) => Ok(v),
            _ => Err(Error::DType { op, arg, got, want: "f32" }),
        }
    }

    /// Checks for u32 and the exact shape; the elements.
    pub fn expect_u32(self, op: &'static str, arg: &'static str, want: &[usize]) -> Result<&'a mut [u32]> {
        if self.shape.dims() != want {
            return Err(Error::Shape { op, arg, got: self.shape, want: format!("{want:?}") });
        }
        let got = self.dtype();
        match self.data {
            SliceMut::U32(v) => Ok(v),
            _ => Err(Error::DType { op, arg, got, want: "u32" }),
        }
    }
}
