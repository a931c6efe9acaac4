//! Decay gates: log d = max(logsigmoid(w.x + b) / scale, -50), two states per kv head.

pub mod cases;
mod cpu;
pub(crate) mod cuda;
pub mod naive;

use crate::{Device, Error, Result, View, ViewMut};

const OP: &str = "gate";

/// The smallest log decay (upstream's clamp).
pub const MIN_LOG_DECAY: f32 = -50.0;

/// Sizes: T tokens; inputs [T, X, K] with X = G (each kv head its own) or 1 (shared); E decays per state and kv head.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    /// Tokens.
    pub t: usize,
    /// Inputs per token: G or 1.
    pub x: usize,
    /// Length of an input.
    pub k: usize,
    /// Key/value heads.
    pub g: usize,
    /// Decays per state and kv head.
    pub e: usize,
}

fn dims(x: &View, w: &View) -> Result<Dims> {
    let ([t, xs, k], [two, g, e, _]) = (x.dims(OP, "x")?, w.dims(OP, "w")?);
    if two != 2 || (xs != 1 && xs != g) {
        return Err(Error::Shape { op: OP, arg: "x", got: x.shape(), want: format!("[T, 1 or {g}, K] for w {}", w.shape()) });
    }
    Ok(Dims { t, x: xs, k, g, e })
}

/// log decays y [T, 2, G, E] of inputs x [T, X, K]; w: [2, G, E, K]; b: [2, G, E]; all f32.
pub fn forward(x: View, w: View, b: View, scale: f32, mut y: ViewMut) -> Result<()> {
    let n = dims(&x, &w)?;
    if x.device() != Device::Cpu {
        return cuda::forward(x, w, b, scale, &mut y, n);
    }
    let xs = x.expect_f32(OP, "x", &[n.t, n.x, n.k])?;
    let ws = w.expect_f32(OP, "w", &[2, n.g, n.e, n.k])?;
    let bs = b.expect_f32(OP, "b", &[2, n.g, n.e])?;
    let ys = y.expect_f32(OP, "y", &[n.t, 2, n.g, n.e])?;
    cpu::forward(xs, ws, bs, scale, ys, n);
    Ok(())
}

/// Gradients of [`forward`] from its output y and dy: `dw` and `db` are added to, `dx` [T, X, K] is written.
pub fn backward(x: View, w: View, scale: f32, y: View, dy: View, mut dw: ViewMut, mut db: ViewMut, dx: Option<ViewMut>) -> Result<()> {
    let n = dims(&x, &w)?;
    if x.device() != Device::Cpu {
        return cuda::backward(x, w, cuda::Outputs { y, dy, scale }, &mut dw, &mut db, dx, n);
    }
    let xs = x.expect_f32(OP, "x", &[n.t, n.x, n.k])?;
    let ws = w.expect_f32(OP, "w", &[2, n.g, n.e, n.k])?;
    let (ys, dys) = (y.expect_f32(OP, "y", &[n.t, 2, n.g, n.e])?, dy.expect_f32(OP, "dy", &[n.t, 2, n.g, n.e])?);
    let dws = dw.expect_f32(OP, "dw", &[2, n.g, n.e, n.k])?;
    let dbs = db.expect_f32(OP, "db", &[2, n.g, n.e])?;
    let dxs = dx.map(|d| d.expect_f32(OP, "dx", &[n.t, n.x, n.k])).transpose()?;
    cpu::backward(xs, ws, scale, ys, dys, dws, dbs, dxs, n);
    Ok(())
}
