//! Loads and stores.

use super::env::Touched;
use super::{Env, Hit, Run, Warp, lanes};
use crate::FaultKind;
use crate::op::{Access, Addr, Order, Reg, Space, W};
use crate::race::Touch;

/// Little-endian, up to 8 bytes.
#[inline]
pub(super) fn load_le(b: &[u8]) -> u64 {
    match *b {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// The low `size` bytes, sign-extended to `to` bits (0: zero-extended).
#[inline]
pub(super) fn extend(v: u64, size: usize, to: u8) -> u64 {
    if to == 0 || size == 8 {
        return v;
    }
    let s = 64 - 8 * size as u32;
    let wide = ((v << s) as i64 >> s) as u64;
    if to == 64 { wide } else { wide & ((1 << to) - 1) }
}

impl Env<'_> {
    fn order(&mut self, order: Order, addr: &W, mask: u32, writes: bool) {
        if order.strong
            && let Some(r) = &mut self.track.races
        {
            for i in lanes(mask) {
                r.strong(addr[i], writes, order.release);
            }
        }
    }

    pub fn load(&mut self, w: &mut Warp, a: &Access, mask: u32) -> Run<()> {
        let addr = w.addresses(a.addr, mask)?;
        let (size, n) = (usize::from(a.size), usize::from(a.n));
        let bytes = size * n;
        let mut out = [[0u64; 32]; 4];
        let strong = a.order.strong;
        match a.space {
            Space::Global => {
                self.order(a.order, &addr, mask, false);
                self.global_traffic(&addr, mask, bytes, false);
                for i in lanes(mask) {
                    let b = self.global(addr[i], bytes, i, Touched { read: true, write: false, strong })?;
                    for (k, part) in b.chunks_exact(size).enumerate() {
                        out[k][i] = load_le(part);
                    }
                }
            }
            Space::Shared => {
                self.shared_traffic(&addr, mask, bytes);
                for i in lanes(mask) {
                    let t = Touch { warp: w.id, lane: i, write: false, landing: false, strong };
                    let o = self.shared.check(addr[i], bytes, t)?;
                    for (k, part) in self.shared.data[o..o + bytes].chunks_exact(size).enumerate() {
                        out[k][i] = load_le(part);
                    }
                }
            }
        }
        for (v, r) in out.iter_mut().zip(a.regs).take(n) {
            if a.extend != 0 {
                v.iter_mut().for_each(|v| *v = extend(*v, size, a.extend));
            }
            if let Some(r) = r {
                w.put(r, v, mask);
            }
        }
        Ok(())
    }

    pub fn store(&mut self, w: &mut Warp, a: &Access, mask: u32) -> Run<()> {
        let addr = w.addresses(a.addr, mask)?;
        let (size, n) = (usize::from(a.size), usize::from(a.n));
        let bytes = size * n;
        let mut data = [[0u8; 16]; 32];
        for (k, r) in a.regs.iter().flatten().enumerate() {
            let v = w.get(*r, mask)?;
            for i in 0..32 {
                data[i][k * size..(k + 1) * size].copy_from_slice(&v[i].to_le_bytes()[..size]);
            }
        }
        let strong = a.order.strong;
        match a.space {
            Space::Global => {
                self.order(a.order, &addr, mask, true);
                self.global_traffic(&addr, mask, bytes, true);
                for i in lanes(mask) {
                    let b = self.global(addr[i], bytes, i, Touched { read: false, write: true, strong })?;
                    b.copy_from_slice(&data[i][..bytes]);
                }
            }
            Space::Shared => {
                self.shared_traffic(&addr, mask, bytes);
                for i in lanes(mask) {
                    let t = Touch { warp: w.id, lane: i, write: true, landing: false, strong };
                    let o = self.shared.check(addr[i], bytes, t)?;
                    self.shared.data[o..o + bytes].copy_from_slice(&data[i][..bytes]);
                }
            }
        }
        Ok(())
    }

    /// ld.param: the same for every lane.
    pub fn load_param(
        &mut self,
        w: &mut Warp,
        offset: u32,
        size: u8,
        n: u8,
        to: u8,
        d: &[Option<Reg>; 4],
        mask: u32,
    ) -> Run<()> {
        let size = usize::from(size);
        for k in 0..usize::from(n) {
            let at = offset as usize + k * size;
            let v = extend(load_le(&self.params[at..at + size]), size, to);
            if let Some(r) = d[k] {
                w.put(r, &[v; 32], mask);
            }
        }
        Ok(())
    }

    /// Prefetches of nonsense do no harm on hardware, but nobody means them.
    pub fn prefetch(&mut self, w: &mut Warp, a: Addr, mask: u32) -> Run<()> {
        let addr = w.addresses(a, mask)?;
        for i in lanes(mask) {
            if let Err(why) = self.mem.find(addr[i], 1) {
                let detail = format!("prefetch of global address {:#x}: {why}", addr[i]);
                return Err(Hit::new(FaultKind::OutOfBounds, Some(i), detail));
            }
        }
        Ok(())
    }

    /// One lane's atomic update; the old value.
    pub fn update(
        &mut self,
        w: &Warp,
        space: Space,
        at: u64,
        size: usize,
        lane: usize,
        f: impl FnOnce(u64) -> u64,
    ) -> Run<u64> {
        let slot: &mut [u8] = match space {
            Space::Global => {
                self.global(at, size, lane, Touched { read: true, write: true, strong: true })?
            }
            Space::Shared => {
                let read = Touch { warp: w.id, lane, write: false, landing: false, strong: true };
                self.shared.check(at, size, read)?;
                let o = self.shared.check(at, size, Touch { write: true, ..read })?;
                &mut self.shared.data[o..o + size]
            }
        };
        let old = load_le(slot);
        slot.copy_from_slice(&f(old).to_le_bytes()[..size]);
        Ok(old)
    }
}
