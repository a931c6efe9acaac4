//! Prompts with 16-bit values and scalar gates: chunks of 64 keys on the tensor cores.

use super::{State, code};
use crate::cuda::{Source, launch};
use crate::ops::dsla::{Args, Dims, OP};
use crate::{DType, DType::F32, Device, Result, Tensor, View, ViewMut};

/// D and F of the kernels below: F is D or 2 D.
fn sizes(v: &[&str]) -> bool {
    !matches!((v[1], v[2]), ("64", "64" | "128") | ("128", "128" | "256"))
}

const AXES: &[(&str, &[&str])] = &[("T", &["bf16", "f16"]), ("D", &["64", "128"]), ("F", &["64", "128", "256"])];

pub static STATES: Source = Source { name: "dsla_states", text: include_str!("states.ptx"), axes: AXES, skip: sizes };

pub static CHUNK: Source = Source {
    name: "dsla_chunk",
    text: concat!(include_str!("chunk.ptx"), include_str!("chunk_entry.ptx")),
    axes: AXES,
    skip: sizes,
};

/// Keys per chunk.
const LEN: usize = 64;
/// Bytes that the copies of the states may take: longer prompts go in runs of chunks.
const COPIES: usize = 256 << 20;

/// Whether these kernels do it.
pub fn takes(n: Dims, v: DType) -> bool {
    matches!(v, DType::BF16 | DType::F16) && n.e == 1 && matches!(n.d, 64 | 128) && (n.f == n.d || n.f == 2 * n.d)
}

/// The chunks `first .. first + count` of the keys.
struct Run {
    first: usize,
    count: usize,
    /// Keys of the run.
    l: usize,
}

fn runs(n: Dims) -> impl Iterator<Item = Run> {
    let chunks = n.l.div_ceil(LEN);
    let most = (COPIES / (4 * n.g * n.f * n.d)).max(1);
    (0..chunks).step_by(most).map(move |first| {
        let count = most.min(chunks - first);
        Run { first, count, l: (count * LEN).min(n.l - first * LEN) }
    })
}

/// Memory of a run.
struct Scratch {
    cum: Tensor,
    tail: Tensor,
    copies: Option<[Tensor; 2]>,
}

impl Scratch {
    fn new(device: Device, n: Dims, run: &Run, copies: Option<DType>) -> Result<Scratch> {
        let decay = || Tensor::empty_on(device, [2, n.g, LEN * run.count], F32);
        let copies = match copies {
            Some(t) => Some([
                Tensor::empty_on(device, [run.count, n.g, 2 * n.f * n.d], t)?,
                Tensor::empty_on(device, [run.count, n.g, 4 * n.f], t)?,
            ]),
            None => None,
        };
        Ok(Scratch { cum: decay()?, tail: decay()?, copies })
    }
}

fn values(n: Dims, v: DType) -> [&'static str; 3] {
    let size = |x| match x {
        64 => "64",
        128 => "128",
        _ => "256",
    };
    [v.name(), size(n.d), size(n.f)]
}

/// Advance the states over a run; copies of those before each chunk go to the scratch memory.
fn states(phi_k: View, v: View, log_decay: View, n: Dims, run: &Run, state: &mut State, to: &mut Scratch) -> Result<()> {
    let (device, dtype, sizes) = (v.device(), v.dtype(), values(n, v.dtype()));
    let (a, b) = (run.first * LEN, run.first * LEN + run.l);
    let decay = [2, n.g, LEN * run.count];
    launch(OP, device, &STATES, &sizes, "dsla_decay")?
        .input_aligned("log_decay", log_decay.rows(a, b), F32, &[run.l, 2, n.g, 1], 4)
        .output("cum", &mut to.cum.view_mut(), F32, &decay)
        .output("tail", &mut to.tail.view_mut(), F32, &decay)
        .u32("l", run.l)
        .u32("g", n.g)
        .u32("chunks", run.count)
        .run((run.count * (2 * n.g).div_ceil(8)).div_ceil(4), 128, 0)?;
    let [s_copy, z_copy] = match &to.copies {
        Some([s, z]) => [Some(s.view()), Some(z.view())],
        None => [None, None],
    };
    launch(OP, device, &STATES, &sizes, "dsla_states")?
        .input("phi_k", phi_k.rows(a, b), F32, &[run.l, n.g, n.f])
        .input("v", v.rows(a, b), dtype, &[run.l, n.g, n.d])
        .input("cum", to.cum.view(), F32, &decay)
        .input("tail", to.tail.view(), F32, &decay)
        .output_aligned("s", &mut state.s, F32, &[2, n.g, n.f, n.d], 4)
        .output_aligned("z", &mut state.z, F32, &[2, n.g, n.f], 4)
        .optional("s_copy", s_copy, dtype, &[run.count, n.g, 2 * n.f * n.d])
        .optional("z_copy", z_copy, dtype, &[run.count, n.g, 4 * n.f])
        .u32("l", run.l)
        .u32("g", n.g)
        .u32("chunks", run.count)
        .run(n.g * (n.f / 64) * (n.d / 64), 128, 0)
}

