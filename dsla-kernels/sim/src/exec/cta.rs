//! A launch: sizes checked, CTAs one after the other, warps by turns.

use super::warp::State;
use super::{Env, Hit, Warp};
use crate::op::{Func, Slot, Special};
use crate::shared::Shared;
use crate::{Counters, Fault, FaultKind, Launch, Memory, Module, Options};

/// What the largest GPU gives one CTA.
const SHARED_LIMIT: u32 = 227 * 1024;
/// Instructions a warp runs before the next gets its turn.
const SLICE: u64 = 20_000;

pub(crate) fn launch(m: &Module, l: &Launch, mem: &mut Memory, o: &Options) -> Result<Counters, Fault> {
    let refuse =
        |detail: String| Fault { kind: FaultKind::Launch, kernel: l.entry.to_string(), line: 0, detail };
    let Some(func) = m.function(l.entry) else {
        return Err(refuse("the module has no such kernel".to_string()));
    };
    if let Some(why) = bad_sizes(func, l) {
        return Err(refuse(why));
    }
    let threads: u32 = l.block.iter().product();
    let count = threads.div_ceil(32) as usize;
    let bytes = (func.dynamic_base + l.shared).max(func.static_shared) as usize;
    let mut env = Env::new(func, mem, o, l.params, Shared::new(bytes, count, o.races));
    env.warps = count;
    let mut warps: Vec<Warp> = (0..count)
        .map(|i| {
            let left = threads - 32 * i as u32;
            let mut w = Warp::new(func, i, if left >= 32 { !0 } else { (1 << left) - 1 });
            fill(&mut w, l, bytes as u32);
            w
        })
        .collect();
    let ctas: u64 = l.grid.iter().map(|g| u64::from(*g)).product();
    let mut order = Vec::new();
    if o.schedule != 0 {
        order = (0..ctas).collect();
        for i in (1..order.len()).rev() {
            let j = (env.random() % (i as u64 + 1)) as usize;
            order.swap(i, j);
        }
    }
    for k in 0..ctas {
        let linear = order.get(k as usize).copied().unwrap_or(k);
        let (gx, gy) = (u64::from(l.grid[0]), u64::from(l.grid[1]));
        let id = [(linear % gx) as u32, (linear / gx % gy) as u32, (linear / gx / gy) as u32];
        cta(&mut env, &mut warps, linear, id).map_err(|(w, h)| fault(l, &warps[w], id, h))?;
    }
    Ok(crate::counters::finish(env))
}

fn bad_sizes(func: &Func, l: &Launch) -> Option<String> {
    let threads = l.block.iter().try_fold(1u32, |p, b| p.checked_mul(*b)).unwrap_or(u32::MAX);
    if l.grid.contains(&0) || l.block.contains(&0) {
        return Some(format!("grid {:?}, block {:?}: a size is zero", l.grid, l.block));
    }
    if l.grid[0] > i32::MAX as u32 || l.grid[1] > 65535 || l.grid[2] > 65535 {
        return Some(format!("grid {:?}, want at most [2^31 - 1, 65535, 65535]", l.grid));
    }
    if threads > 1024 || l.block[2] > 64 {
        return Some(format!("block {:?}, want at most 1024 threads and 64 in z", l.block));
    }
    if let Some(r) = func.reqntid
        && r != l.block
    {
        return Some(format!("block {:?}, the kernel requires {r:?}", l.block));
    }
    if let Some(max) = func.max_threads
        && threads > max
    {
        return Some(format!("{threads} threads per block, the kernel allows {max}"));
    }
    if l.shared > SHARED_LIMIT || func.dynamic_base + l.shared > SHARED_LIMIT {
        return Some(format!(
            "{} + {} bytes of shared memory, want at most {SHARED_LIMIT}",
            func.dynamic_base, l.shared
        ));
    }
    if l.params.len() != func.param_bytes {
        return Some(format!("{} bytes of parameters, want {}", l.params.len(), func.param_bytes));
    }
    None
}

/// Immediates and special registers that do not change with the CTA.
fn fill(w: &mut Warp, l: &Launch, shared: u32) {
    let func = w.func;
    for (i, s) in func.r32.iter().enumerate() {
        match *s {
            Slot::Var => {}
            Slot::Const(v) => w.r32[i] = [v as u32; 32],
            Slot::Special(s) => {
                let id = w.id as u32;
                w.r32[i] = std::array::from_fn(|lane| special(s, func, l, shared, id, lane as u32));
            }
        }
    }
    for (i, s) in func.r64.iter().enumerate() {
        match *s {
            Slot::Var => {}
            Slot::Const(v) => w.r64[i] = [v; 32],
            Slot::Special(s) => w.r64[i] = [u64::from(special(s, func, l, shared, 0, 0)); 32],
        }
    }
}

