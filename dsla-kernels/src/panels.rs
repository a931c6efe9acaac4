//! Keys and values of all kv heads, packed once for many tiles of queries: either product of attention then reads its right
//! side line after line.

use crate::gemm::{Into, gemm_raw, rows};
use crate::host::Host;
use crate::par::{self, SendPtr};

/// Keys per packing task: whole panels.
const RUN: usize = 256;

/// f32, zero where there is no key.
pub(crate) struct Panels {
    /// Transposed in panels of 16 keys, [G][rows / 16][D][16].
    keys: Host<f32>,
    /// In panels of 16 columns, [G][D / 16][rows][16].
    values: Host<f32>,
    /// Keys of a head: those before the first, then all, up to whole panels.
    rows: usize,
    d: usize,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Keys,
    Values,
}

impl Panels {
    /// Of s keys for each of g heads, after `lead` rows of nothing; `read(of, head, j, out [n, D])` is asked for keys j..j + n.
    pub fn new(
        g: usize,
        s: usize,
        d: usize,
        lead: usize,
        read: impl Fn(Of, usize, usize, &mut [f32]) + Sync,
    ) -> Panels {
        let (rows, wide) = ((lead + s).next_multiple_of(16), d.next_multiple_of(16));
        let (mut keys, mut values) = (Host::<f32>::zeros(g * rows * d), Host::<f32>::zeros(g * rows * wide));
        let (kp, vp) = (SendPtr(keys.as_mut_ptr()), SendPtr(values.as_mut_ptr()));
        let runs = rows.div_ceil(RUN);
        par::for_each(if d == 0 { 0 } else { runs * g }, |task| {
            let (g, first) = (task / runs, task % runs * RUN);
            let mut buf = Host::<f32>::scratch(16 * d);
            for row in (first..rows.min(first + RUN)).step_by(16) {
                // Keys j0..j1 lie from `skip` on in this panel.
                let (j0, j1) = (row.saturating_sub(lead), (row + 16).saturating_sub(lead).min(s));
                let (skip, buf) = (lead.saturating_sub(row), &mut buf[..j1.saturating_sub(j0) * d]);
                // SAFETY: these panels of keys and rows of values are this task's alone.
                let part = |p: &SendPtr<f32>, at: usize, len: usize| unsafe {
                    std::slice::from_raw_parts_mut(p.get().add(at), len)
                };
                let panel = part(&kp, (g * rows + row) * d, 16 * d);
                read(Of::Keys, g, j0, buf);
                for (l, key) in buf.chunks_exact(d).enumerate() {
                    key.iter().enumerate().for_each(|(c, x)| panel[c * 16 + skip + l] = *x);
                }
                read(Of::Values, g, j0, buf);
                for c in (0..d).step_by(16) {
                    let lines =
                        part(&vp, (g * wide + c) * rows + (row + skip) * 16, j1.saturating_sub(j0) * 16);
                    let cols = 16.min(d - c);
                    for (line, value) in lines.chunks_exact_mut(16).zip(buf.chunks_exact(d)) {
                        line[..cols].copy_from_slice(&value[c..c + cols]);
                    }
                }
            }
        });
        Panels { keys, values, rows, d }
    }

    /// a [m, cols], rows `ld` apart, <- q [m, D] times rows `first`.. of head g; `first` begins a panel.
    pub fn scores(&self, g: usize, first: usize, cols: usize, q: &[f32], a: &mut [f32], ld: usize) {
        let (d, m) = (self.d, q.len() / self.d.max(1));
        if m == 0 || cols == 0 {
            return;
        }
        let k = &self.keys[(g * self.rows + first) * d..][..cols.next_multiple_of(16) * d];
        assert!(
            first.is_multiple_of(16) && (m - 1) * ld + cols <= a.len(),
            "scores: {m} rows of {cols}, {ld} apart"
        );
        // SAFETY: q holds m rows of d, k whole panels for `cols` keys, a m rows.
        unsafe { gemm_raw(Into::Store, m, cols, d, rows(q, d), k.as_ptr(), 16, 16 * d, a.as_mut_ptr(), ld) }
    }

    /// out [m, D] <- (or +=) a [m, cols], rows `ld` apart, times the values of rows `first`.. of head g.
    pub fn weighted(
        &self,
        into: Into,
        g: usize,
        first: usize,
        cols: usize,
        a: &[f32],
        ld: usize,
        out: &mut [f32],
    ) {
        let (d, m, wide) = (self.d, out.len() / self.d.max(1), self.d.next_multiple_of(16));
        if m == 0 {
            return;
        }
        let v = &self.values[(g * wide * self.rows) + first * 16..];
        assert!(
            (wide - 16) * self.rows + cols * 16 <= v.len(),
            "weighted: {cols} rows from {first} of {}",
            self.rows
        );
        assert!((m - 1) * ld + cols <= a.len(), "weighted: {m} rows of {cols}, {ld} apart");
        // SAFETY: a holds m rows, every panel of v `cols` lines, out m rows of d.
        unsafe {
            gemm_raw(into, m, d, cols, rows(a, ld), v.as_ptr(), 16, 16 * self.rows, out.as_mut_ptr(), d)
        }
    }
}