/// Queries of the chunks `origin ..`, whose states `from` holds (none: no key has left the window yet).
fn queries(x: &Args, n: Dims, origin: isize, count: usize, run: &Run, from: Option<&Scratch>, into: &mut Into) -> Result<()> {
    let (device, t) = (x.v.device(), x.v.dtype());
    let mut l = launch(OP, device, &CHUNK, &values(n, t), "dsla_chunk")?
        .input("q", x.q, F32, &[n.t, n.h, n.d])
        .input("k", x.k, t, &[n.r + n.t, n.g, n.d])
        .input("v", x.v, t, &[n.r + n.t, n.g, n.d]);
    l = if n.n > 0 {
        l.input("sink_k", x.sink_k, t, &[n.n, n.g, n.d]).input("sink_v", x.sink_v, t, &[n.n, n.g, n.d])
    } else {
        l.null("sink_k").null("sink_v")
    };
    l = l.input("phi_q", x.phi_q, F32, &[n.t, n.h, n.f]).input("phi_k", x.phi_k, F32, &[n.l, n.g, n.f]);
    l = match from {
        Some(Scratch { cum, copies: Some([s, z]), .. }) => l
            .input("cum", cum.view(), F32, &[2, n.g, LEN * run.count])
            .input("s_copy", s.view(), t, &[run.count, n.g, 2 * n.f * n.d])
            .input("z_copy", z.view(), t, &[run.count, n.g, 4 * n.f]),
        _ => l.null("cum").null("s_copy").null("z_copy"),
    };
    l = l
        .input_aligned("gamma", x.gamma, F32, &[2, n.h], 4)
        .input_aligned("mix", x.mix, F32, &[n.h], 4)
        .input_aligned("slope", x.slope, F32, &[n.h], 4)
        .output_aligned("out", &mut into.out, F32, &[n.t, n.h, n.d], 8)
        .output_aligned("den", &mut into.den, F32, &[n.t, n.h], 4);
    l = match &mut into.peak {
        Some(p) => l.output_aligned("peak", p, F32, &[n.t, n.h], 4),
        None => l.null("peak"),
    };
    l.u32("t", n.t)
        .u32("keys", n.r + n.t)
        .u32("l", n.l)
        .u32("lag", n.lag())
        .u32("h", n.h)
        .u32("g", n.g)
        .u32("w", n.w)
        .u32("n", n.n)
        .u32("position", n.position)
        .u32("chunks", run.count)
        // A negative chunk is a wrapped one.
        .u32("origin", origin as u32 as usize)
        .u32("run", run.first)
        .f32("scale", std::f32::consts::LOG2_E / (n.d as f32).sqrt())
        .u32("divide", usize::from(code(x.normalizer) == 1))
        .run(count * n.h, 2 * n.d, 544 * n.d + 8 * (n.f + 8) + 528)
}

/// Where results go.
pub struct Into<'a> {
    pub out: ViewMut<'a>,
    pub den: ViewMut<'a>,
    pub peak: Option<ViewMut<'a>>,
}

/// Everything but the Rms normaliser, which leaves num in `out`.
pub fn forward(x: &Args, n: Dims, state: &mut State, mut into: Into) -> Result<()> {
    // Chunks of queries that read no state: t = lag + 64 c + r with c < 0.
    let early = n.lag().div_ceil(LEN);
    let reading = n.l.div_ceil(LEN);
    let all = (n.t + early * LEN - n.lag()).div_ceil(LEN);
    let none = Run { first: 0, count: 0, l: 0 };
    if all > reading {
        queries(x, n, -(early as isize), all - reading, &none, None, &mut into)?;
    }
    for run in runs(n) {
        let mut scratch = Scratch::new(x.v.device(), n, &run, Some(x.v.dtype()))?;
        states(x.phi_k, x.v, x.log_decay, n, &run, state, &mut scratch)?;
        queries(x, n, run.first as isize, run.count, &run, Some(&scratch), &mut into)?;
    }
    Ok(())
}

pub fn fold(phi_k: View, v: View, log_decay: View, n: Dims, state: &mut State) -> Result<()> {
    for run in runs(n) {
        let mut scratch = Scratch::new(v.device(), n, &run, None)?;
        states(phi_k, v, log_decay, n, &run, state, &mut scratch)?;
    }
    Ok(())
}