fn special(s: Special, func: &Func, l: &Launch, shared: u32, warp: u32, lane: u32) -> u32 {
    let thread = warp * 32 + lane;
    let [bx, by, _] = l.block;
    match s {
        Special::Tid(0) => thread % bx,
        Special::Tid(1) => thread / bx % by,
        Special::Tid(_) => thread / bx / by,
        Special::Ntid(d) => l.block[usize::from(d)],
        Special::Nctaid(d) => l.grid[usize::from(d)],
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NwarpId => l.block.iter().product::<u32>().div_ceil(32),
        Special::NsmId => 108,
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskLe => (2u64 << lane).wrapping_sub(1) as u32,
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskGe => !((1 << lane) - 1),
        Special::LaneMaskGt => !((2u64 << lane).wrapping_sub(1) as u32),
        Special::DynamicSharedSize => l.shared,
        Special::TotalSharedSize => shared,
        Special::DynamicBase => func.dynamic_base,
        Special::Ctaid(_) | Special::SmId => 0,
    }
}

/// Run one CTA; a fault comes with its warp.
fn cta<'a>(env: &mut Env<'a>, warps: &mut [Warp<'a>], linear: u64, id: [u32; 3]) -> Result<(), (usize, Hit)> {
    env.cta = linear;
    env.exited = 0;
    env.shared.start();
    env.bars.fill(Default::default());
    if let Some(r) = &mut env.track.races {
        r.start(linear as u32);
    }
    for w in warps.iter_mut() {
        w.start();
        for (i, s) in w.func.r32.iter().enumerate() {
            match s {
                Slot::Special(Special::Ctaid(d)) => w.r32[i] = [id[usize::from(*d)]; 32],
                Slot::Special(Special::SmId) => w.r32[i] = [(linear % 108) as u32; 32],
                _ => {}
            }
        }
    }
    let mut turn = 0;
    loop {
        let ready = warps.iter().filter(|w| w.state == State::Ready).count();
        if ready == 0 {
            break;
        }
        // In order: the next ready warp after the last. Under a schedule: any.
        let n = warps.len();
        if env.options.schedule != 0 {
            turn = env.random() as usize % n;
        }
        while warps[turn % n].state != State::Ready {
            turn += 1;
        }
        let i = turn % n;
        let slice = if env.options.schedule == 0 { SLICE } else { 1 + env.random() % 64 };
        env.run_warp(&mut warps[i], slice).map_err(|h| (i, h))?;
        for v in std::mem::take(&mut env.released) {
            warps[v].state = State::Ready;
        }
        turn += 1;
    }
    match warps.iter().position(|w| w.state != State::Done) {
        None => Ok(()),
        Some(stuck) => Err((stuck, deadlock(warps))),
    }
}

fn deadlock(warps: &[Warp]) -> Hit {
    let mut lines = Vec::new();
    for w in warps {
        let line = w.func.ops.get(w.pc as usize - 1).map_or(0, |o| o.line);
        if let State::Waiting(b) = w.state {
            lines.push(format!("warp {} waits at barrier {b}, line {line}", w.id));
        }
    }
    let done = warps.len() - lines.len();
    Hit::new(FaultKind::Deadlock, None, format!("{}; {done} warps are done", lines.join("; ")))
}

fn fault(l: &Launch, w: &Warp, cta: [u32; 3], h: Hit) -> Fault {
    // Who is stuck has gone past its barrier.
    let pc = (w.pc as usize).saturating_sub(usize::from(h.kind == FaultKind::Deadlock));
    let line = w.func.ops.get(pc).map_or(0, |o| o.line as usize);
    let [x, y, z] = cta;
    let at = match h.lane {
        Some(lane) => {
            let t = (w.id * 32 + lane) as u32;
            let (tx, ty, tz) = (t % l.block[0], t / l.block[0] % l.block[1], t / l.block[0] / l.block[1]);
            format!("block ({x},{y},{z}) thread ({tx},{ty},{tz})")
        }
        None => format!("block ({x},{y},{z}) warp {}", w.id),
    };
    Fault { kind: h.kind, kernel: l.entry.to_string(), line, detail: format!("{at}: {}", h.detail) }
}
