//! cp.async: read at issue, landed at the wait, the latest legal moment.

use super::env::Touched;
use super::{Env, Hit, Run, Warp, lanes};
use crate::FaultKind;
use crate::op::{Addr, Ix};

struct Copy {
    lane: u8,
    size: u8,
    group: u32,
    to: u32,
    data: [u8; 16],
}

/// The copies that a warp has under way.
#[derive(Default)]
pub(crate) struct Copies {
    list: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

impl Copies {
    pub fn commit(&mut self, mask: u32) {
        for i in lanes(mask) {
            self.committed[i] += 1;
        }
    }
}

impl Env<'_> {
    pub fn copy_async(
        &mut self,
        w: &mut Warp,
        dst: Addr,
        src: Addr,
        size: u8,
        src_size: Option<Ix>,
        mask: u32,
    ) -> Run<()> {
        let to = w.addresses(dst, mask)?;
        let from = w.addresses(src, mask)?;
        let n = usize::from(size);
        let mut take = [u32::from(size); 32];
        let mut reading = mask;
        if let Some(s) = src_size {
            take = *w.get32(s, mask)?;
            for i in lanes(mask) {
                if take[i] > u32::from(size) {
                    let detail = format!("cp.async takes {} bytes of {size}", take[i]);
                    return Err(Hit::new(FaultKind::OutOfBounds, Some(i), detail));
                }
                if take[i] == 0 {
                    reading &= !(1 << i);
                }
            }
        }
        if reading != 0 {
            self.global_traffic(&from, reading, n, false);
        }
        self.shared_traffic(&to, mask, n);
        for i in lanes(mask) {
            let mut data = [0; 16];
            let take = take[i] as usize;
            if !from[i].is_multiple_of(n as u64) {
                let detail = format!("{n} bytes at global address {:#x}, not a multiple of {n}", from[i]);
                return Err(Hit::new(FaultKind::Misaligned, Some(i), detail));
            }
            let t = Touched { read: true, write: false, strong: false };
            if take == n {
                data[..n].copy_from_slice(self.global(from[i], n, i, t)?);
            } else {
                for k in 0..take {
                    data[k] = self.global(from[i] + k as u64, 1, i, t)?[0];
                }
            }
            let o = self.shared.promise(to[i], n, w.id, i)?;
            let group = w.copies.committed[i];
            w.copies.list.push(Copy { lane: i as u8, size, group, to: o as u32, data });
        }
        Ok(())
    }

    /// Land all but each lane's last `keep` groups; None: all, committed or not.
    pub fn copy_wait(&mut self, w: &mut Warp, keep: Option<u32>, mask: u32) {
        if keep.is_none() {
            w.copies.commit(mask);
        }
        let keep = keep.unwrap_or(0);
        let committed = w.copies.committed;
        w.copies.list.retain(|c| {
            let i = usize::from(c.lane);
            if mask >> i & 1 == 0 || u64::from(c.group) + u64::from(keep) >= u64::from(committed[i]) {
                return true;
            }
            let (o, n) = (c.to as usize, usize::from(c.size));
            self.shared.land(o, &c.data[..n], w.id, i);
            false
        });
    }
}
