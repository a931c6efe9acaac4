//! The linear part on tensor cores: every chunk as matrix products.

use super::super::super::{Grads, OP};
use super::{Borders, CHUNK, Call, DECAY, SUMS};
use crate::cuda::{Launch, launch};
use crate::{DType::F32, Result, Tensor};

impl Call<'_> {
    /// The same on tensor cores; the cumulative log decays.
    pub(super) fn outer(&self, b: &mut Borders, total: &mut Tensor) -> Result<Option<Tensor>> {
        let (n, [s, z]) = (self.n, self.borders());
        let mut cum = Tensor::empty_on(self.device, self.slots(), F32)?;
        self.log_decay(launch(OP, self.device, &DECAY, &[], "dsla_bwd_cum")?)
            .output("cum", &mut cum.view_mut(), F32, &self.slots())
            .output("total", &mut total.view_mut(), F32, &[self.chunks, 2 * n.g, 1])
            .u32("l", n.l)
            .u32("g", n.g)
            .u32("span", self.span)
            .u32("chunks", self.chunks)
            .run(self.chunks, 128, self.turned())?;
        let tasks = self.chunks * n.g * 2 * (n.f / 32) * (n.d / 64);
        let finish = |l: Launch, out: &mut Tensor, out_z: &mut Tensor| {
            l.input("cum", cum.view(), F32, &self.slots())
                .output("out", &mut out.view_mut(), F32, &s)
                .output("out_z", &mut out_z.view_mut(), F32, &z)
                .u32("l", n.l)
                .u32("h", n.h)
                .u32("g", n.g)
                .u32("f", n.f)
                .u32("lag", n.lag())
                .u32("span", self.span)
                .u32("chunks", self.chunks)
                .u32("tasks", tasks)
                .run(tasks.div_ceil(4), 128, 0)
        };
        let l = self.tensor("dsla_bwd_outer_states")?.input("phi_k", self.x.phi_k, F32, &[n.l, n.g, n.f]);
        finish(self.v(l), &mut b.s, &mut b.z)?;
        let l = self
            .tensor("dsla_bwd_outer_grads")?
            .input("phi_q", self.x.phi_q, F32, &[n.t, n.h, n.f])
            .input("d_num", self.d_num.view(), F32, &[n.t, n.h, n.d])
            .input("coef", self.coef.view(), F32, &[n.t, n.h, 4])
            .input_aligned("gamma", self.x.gamma, F32, &[2, n.h], 4);
        finish(l, &mut b.grad_s, &mut b.grad_z)?;
        Ok(Some(cum))
    }

    fn tensor(&self, entry: &'static str) -> Result<Launch> {
        launch(OP, self.device, &CHUNK, &[self.x.v.dtype().name(), self.size], entry)
    }

    /// Shape of the cumulative log decays.
    fn slots(&self) -> [usize; 3] {
        [self.n.g, self.chunks * self.span, 2]
    }

    /// [`Call::chunks`] on tensor cores.
    pub(super) fn products(
        &self,
        b: &Borders,
        cum: &Tensor,
        to: &mut Grads,
        parts_q: &mut Tensor,
        parts_k: &mut Tensor,
    ) -> Result<()> {
        let (n, [s, z]) = (self.n, self.borders());
        let inputs = |entry, states: &Tensor, states_z: &Tensor| -> Result<Launch> {
            let l = self.tensor(entry)?.input("phi_q", self.x.phi_q, F32, &[n.t, n.h, n.f]).input(
                "phi_k",
                self.x.phi_k,
                F32,
                &[n.l, n.g, n.f],
            );
            let l = self.v(l).input("cum", cum.view(), F32, &self.slots());
            Ok(self.reads(l).input("states", states.view(), F32, &s).input(
                "states_z",
                states_z.view(),
                F32,
                &z,
            ))
        };
        let finish = |l: Launch, heads: usize| {
            let tasks = self.chunks * heads * self.tiles * (self.span / 16);
            l.u32("l", n.l)
                .u32("h", n.h)
                .u32("g", n.g)
                .u32("f", n.f)
                .u32("lag", n.lag())
                .u32("span", self.span)
                .u32("chunks", self.chunks)
                .u32("tiles", self.tiles)
                .u32("halves", n.d / 32)
                .u32("tasks", tasks)
                .run(tasks.div_ceil(4), 128, 0)
        };
        let l = inputs("dsla_bwd_chunk_query", &b.s, &b.z)?
            .output("out", &mut to.phi_q, F32, &[n.t, n.h, n.f])
            .output("parts", &mut parts_q.view_mut(), F32, &[n.h, self.tiles, n.l, 2]);
        finish(l, n.h)?;
        let l = inputs("dsla_bwd_chunk_key", &b.grad_s, &b.grad_z)?
            .output("out", &mut to.phi_k, F32, &[n.l, n.g, n.f])
            .output("parts", &mut parts_k.view_mut(), F32, &[n.g, self.tiles, n.l, 2]);
        finish(l, n.g)?;
        launch(OP, self.device, &SUMS, &[], "dsla_bwd_anchor")?
            .input("border", b.s.view(), F32, &s)
            .input("border_z", b.z.view(), F32, &z)
            .input("grad", b.grad_s.view(), F32, &s)
            .input("grad_z", b.grad_z.view(), F32, &z)
            .output("parts_k", &mut parts_k.view_mut(), F32, &[n.g, self.tiles, n.l, 2])
            .u32("l", n.l)
            .u32("g", n.g)
            .u32("f", n.f)
            .u32("d", n.d)
            .u32("span", self.span)
            .u32("tiles", self.tiles)
            .run(self.chunks * 2 * n.g, 128, 0)
    }
}
