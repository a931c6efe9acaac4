//! One sequence through the whole model: the teacher, and a student forward and backward to its converted layers'
//! parameters.

use crate::Result;
use crate::tape::{Block, Grads, Net, Tape};
use crate::transposed::Transposed;
use dsla_core::attention::DslaAttention;
use dsla_core::kernels::ops::axpby;
use dsla_core::{DType, DslaParams, Tensor};
use dsla_model::Model;

/// What is kept of a layer until its backward pass.
enum Kept {
    Tape(Box<Tape>),
    /// The layer's input alone: the rest is computed again.
    Input(Tensor),
}

/// A student's forward pass over one sequence, from its first converted layer on.
pub struct Run<'a> {
    net: Net<'a>,
    model: &'a Model,
    /// Per layer of the model; None: softmax.
    layers: &'a [Option<&'a DslaAttention>],
    first: usize,
    kept: Vec<Kept>,
    /// Per layer from `first` on: the gradient of the alignment error, where the layer is converted.
    d_projected: Vec<Option<Tensor>>,
    /// The last layer's output [T, C].
    pub hidden: Tensor,
    /// Squared error of the converted layers' projected attention outputs over the teacher's spread, mean over layers.
    pub aligned: f64,
}

/// What the teacher gives: its last layer's output, the input of the student's first converted layer, and the attention
/// outputs behind their projections that alignment compares with.
pub struct Teacher {
    /// [T, C]
    pub hidden: Tensor,
    /// Input of layer `first` [T, C]: up to there the student is the teacher.
    shared: Tensor,
    /// Per layer: [T, C] where it is converted in the student.
    projected: Vec<Option<Tensor>>,
}

impl Teacher {
    /// Run the teacher over one sequence; `converted` says which layers the student converts.
    pub fn run(model: &Model, tokens: &[u32], converted: &[bool], aligned: bool) -> Result<Teacher> {
        let first = converted.iter().position(|c| *c).unwrap_or(converted.len());
        let net = Net::of(model);
        let mut x = model.embed(tokens)?;
        let mut shared = x.try_clone()?;
        let mut projected = Vec::with_capacity(converted.len());
        for (l, &c) in converted.iter().enumerate() {
            if l == first {
                shared = x.try_clone()?;
            }
            let (tape, y) = Block { net: &net, layer: &model.layers()[l], dsla: None }.forward(x)?;
            projected.push(if aligned && c { Some(tape.projected) } else { None });
            x = y;
        }
        Ok(Teacher { hidden: x, shared, projected })
    }
}

impl<'a> Run<'a> {
    /// The student over the sequence that `teacher` saw. `weight`: of the alignment error in the loss; `recompute`:
    /// keep each layer's input only.
    pub fn forward(
        model: &'a Model,
        layers: &'a [Option<&'a DslaAttention>],
        teacher: &Teacher,
        weight: f64,
        recompute: bool,
    ) -> Result<Run<'a>> {
        let first = layers.iter().position(Option::is_some).unwrap_or(layers.len());
        let converted = layers.iter().flatten().count().max(1) as f64;
        let mut run = Run {
            net: Net::of(model),
            model,
            layers,
            first,
            kept: vec![],
            d_projected: vec![],
            hidden: teacher.shared.try_clone()?,
            aligned: 0.0,
        };
        for l in first..layers.len() {
            let x = std::mem::replace(&mut run.hidden, Tensor::zeros([0], DType::F32));
            let input = if recompute { Some(x.try_clone()?) } else { None };
            let (tape, y) = run.block(l).forward(x)?;
            run.d_projected.push(match (&teacher.projected[l], layers[l]) {
                (Some(target), Some(_)) => {
                    let spread = crate::align::spread(target)?.max(1e-12);
                    let mut delta = tape.projected.try_clone()?;
                    axpby::forward(-1.0, target.view(), 1.0, delta.view_mut())?;
                    run.aligned += crate::align::squares(&delta)? / spread / converted;
                    axpby::scale((2.0 * weight / spread / converted) as f32, delta.view_mut())?;
                    Some(delta)
                }
                _ => None,
            });
            run.kept.push(match input {
                Some(x) => Kept::Input(x),
                None => Kept::Tape(Box::new(tape)),
            });
            run.hidden = y;
        }
        Ok(run)
    }

    fn block(&self, l: usize) -> Block<'_> {
        Block { net: &self.net, layer: &self.model.layers()[l], dsla: self.layers[l] }
    }

    /// Gradients of the converted layers' parameters, added to `grads` (one per layer of the model, Some where it is
    /// converted), from that of the last layer's output [T, C]. `share`: this sequence's part of the step's alignment
    /// error.
    pub fn backward(
        mut self,
        weights: &Transposed,
        d_hidden: Tensor,
        share: f32,
        grads: &mut [Option<DslaParams>],
    ) -> Result<()> {
        let mut dx = d_hidden;
        for l in (self.first..self.layers.len()).rev() {
            let (Some(kept), Some(d_projected)) = (self.kept.pop(), self.d_projected.pop()) else { break };
            let tape = match kept {
                Kept::Tape(tape) => *tape,
                Kept::Input(x) => self.block(l).forward(x)?.0,
            };
            let grads = Grads { dsla: grads[l].as_mut(), base: None };
            let (back, aligned) = (&weights.layers[l], d_projected.map(|d| (d, share)));
            dx = self.block(l).backward(back, tape, dx, aligned, grads, l > self.first)?;
        }
        Ok(())
    }
}
