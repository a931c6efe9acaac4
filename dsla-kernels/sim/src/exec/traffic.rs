//! What an access costs: wavefronts and sectors.

use super::{Env, lanes};
use crate::op::W;

/// How many different values among the first `n`.
fn distinct(v: &mut [u64]) -> u64 {
    if v.is_empty() {
        return 0;
    }
    if !v.is_sorted() {
        v.sort_unstable();
    }
    1 + v.windows(2).filter(|p| p[0] != p[1]).count() as u64
}

/// Wavefronts of one phase, and of the same words without conflicts. 32 banks of 4 bytes; a word asked twice is sent once.
fn phase(words: &mut [u64]) -> (u64, u64) {
    let n = distinct(words);
    let mut per_bank = [0u8; 32];
    let mut last = u64::MAX;
    for w in words.iter() {
        if *w != last {
            per_bank[(*w & 31) as usize] += 1;
            last = *w;
        }
    }
    (u64::from(per_bank.iter().copied().max().unwrap_or(0)), n.div_ceil(32))
}

impl Env<'_> {
    fn spend(&mut self, (used, ideal): (u64, u64)) {
        self.counters.shared_wavefronts += used;
        self.counters.shared_ideal += ideal;
        self.wavefronts += used;
    }

    /// A shared access of `bytes` per lane: one phase up to 4 bytes, two of 16 lanes for 8, four of 8 lanes for 16.
    pub fn shared_traffic(&mut self, addr: &W, mask: u32, bytes: usize) {
        let words = bytes.div_ceil(4);
        let span = 32 / words;
        let mut buf = [0; 32];
        for p in 0..words {
            let group = mask & ((1u64 << span) - 1).wrapping_shl((p * span) as u32) as u32;
            let mut n = 0;
            for i in lanes(group) {
                for k in 0..words {
                    buf[n] = addr[i] / 4 + k as u64;
                    n += 1;
                }
            }
            if n > 0 {
                self.spend(phase(&mut buf[..n]));
            }
        }
    }

    /// One 8x8 matrix of 16-byte rows.
    pub fn matrix_traffic(&mut self, rows: &[u64]) {
        let mut buf = [0; 32];
        for (r, a) in rows.iter().enumerate() {
            for k in 0..4 {
                buf[r * 4 + k] = a / 4 + k as u64;
            }
        }
        self.spend(phase(&mut buf[..rows.len() * 4]));
    }

    /// Sectors of 32 bytes, and how many the distinct bytes would fill when packed.
    pub fn global_traffic(&mut self, addr: &W, mask: u32, bytes: usize, store: bool) {
        let mut buf = [0; 32];
        let mut n = 0;
        for i in lanes(mask) {
            buf[n] = addr[i] / bytes as u64;
            n += 1;
        }
        let asked = distinct(&mut buf[..n]);
        // The keys are sorted now, so the sectors are.
        let per = (32 / bytes as u64).max(1);
        for k in &mut buf[..n] {
            *k /= per;
        }
        let sectors = distinct(&mut buf[..n]);
        if store {
            self.counters.global_store_sectors += sectors;
        } else {
            self.counters.global_load_sectors += sectors;
        }
        self.counters.global_ideal += (asked * bytes as u64).div_ceil(32);
        self.wavefronts += sectors.div_ceil(4);
    }
}
