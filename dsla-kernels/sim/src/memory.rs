//! Device memory: one allocation per address stripe.

use crate::bits::Bits;
use crate::{Fault, FaultKind};

/// Addresses are `(id + 1) << STRIPE | offset`: no overrun of less than 64 GiB reaches a neighbour.
pub(crate) const STRIPE: u32 = 36;

/// One allocation.
pub(crate) struct Alloc {
    pub data: Vec<u8>,
    pub init: Bits,
}

enum Slot {
    Live(Alloc),
    /// Its size when it lived.
    Freed(u64),
}

/// Device memory: allocations with guards, poison and initialisation shadow.
pub struct Memory {
    slots: Vec<Slot>,
    capacity: u64,
    live: u64,
    count: usize,
}

/// The part of an address below its stripe.
pub(crate) fn offset_of(address: u64) -> usize {
    (address & ((1 << STRIPE) - 1)) as usize
}

impl Memory {
    /// Empty. `capacity`: bytes that may be live at once.
    pub fn new(capacity: u64) -> Memory {
        Memory { slots: Vec::new(), capacity, live: 0, count: 0 }
    }

    /// Fresh, uninitialised (NaN-poisoned) memory, 256-byte aligned. None when the capacity is spent.
    pub fn alloc(&mut self, bytes: u64) -> Option<u64> {
        if bytes > self.capacity - self.live || bytes >= 1 << STRIPE || self.slots.len() >= (1 << 27) {
            return None;
        }
        let n = bytes as usize;
        self.slots.push(Slot::Live(Alloc { data: vec![0xFF; n], init: Bits::new(n) }));
        self.live += bytes;
        self.count += 1;
        Some((self.slots.len() as u64) << STRIPE)
    }

    /// Free. A pointer that is not the start of a live allocation is a fault.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        let id = ((address >> STRIPE) as usize).wrapping_sub(1);
        match self.slots.get(id) {
            Some(Slot::Live(a)) if offset_of(address) == 0 => {
                let n = a.data.len() as u64;
                self.slots[id] = Slot::Freed(n);
                self.live -= n;
                self.count -= 1;
                Ok(())
            }
            Some(Slot::Freed(_)) => Err(host("free", address, "it is freed already")),
            _ => Err(host("free", address, "it is not the start of an allocation")),
        }
    }

    /// Host to device.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (a, o) = self.range_mut("write", address, bytes.len())?;
        a.data[o..o + bytes.len()].copy_from_slice(bytes);
        a.init.set(o, bytes.len());
        Ok(())
    }

    /// Device to host. Uninitialised bytes are a fault.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let (a, o) = self.range("read", address, bytes.len())?;
        if !a.init.all(o, bytes.len()) {
            let at = a.init.first_clear(o, bytes.len()).unwrap_or(o);
            return Err(Fault {
                kind: FaultKind::Uninitialised,
                detail: format!(
                    "read {} bytes at {address:#x}: byte {} was never written",
                    bytes.len(),
                    at - o
                ),
                kernel: String::new(),
                line: 0,
            });
        }
        bytes.copy_from_slice(&a.data[o..o + bytes.len()]);
        Ok(())
    }

    /// Fill with a byte.
    pub fn fill(&mut self, address: u64, byte: u8, n: u64) -> Result<(), Fault> {
        let (a, o) = self.range_mut("fill", address, n as usize)?;
        a.data[o..o + n as usize].fill(byte);
        a.init.set(o, n as usize);
        Ok(())
    }

    /// Device to device; initialisation travels along.
    pub fn copy(&mut self, to: u64, from: u64, n: u64) -> Result<(), Fault> {
        let n = n as usize;
        let (a, o) = self.range("copy from", from, n)?;
        let data = a.data[o..o + n].to_vec();
        let init: Vec<bool> = (o..o + n).map(|i| a.init.get(i)).collect();
        let (b, o) = self.range_mut("copy to", to, n)?;
        b.data[o..o + n].copy_from_slice(&data);
        if init.iter().all(|i| *i) {
            b.init.set(o, n);
        } else {
            for (k, i) in init.into_iter().enumerate() {
                if i { b.init.set(o + k, 1) } else { b.init.clear(o + k, 1) }
            }
        }
        Ok(())
    }

    /// Bytes live now.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Allocations live now.
    pub fn allocations(&self) -> usize {
        self.count
    }

    /// The allocation and offset of `n` bytes at `address`, or why there is none.
    #[inline]
    pub(crate) fn find(&mut self, address: u64, n: usize) -> Result<(&mut Alloc, usize), String> {
        let id = ((address >> STRIPE) as usize).wrapping_sub(1);
        let o = offset_of(address);
        // The common case first; the borrow checker wants the reasons on their own path.
        let good = matches!(self.slots.get(id), Some(Slot::Live(a)) if o.saturating_add(n) <= a.data.len());
        if !good {
            return Err(self.why(address, n));
        }
        match &mut self.slots[id] {
            Slot::Live(a) => Ok((a, o)),
            Slot::Freed(_) => Err(String::new()),
        }
    }

    fn why(&self, address: u64, n: usize) -> String {
        let id = ((address >> STRIPE) as usize).wrapping_sub(1);
        let o = offset_of(address);
        match self.slots.get(id) {
            Some(Slot::Live(a)) => {
                format!("bytes {o}..{} of an allocation of {} bytes", o.saturating_add(n), a.data.len())
            }
            Some(Slot::Freed(len)) => format!("byte {o} of a freed allocation of {len} bytes"),
            None if address >> STRIPE == 0 => {
                "no allocation there: a null or plain-number pointer".to_string()
            }
            None => "no allocation there".to_string(),
        }
    }

    fn range(&self, what: &str, address: u64, n: usize) -> Result<(&Alloc, usize), Fault> {
        let id = ((address >> STRIPE) as usize).wrapping_sub(1);
        let o = offset_of(address);
        match self.slots.get(id) {
            Some(Slot::Live(a)) if o.checked_add(n).is_some_and(|e| e <= a.data.len()) => Ok((a, o)),
            _ => Err(host(what, address, &self.why(address, n))),
        }
    }

    fn range_mut(&mut self, what: &str, address: u64, n: usize) -> Result<(&mut Alloc, usize), Fault> {
        self.find(address, n).map_err(|why| host(what, address, &why))
    }
}

fn host(what: &str, address: u64, why: &str) -> Fault {
    Fault {
        kind: FaultKind::OutOfBounds,
        kernel: String::new(),
        line: 0,
        detail: format!("{what} at {address:#x}: {why}"),
    }
}
