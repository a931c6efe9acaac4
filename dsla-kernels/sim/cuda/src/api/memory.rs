//! Device and host memory, copies, fills.
#![allow(non_snake_case)]

use super::{Out, cu};
use crate::code::{Code, Outcome};
use crate::queue::Op;
use crate::state::{Allocation, Handle, State};
use crate::wire::FaultInfo;
use std::alloc::Layout;
use std::ffi::c_void;

impl State {
    fn allocate(&mut self, bytes: usize) -> Outcome<u64> {
        let (device, bytes) = (self.device()?, bytes as u64);
        let used: u64 =
            self.allocations.values().filter(|a| a.device == device && !a.freed).map(|a| a.bytes).sum();
        if bytes > self.options.capacity.saturating_sub(used) {
            return Err(Code::OUT_OF_MEMORY);
        }
        let address = self.memory.alloc(bytes).ok_or(Code::OUT_OF_MEMORY)?;
        self.allocations.insert(address, Allocation { bytes, device, freed: false });
        self.live += bytes;
        self.peak = self.peak.max(self.live);
        Ok(address)
    }

    /// Mark memory as given back; the free itself is still to be queued.
    fn give_back(&mut self, address: u64, call: &str) -> Outcome {
        match self.allocations.get_mut(&address) {
            Some(a) if !a.freed => {
                a.freed = true;
                self.live -= a.bytes;
                Ok(())
            }
            Some(_) => Err(self.refuse(Code::INVALID_VALUE, call, format!("{address:#x} is freed twice"))),
            None => Err(self.refuse(
                Code::INVALID_VALUE,
                call,
                format!("{address:#x} is not the start of a live allocation"),
            )),
        }
    }

    /// A range of device memory in a call: inside one live allocation.
    fn range(&mut self, address: u64, bytes: u64, call: &str) -> Outcome {
        if bytes == 0 {
            return Ok(());
        }
        let found = self.allocations.range(..=address).next_back();
        let (why, bounds) = match found {
            Some((&start, a)) if address - start < a.bytes => match (a.freed, a.bytes - (address - start)) {
                (false, left) if bytes <= left => return Ok(()),
                (false, left) => ("ends outside its allocation", format!(", {left} bytes are left")),
                (true, _) => ("is in freed memory", String::new()),
            },
            _ => ("is in no allocation", String::new()),
        };
        Err(self.refuse(
            Code::INVALID_VALUE,
            call,
            format!("{bytes} bytes at {address:#x}: the range {why}{bounds}"),
        ))
    }

    /// Is a host range page-locked?
    pub fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        let found = self.pinned.range(..=address).next_back();
        found.is_some_and(|(&start, &size)| address - start + bytes <= size)
    }

    fn write(&mut self, to: u64, from: *const c_void, bytes: usize, stream: Handle, call: &str) -> Outcome {
        let stream = self.stream(stream)?;
        self.range(to, bytes as u64, call)?;
        if bytes == 0 {
            return Ok(());
        }
        if from.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        if self.is_pinned(from as usize, bytes) {
            return self.submit(stream, Op::WritePinned { to, from: from as usize, bytes });
        }
        self.pageable(stream, call)?;
        // SAFETY: not null, and the caller vouches for `bytes` readable bytes there during the call.
        let host = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
        self.submit(stream, Op::Write { to, bytes: host.into() })
    }

    fn read(&mut self, to: *mut c_void, from: u64, bytes: usize, stream: Handle, call: &str) -> Outcome {
        let stream = self.stream(stream)?;
        self.range(from, bytes as u64, call)?;
        if bytes == 0 {
            return Ok(());
        }
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        if self.is_pinned(to as usize, bytes) {
            return self.submit(stream, Op::ReadPinned { to: to as usize, from, bytes });
        }
        self.pageable(stream, call)?;
        self.forbid_implicit(stream)?;
        let goal = self.base(stream);
        self.run_until(&goal)?;
        // SAFETY: not null, and the caller vouches for `bytes` writable bytes there during the call.
        let host = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        self.memory.read(from, host).map_err(|fault| {
            self.faults.push(FaultInfo { kernel: call.into(), ..FaultInfo::from(&fault) });
            Code::of(fault.kind)
        })
    }

    /// Pageable host memory is not modelled in captures: a graph would name memory that nobody keeps alive.
    fn pageable(&mut self, stream: Handle, call: &str) -> Outcome {
        self.forbid_capturing(stream).map_err(|code| {
            self.refuse(code, call, "a copy with pageable host memory in a stream that is captured")
        })
    }

    fn fill(&mut self, to: u64, pattern: &[u8], count: usize, stream: Handle, call: &str) -> Outcome {
        let stream = self.stream(stream)?;
        let bytes = (count * pattern.len()) as u64;
        self.range(to, bytes, call)?;
        if !to.is_multiple_of(pattern.len() as u64) {
            return Err(Code::INVALID_VALUE);
        }
        if bytes == 0 {
            return Ok(());
        }
        self.submit(stream, Op::Fill { to, pattern: pattern.into(), bytes })
    }

    fn copy(&mut self, to: u64, from: u64, bytes: usize, stream: Handle, call: &str) -> Outcome {
        let (stream, bytes) = (self.stream(stream)?, bytes as u64);
        self.range(to, bytes, call)?;
        self.range(from, bytes, call)?;
        if bytes == 0 {
            return Ok(());
        }
        self.submit(stream, Op::Copy { to, from, bytes })
    }

    /// A synchronous call: in the legacy stream, and done when it returns.
    fn synchronous(&mut self, body: impl FnOnce(&mut State) -> Outcome) -> Outcome {
        self.forbid_in_capture()?;
        body(self)?;
        let legacy = self.stream(0)?;
        let goal = self.base(legacy);
        self.run_until(&goal)
    }
}

