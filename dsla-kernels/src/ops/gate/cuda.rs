//! Launches of the PTX kernels.

use super::{Dims, OP};
use crate::cuda::tiles::rows;
use crate::cuda::{Launch, Source, launch};
use crate::{DType::F32, Result, Tensor, View, ViewMut};

static GATE: Source = Source::new("gate", rows!("gate.ptx"), &[("ROWS", &["2", "8"])]);

/// The kernel sources of this op.
pub(crate) static SOURCES: &[&Source] = &[&GATE];

/// Tokens and columns that one warp holds, as in the kernels.
const TOKENS: usize = 4;
const COLUMNS: usize = 128;
const WARPS: usize = 4;
/// Warps that fill a large device: how far the sum over tokens is split. A constant, so that results are the same on
/// every device.
const ENOUGH: usize = 2048;

/// Which outputs share an input, in the words of the kernels.
struct Layout {
    all: usize,
    per: usize,
    run: usize,
    hop: usize,
    rows: &'static str,
    /// Blocks of `rows` outputs per input.
    tiles: usize,
}

fn layout(n: Dims) -> Layout {
    let all = 2 * n.g * n.e;
    let (per, run) = if n.x == 1 { (all, all) } else { (2 * n.e, n.e) };
    let (rows, count) = if per <= 2 { ("2", 2) } else { ("8", 8) };
    Layout { all, per, run, hop: n.g * n.e, rows, tiles: per.div_ceil(count) }
}

impl Layout {
    fn sizes(&self, kernel: Launch, n: Dims, tiles: usize, tasks: usize) -> Launch {
        kernel
            .u32("t", n.t)
            .u32("xs", n.x)
            .u32("k", n.k)
            .u32("all", self.all)
            .u32("per", self.per)
            .u32("run", self.run)
            .u32("hop", self.hop)
            .u32("tiles", tiles)
            .u32("tasks", tasks)
    }
}

pub fn forward(x: View, w: View, b: View, scale: f32, y: &mut ViewMut, n: Dims) -> Result<()> {
    let l = layout(n);
    let tasks = n.t.div_ceil(TOKENS) * n.x * l.tiles;
    let kernel = launch(OP, x.device(), &GATE, &[l.rows], "gate_fwd")?
        .input_aligned("x", x, F32, &[n.t, n.x, n.k], 4)
        .input_aligned("w", w, F32, &[2, n.g, n.e, n.k], 4)
        .input_aligned("b", b, F32, &[2, n.g, n.e], 4)
        .output_aligned("y", y, F32, &[n.t, 2, n.g, n.e], 4);
    l.sizes(kernel, n, l.tiles, tasks).f32("scale", scale).run(tasks.div_ceil(WARPS), 32 * WARPS, 0)
}

/// What [`forward`] made and what came back for it.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    pub y: View<'a>,
    pub dy: View<'a>,
    pub scale: f32,
}

pub fn backward(
    x: View,
    w: View,
    out: Outputs,
    dw: &mut ViewMut,
    db: &mut ViewMut,
    dx: Option<ViewMut>,
    n: Dims,
) -> Result<()> {
    let (device, l) = (x.device(), layout(n));
    let shape = [n.t, 2, n.g, n.e];
    let mut d = Tensor::empty_on(device, shape, F32)?;
    let count = n.t * l.all;
    launch(OP, device, &GATE, &[l.rows], "gate_bwd_output")?
        .input_aligned("y", out.y, F32, &shape, 4)
        .input_aligned("dy", out.dy, F32, &shape, 4)
        .output_aligned("d", &mut d.view_mut(), F32, &shape, 4)
        .u32("n", count)
        .f32("scale", out.scale)
        .run(count.div_ceil(256), 256, 0)?;

    let columns = n.k.div_ceil(COLUMNS);
    let each = n.x * l.tiles * columns;
    let span = n.t.div_ceil(ENOUGH.div_ceil(each.max(1))).max(32);
    let splits = n.t.div_ceil(span);
    let mut parts_w = Tensor::empty_on(device, [splits, l.all, n.k], F32)?;
    let mut parts_b = Tensor::empty_on(device, [splits, l.all], F32)?;
    let tasks = splits * each;
    let kernel = launch(OP, device, &GATE, &[l.rows], "gate_bwd_weight")?
        .input_aligned("x", x, F32, &[n.t, n.x, n.k], 4)
        .input_aligned("d", d.view(), F32, &shape, 4)
        .output_aligned("parts_w", &mut parts_w.view_mut(), F32, &[splits, l.all, n.k], 4)
        .output_aligned("parts_b", &mut parts_b.view_mut(), F32, &[splits, l.all], 4);
    l.sizes(kernel, n, l.tiles, tasks).u32("columns", columns).u32("span", span).run(
        tasks.div_ceil(WARPS),
        32 * WARPS,
        0,
    )?;
    reduce(&parts_w, dw, &[2, n.g, n.e, n.k], splits, l.rows)?;
    reduce(&parts_b, db, &[2, n.g, n.e], splits, l.rows)?;

    let Some(mut dx) = dx else { return Ok(()) };
    let tasks = n.t.div_ceil(TOKENS) * n.x * columns;
    let kernel = launch(OP, device, &GATE, &[l.rows], "gate_bwd_input")?
        .input_aligned("w", w, F32, &[2, n.g, n.e, n.k], 4)
        .input_aligned("d", d.view(), F32, &shape, 4)
        .output_aligned("dx", &mut dx, F32, &[n.t, n.x, n.k], 4);
    l.sizes(kernel, n, columns, tasks).run(tasks.div_ceil(WARPS), 32 * WARPS, 0)
}

/// out += the sum of the parts, in order.
fn reduce(
    parts: &Tensor,
    out: &mut ViewMut,
    shape: &[usize],
    splits: usize,
    rows: &'static str,
) -> Result<()> {
    let count: usize = shape.iter().product();
    launch(OP, parts.device(), &GATE, &[rows], "gate_reduce")?
        .input_aligned("parts", parts.view(), F32, parts.dims(), 4)
        .output_aligned("out", out, F32, shape, 4)
        .u32("n", count)
        .u32("splits", splits)
        .run(count.div_ceil(256), 256, 0)
}
