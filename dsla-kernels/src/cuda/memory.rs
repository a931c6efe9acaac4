//! Device memory: allocated and freed in stream order.

use super::{Context, context};
use crate::{DType, Device, Error, Result};
use cudarc::driver::result;
use std::marker::PhantomData;
use std::sync::Arc;

/// Owned device memory. Its length is its tensor's; the capacity may be larger.
pub(crate) struct Buffer {
    context: Arc<Context>,
    address: u64,
    dtype: DType,
    /// Elements that fit.
    capacity: usize,
    /// Memory of a graph's arena, which this is a piece of; None: an allocation of its own.
    arena: Option<Arc<Buffer>>,
}

/// Borrowed device memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DevicePtr<'a> {
    pub context: &'a Arc<Context>,
    pub address: u64,
    pub dtype: DType,
}

/// Mutably borrowed device memory.
#[derive(Debug)]
pub(crate) struct DevicePtrMut<'a> {
    inner: DevicePtr<'a>,
    exclusive: PhantomData<&'a mut ()>,
}

impl<'a> DevicePtr<'a> {
    pub fn device(&self) -> Device {
        self.context.device()
    }

    /// Past `n` elements.
    pub fn offset(self, n: usize) -> DevicePtr<'a> {
        DevicePtr { address: self.address + (n * self.dtype.size()) as u64, ..self }
    }
}

impl<'a> DevicePtrMut<'a> {
    pub fn device(&self) -> Device {
        self.inner.device()
    }

    pub fn dtype(&self) -> DType {
        self.inner.dtype
    }

    pub fn shared(&self) -> DevicePtr<'_> {
        self.inner
    }

    pub fn offset(&mut self, n: usize) -> DevicePtrMut<'_> {
        DevicePtrMut { inner: self.inner.offset(n), exclusive: PhantomData }
    }

    pub fn into_offset(self, n: usize) -> DevicePtrMut<'a> {
        DevicePtrMut { inner: self.inner.offset(n), exclusive: PhantomData }
    }
}

impl Buffer {
    pub fn new(ordinal: usize, len: usize, dtype: DType) -> Result<Buffer> {
        Buffer::on(context(ordinal)?, len, dtype)
    }