cu!(cuMemAlloc_v2(address: Out<u64>, bytes: usize) Fails |s| {
    s.forbid_in_capture()?;
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    address.set(s.allocate(bytes)?)
});

fn allocate_async(s: &mut State, address: Out<u64>, bytes: usize, stream: Handle, call: &str) -> Outcome {
    let stream = s.stream(stream)?;
    s.forbid_capturing(stream)
        .map_err(|code| s.refuse(code, call, "memory nodes of graphs are not modelled"))?;
    address.set(if bytes == 0 { 0 } else { s.allocate(bytes)? })
}

cu!(cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) Fails
    |s| allocate_async(s, address, bytes, stream, "cuMemAllocAsync"));
cu!(cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, _pool: Handle, stream: Handle) Fails
    |s| allocate_async(s, address, bytes, stream, "cuMemAllocFromPoolAsync"));

cu!(cuMemFree_v2(address: u64) Releases |s| {
    s.forbid_in_capture()?;
    if address == 0 {
        return Ok(());
    }
    s.give_back(address, "cuMemFree_v2")?;
    let outcome = s.run_all();
    s.allocations.remove(&address);
    if let Err(fault) = s.memory.free(address) {
        s.faults.push(FaultInfo::from(&fault));
    }
    outcome
});

cu!(cuMemFreeAsync(address: u64, stream: Handle) Releases |s| {
    let stream = s.stream(stream)?;
    if address == 0 {
        return Ok(());
    }
    s.forbid_capturing(stream)
        .map_err(|code| s.refuse(code, "cuMemFreeAsync", "memory nodes of graphs are not modelled"))?;
    s.give_back(address, "cuMemFreeAsync")?;
    s.submit(stream, Op::Free(address))
});

cu!(cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) Fails |s| {
    let device = s.device()?;
    let used: u64 = s.allocations.values().filter(|a| a.device == device && !a.freed).map(|a| a.bytes).sum();
    free.set(s.options.capacity.saturating_sub(used) as usize)?;
    total.set(s.options.capacity as usize)
});

fn host_layout(bytes: usize) -> Outcome<Layout> {
    Layout::from_size_align(bytes.max(1), 4096).map_err(|_| Code::OUT_OF_MEMORY)
}

cu!(cuMemHostAlloc(address: Out<*mut c_void>, bytes: usize, _flags: u32) Fails |s| {
    s.current()?;
    s.forbid_in_capture()?;
    // SAFETY: the layout is never of size 0.
    let host = unsafe { std::alloc::alloc(host_layout(bytes)?) };
    if host.is_null() {
        return Err(Code::OUT_OF_MEMORY);
    }
    // SAFETY: freshly allocated with `bytes` bytes. As on the device, what nobody wrote is no number.
    unsafe { host.write_bytes(0xff, bytes) };
    s.pinned.insert(host as usize, bytes);
    address.set(host.cast())
});

cu!(cuMemFreeHost(address: *mut c_void) Releases |s| {
    s.forbid_in_capture()?;
    let Some(&bytes) = s.pinned.get(&(address as usize)) else {
        return Err(s.refuse(Code::INVALID_VALUE, "cuMemFreeHost", "not the start of page-locked memory"));
    };
    let outcome = s.run_all();
    s.pinned.remove(&(address as usize));
    // SAFETY: allocated by cuMemHostAlloc with this layout, not freed yet: it was in the table until now.
    unsafe { std::alloc::dealloc(address.cast(), host_layout(bytes)?) };
    outcome
});

cu!(cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) Fails
    |s| s.write(to, from, bytes, stream, "cuMemcpyHtoDAsync_v2"));
cu!(cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) Fails
    |s| s.synchronous(|s| s.write(to, from, bytes, 0, "cuMemcpyHtoD_v2")));
cu!(cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) Fails
    |s| s.read(to, from, bytes, stream, "cuMemcpyDtoHAsync_v2"));
cu!(cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) Fails
    |s| s.synchronous(|s| s.read(to, from, bytes, 0, "cuMemcpyDtoH_v2")));
cu!(cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) Fails
    |s| s.copy(to, from, bytes, stream, "cuMemcpyDtoDAsync_v2"));
cu!(cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) Fails
    |s| s.synchronous(|s| s.copy(to, from, bytes, 0, "cuMemcpyDtoD_v2")));
cu!(cuMemcpyPeerAsync(to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize, stream: Handle) Fails
    |s| s.copy(to, from, bytes, stream, "cuMemcpyPeerAsync"));

cu!(cuMemsetD8Async(to: u64, value: u8, n: usize, stream: Handle) Fails
    |s| s.fill(to, &[value], n, stream, "cuMemsetD8Async"));
cu!(cuMemsetD8_v2(to: u64, value: u8, n: usize) Fails
    |s| s.synchronous(|s| s.fill(to, &[value], n, 0, "cuMemsetD8_v2")));
cu!(cuMemsetD16Async(to: u64, value: u16, n: usize, stream: Handle) Fails
    |s| s.fill(to, &value.to_le_bytes(), n, stream, "cuMemsetD16Async"));
cu!(cuMemsetD16_v2(to: u64, value: u16, n: usize) Fails
    |s| s.synchronous(|s| s.fill(to, &value.to_le_bytes(), n, 0, "cuMemsetD16_v2")));
cu!(cuMemsetD32Async(to: u64, value: u32, n: usize, stream: Handle) Fails
    |s| s.fill(to, &value.to_le_bytes(), n, stream, "cuMemsetD32Async"));
cu!(cuMemsetD32_v2(to: u64, value: u32, n: usize) Fails
    |s| s.synchronous(|s| s.fill(to, &value.to_le_bytes(), n, 0, "cuMemsetD32_v2")));
