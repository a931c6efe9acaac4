//! ldmatrix, stmatrix, mma.

use super::{Env, Run, Warp};
use crate::num::{MmaKind, ldmatrix, mma_f32, stmatrix};
use crate::op::{Addr, Ix, L};
use crate::race::Touch;

impl Env<'_> {
    /// Lanes 0-7 address the rows of the first matrix, 8-15 of the second ...
    fn rows(&mut self, w: &Warp, n: u8, addr: Addr) -> Run<[u64; 32]> {
        let rows = 8 * usize::from(n);
        let mask = if rows == 32 { !0 } else { (1 << rows) - 1 };
        let a = w.addresses(addr, mask)?;
        for m in 0..usize::from(n) {
            self.matrix_traffic(&a[m * 8..m * 8 + 8]);
        }
        Ok(a)
    }

    /// Rows from the lanes that address them, fragments to all.
    pub fn load_matrix(&mut self, w: &mut Warp, n: u8, trans: bool, d: &[Ix; 4], addr: Addr) -> Run<()> {
        let a = self.rows(w, n, addr)?;
        for m in 0..usize::from(n) {
            let mut el = [[0u16; 8]; 8];
            for r in 0..8 {
                let t = Touch { warp: w.id, lane: 32, write: false, landing: false, strong: false };
                let lane = m * 8 + r;
                let o = self.shared.check(a[lane], 16, t).map_err(|mut h| {
                    h.lane = Some(lane);
                    h
                })?;
                for (e, b) in el[r].iter_mut().zip(self.shared.data[o..o + 16].chunks_exact(2)) {
                    *e = u16::from_le_bytes([b[0], b[1]]);
                }
            }
            w.put32(d[m], &ldmatrix(&el, trans), !0);
        }
        Ok(())
    }

    pub fn store_matrix(&mut self, w: &mut Warp, n: u8, trans: bool, s: &[Ix; 4], addr: Addr) -> Run<()> {
        let a = self.rows(w, n, addr)?;
        for m in 0..usize::from(n) {
            let el = stmatrix(w.get32(s[m], !0)?, trans);
            for r in 0..8 {
                let t = Touch { warp: w.id, lane: 32, write: true, landing: false, strong: false };
                let lane = m * 8 + r;
                let o = self.shared.check(a[lane], 16, t).map_err(|mut h| {
                    h.lane = Some(lane);
                    h
                })?;
                for (e, b) in el[r].iter().zip(self.shared.data[o..o + 16].chunks_exact_mut(2)) {
                    b.copy_from_slice(&e.to_le_bytes());
                }
            }
        }
        Ok(())
    }

    pub fn mma(
        &mut self,
        w: &mut Warp,
        kind: MmaKind,
        a: &[Ix; 4],
        b: &[Ix; 2],
        c: &[Ix; 4],
        d: &[Ix; 4],
    ) -> Run<()> {
        fn take<const N: usize>(w: &Warp, ix: &[Ix; N], n: usize) -> Run<[L; N]> {
            let mut out = [[0; 32]; N];
            for k in 0..n {
                out[k] = *w.get32(ix[k], !0)?;
            }
            Ok(out)
        }
        let (na, nb, nc) = (kind.a_regs(), kind.b_regs(), kind.cd_regs());
        let (va, vb, vc) = (take(w, a, na)?, take(w, b, nb)?, take(w, c, nc)?);
        let out = mma_f32(kind, self.options.mma, &va[..na], &vb[..nb], &vc[..nc]);
        for (k, v) in out.iter().enumerate() {
            w.put32(d[k], v, !0);
        }
        self.counters.mma += 1;
        self.counters.mma_flops += kind.flops();
        Ok(())
    }
}