    fn on(context: Arc<Context>, capacity: usize, dtype: DType) -> Result<Buffer> {
        context.bind()?;
        let bytes = capacity * dtype.size();
        if bytes == 0 {
            return Ok(Buffer { context, address: 0, dtype, capacity: 0, arena: None });
        }
        if let Some(piece) = super::graph::captured(&context, bytes) {
            let (address, arena) = piece?;
            return Ok(Buffer { context, address, dtype, capacity, arena: Some(arena) });
        }
        // SAFETY: the stream is alive; the memory is not read before it is written (that is what `empty` means).
        match unsafe { result::malloc_async(context.stream().cu_stream(), bytes) } {
            Ok(address) => Ok(Buffer { context, address, dtype, capacity, arena: None }),
            Err(e) if e.0 == cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = result::mem_get_info().map_or(0, |(free, _)| free);
                Err(Error::OutOfMemory { device: context.device(), want: bytes, free })
            }
            Err(e) => Err(context.failed("allocate", e)),
        }
    }

    pub fn device(&self) -> Device {
        self.context.device()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.capacity * self.dtype.size()
    }

    pub fn ptr(&self) -> DevicePtr<'_> {
        DevicePtr { context: &self.context, address: self.address, dtype: self.dtype }
    }

    pub fn ptr_mut(&mut self) -> DevicePtrMut<'_> {
        DevicePtrMut { inner: self.ptr(), exclusive: PhantomData }
    }

    /// From the host. The source may be reused at once.
    pub fn write<T: Copy>(&mut self, from: &[T]) -> Result<()> {
        assert!(size_of_val(from) <= self.capacity * self.dtype.size());
        if from.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        let stream = self.context.stream().cu_stream();
        // SAFETY: the target holds that many bytes; a copy from pageable memory has read its source when it returns.
        unsafe { result::memcpy_htod_async(self.address, from, stream) }
            .map_err(|e| self.context.failed("copy to the device", e))
    }

    /// To the host, waiting for all work before it.
    pub fn read<T: Copy>(&self, to: &mut [T]) -> Result<()> {
        assert!(size_of_val(to) <= self.capacity * self.dtype.size());
        if to.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        let stream = self.context.stream().cu_stream();
        // SAFETY: the source holds that many bytes; `to` is borrowed until the stream is synchronised below.
        unsafe { result::memcpy_dtoh_async(to, self.address, stream) }
            .map_err(|e| self.context.failed("copy to the host", e))?;
        self.context.synchronize()
    }

    /// Zero elements `from..to`.
    pub fn zero(&mut self, from: usize, to: usize) -> Result<()> {
        assert!(from <= to && to <= self.capacity);
        if from == to {
            return Ok(());
        }
        self.context.bind()?;
        let (address, bytes) = (self.ptr().offset(from).address, (to - from) * self.dtype.size());
        // SAFETY: the range is inside this buffer.
        unsafe { result::memset_d8_async(address, 0, bytes, self.context.stream().cu_stream()) }
            .map_err(|e| self.context.failed("fill", e))
    }

    pub fn try_clone(&self) -> Result<Buffer> {
        let copy = Buffer::on(self.context.clone(), self.capacity, self.dtype)?;
        copy.take(0, self, 0, self.capacity)?;
        Ok(copy)
    }

    /// A copy of borrowed memory.
    pub fn copy_of(from: DevicePtr, len: usize) -> Result<Buffer> {
        let copy = Buffer::on(from.context.clone(), len, from.dtype)?;
        copy.take_from(0, from, len)?;
        Ok(copy)
    }

    /// Copy `n` elements of another buffer here.
    fn take(&self, to: usize, other: &Buffer, from: usize, n: usize) -> Result<()> {
        self.take_from(to, other.ptr().offset(from), n)
    }

    fn take_from(&self, to: usize, from: DevicePtr, n: usize) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let (dst, src) = (self.ptr().offset(to).address, from.address);
        self.context.bind()?;
        // SAFETY: both ranges are inside their buffers, which are two allocations.
        unsafe {
            result::memcpy_dtod_async(dst, src, n * self.dtype.size(), self.context.stream().cu_stream())
        }
        .map_err(|e| self.context.failed("copy on the device", e))
    }

    /// Room for `want` elements, of which the first `used` are kept. Grows by half, so that appending is linear.
    pub fn grow(&mut self, used: usize, want: usize) -> Result<()> {
        if want <= self.capacity {
            return Ok(());
        }
        let larger = Buffer::on(self.context.clone(), want.max(used + used / 2), self.dtype)?;
        larger.take(0, self, 0, used)?;
        *self = larger;
        Ok(())
    }

    /// Move elements `n..len` to the front.
    pub fn drop_front(&mut self, n: usize, len: usize) -> Result<()> {
        assert!(n <= len && len <= self.capacity);
        if n == 0 {
            return Ok(());
        }
        let rest = Buffer::on(self.context.clone(), len - n, self.dtype)?;
        rest.take(0, self, n, len - n)?;
        *self = rest;
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.address != 0 && self.arena.is_none() && self.context.bind().is_ok() {
            // SAFETY: allocated by `on`, freed once, in stream order after every kernel that was given it. An error
            // here is one of an earlier kernel; the next call reports it.
            let _ = unsafe { result::free_async(self.address, self.context.stream().cu_stream()) };
        }
    }
}

impl Clone for Buffer {
    /// Panics when the device has no memory left: what must not panic calls `Tensor::try_clone`.
    fn clone(&self) -> Buffer {
        self.try_clone().unwrap_or_else(|e| panic!("clone of a device tensor: {e}"))
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} elements of {} on {}", self.capacity, self.dtype, self.device())
    }
}
