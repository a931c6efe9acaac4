//! The window of the forward pass: its keys packed once, read by every tile of queries.

use super::cpu::scaled_softmax;
use super::{Args, Dims};
use crate::gemm::Into;
use crate::host::Host;
use crate::panels::{Of, Panels};
use crate::vec::head_rows;

/// The call's keys and the sinks.
pub struct Window {
    /// Moved so that the first key of a tile, a multiple of 16 queries from the call's first, begins a panel.
    keys: Panels,
    lead: usize,
    sinks: Panels,
}

impl Window {
    pub fn new(x: &Args, n: Dims) -> Window {
        let first = (n.r + 1) as isize - n.w as isize;
        let lead = (-first).rem_euclid(16) as usize;
        let pack = |count, lead, [k, v]: [_; 2]| {
            Panels::new(n.g, count, n.d, lead, |of, g, j, out: &mut [f32]| {
                head_rows(if of == Of::Keys { k } else { v }, g, j, out.len() / n.d, out)
            })
        };
        Window { keys: pack(n.r + n.t, lead, [&x.k, &x.v]), lead, sinks: pack(n.n, 0, [&x.sink_k, &x.sink_v]) }
    }

    /// What queries t0..t0 + m of kv head g, rows (head, query) of q [rows, D], read: sums of values [rows, D] by weights
    /// e^(s - peak), and each row's peak and sum of weights.
    pub fn tile(&self, n: Dims, g: usize, t0: usize, m: usize, q: Host<f32>) -> (Host<f32>, Vec<(f32, f32)>) {
        let height = q.len() / n.d.max(1);
        // Rows of panels: the first key that a query of the tile sees may lie in the midst of one, where a sequence begins.
        let place = |t: usize| self.lead + (t + n.r + 1).saturating_sub(n.w);
        let (first, last) = (place(t0) / 16 * 16, self.lead + t0 + m + n.r);
        let near = last - first;
        let (cols, ld) = (near + n.n, (near + n.n).next_multiple_of(16));
        let mut a = Host::<f32>::scratch(height * ld);
        self.keys.scores(g, first, near, &q, &mut a, ld);
        self.sinks.scores(g, 0, n.n, &q, &mut a[near.min(height * ld)..], ld);
        let scale = 1.0 / (n.d as f32).sqrt();
        let stats = a.chunks_exact_mut(ld.max(1)).enumerate().map(|(row, a)| {
            let (a, r) = (&mut a[..cols], row % m);
            let (from, to) = (place(t0 + r) - first, self.lead + t0 + r + n.r + 1 - first);
            a[..from].fill(f32::NEG_INFINITY);
            a[to..near].fill(f32::NEG_INFINITY);
            a[near + n.sinks(t0 + r)..].fill(f32::NEG_INFINITY);
            scaled_softmax(a, scale)
        });
        let stats = stats.collect();
        let mut num = q;
        self.keys.weighted(Into::Store, g, first, near, &a, ld, &mut num);
        self.sinks.weighted(Into::Add, g, 0, n.n, &a[near.min(height * ld)..], ld, &mut num);
        (num, stats)
    }
}
