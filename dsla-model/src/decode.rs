//! Decode of a fixed batch on a GPU as one CUDA graph: the launches of a step are captured once and replayed per token.
//! All addresses stay; ids, positions and rows go up in one small copy before each replay.

use crate::sequence::{LayerState, Sequence};
use crate::{Error, Model, Result};
use dsla_core::attention::{DslaPool, KvPool, Places};
use dsla_core::kernels::cuda::Graph;
use dsla_core::kernels::ops::linear::Into;
use dsla_core::{DType, Device, Projected, Tensor, View};

/// Positions per page.
const PAGE: usize = 16;
/// Rows of the step's small input: ids, then what [`Places`] names.
const INPUTS: usize = 9;

/// One layer's memory of the batch.
enum LayerPool {
    Softmax(KvPool),
    Dsla(Box<DslaPool>),
}

/// A batch of sequences being continued together; every layer runs as it does in the sequences.
pub struct GraphDecoder {
    model: Model,
    pools: Vec<LayerPool>,
    /// Length of the converted layers' window and their sinks; 1 and 0 where no layer is converted.
    window: usize,
    sinks: usize,
    /// Row of each sequence's window ring that holds the oldest key, and keys in it.
    rings: Vec<(usize, usize)>,
    /// Tokens of each sequence so far.
    lens: Vec<usize>,
    pages: usize,
    /// [INPUTS, B] u32.
    inputs: Tensor,
    table: Tensor,
    logits: Tensor,
    graph: Option<Graph>,
    eager: bool,
}

impl GraphDecoder {
    /// Continue `sequences` for at most `room` tokens each. They are copied: what they hold stays.
    ///
    /// Errors: a model on the host; no sequences; more positions than the model has; sequences that differ in which layers
    /// are converted; a form without a window or whose gates read the layer's input; a converted sequence shorter than
    /// the form's sinks; no memory left.
    pub fn new(model: &Model, sequences: &[Sequence], room: usize) -> Result<GraphDecoder> {
        let refuse = |arg, got: String, want: &str| {
            Err(Error::Argument { op: "graph decoder", arg, got, want: want.into() })
        };
        let (device, b, n) = (model.device(), sequences.len(), model.heads());
        if device == Device::Cpu {
            return refuse("device", device.to_string(), "cuda");
        }
        let longest = sequences.iter().map(Sequence::len).max().unwrap_or(0) + room;
        if b == 0 || longest > model.table().positions() {
            let want = format!("sequences of at most {} tokens", model.table().positions());
            return refuse("sequences", format!("{b} of up to {longest} tokens"), &want);
        }
        let pages = longest.div_ceil(PAGE);
        let form = model.adapter().filter(|_| sequences[0].converted() > 0).map(|a| a.form);
        let (window, sinks) = form.map_or((1, 0), |f| (f.window, f.sinks));
        if form.is_some_and(|f| f.window == 0 || !f.foldable()) {
            return refuse("form", format!("{form:?}"), "a window, and gates that read keys and values");
        }
        if form.is_some() && sequences.iter().any(|s| s.len() < sinks) {
            let got = format!("{} tokens", sequences.iter().map(Sequence::len).min().unwrap_or(0));
            return refuse("sequences", got, &format!("at least the form's {sinks} sinks"));
        }
        let mut pools = vec![];
        for l in 0..model.config().num_layers {
            let mut pool = match sequences[0].layers[l] {
                LayerState::Pages(_) => {
                    return refuse("sequences", "a cache on the host".into(), "one on the model's device");
                }
                LayerState::Softmax(_) => {
                    LayerPool::Softmax(KvPool::new(n, b * pages, PAGE, model.dtype(), device)?)
                }
                LayerState::Dsla(_) => {
                    LayerPool::Dsla(Box::new(DslaPool::new(model.dsla(l)?, b, model.dtype())?))
                }
            };
            for (i, s) in sequences.iter().enumerate() {
                match (&mut pool, &s.layers[l]) {
                    (LayerPool::Softmax(pool), LayerState::Softmax(cache)) => pool.load(i * pages, cache)?,
                    (LayerPool::Dsla(pool), LayerState::Dsla(state)) => pool.load(i, state)?,
                    _ => {
                        return refuse(
                            "sequences",
                            format!("layer {l} converted in some"),
                            "one plan for all",
                        );
                    }
                }
            }
            pools.push(pool);
        }
        let table = Tensor::from_u32([b, pages], (0..(b * pages) as u32).collect()).to_device(device)?;
        Ok(GraphDecoder {
            model: model.clone(),
            pools,
            window,
            sinks,
            rings: sequences.iter().map(|s| (0, s.len().min(window))).collect(),
            lens: sequences.iter().map(Sequence::len).collect(),
            pages,
            inputs: Tensor::zeros_on(device, [INPUTS, b], DType::U32)?,
            table,
            logits: Tensor::empty_on(device, [b, model.config().vocab_size], DType::F32)?,
            graph: None,
            eager: false,
        })
    }

    /// Never capture: every step launches its kernels one by one. For comparisons.
    pub fn eager(mut self) -> GraphDecoder {
        self.eager = true;
        self
    }

    /// Tokens of each sequence so far.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Take in one token per sequence; the logits [B, V] of what follows.
    ///
    /// Errors: another number of tokens; an id the model does not have; no room left; the device's.
    pub fn step(&mut self, tokens: &[u32]) -> Result<View<'_>> {
        let (b, vocab) = (self.lens.len(), self.model.config().vocab_size);
        let full = self.lens.iter().any(|&len| len >= self.pages * PAGE);
        if tokens.len() != b || full || tokens.iter().any(|&t| t as usize >= vocab) {
            let got = format!("{tokens:?} after {:?} tokens", self.lens);
            let want = format!("{b} ids below {vocab}, at most {} tokens each", self.pages * PAGE);
            return Err(Error::Argument { op: "graph decoder", arg: "tokens", got, want });
        }
        let (w, span) = (self.window, self.pages * PAGE);
        let each = || self.lens.iter().zip(&self.rings).enumerate();
        let rows: [Vec<usize>; INPUTS - 1] = [
            each().map(|(_, (len, _))| *len).collect(),
            each().map(|(_, (len, _))| len + 1).collect(),
            each().map(|(i, (len, _))| i * span + len).collect(),
            (0..b).collect(),
            each().map(|(_, (_, (head, _)))| *head).collect(),
            each().map(|(i, (_, (head, _)))| i * w + head).collect(),
            // A full ring's oldest key makes room.
            each().map(|(i, (_, (head, held)))| i * w + (head + held % w) % w).collect(),
            // What leaves at position len - w is a sink, or nothing yet.
            each().map(|(i, (len, _))| if *len < w + self.sinks { b } else { i }).collect(),
        ];
        let host = tokens.iter().copied().chain(rows.iter().flatten().map(|&r| r as u32)).collect();
        self.inputs.write(&Tensor::from_u32([INPUTS, b], host))?;
        match &self.graph {
            Some(graph) => graph.launch()?,
            // The first step runs kernel by kernel, which loads them; the second is captured, then run.
            None if self.eager || self.logits.is_empty() => self.run()?,
            None => {
                self.run()?;
                self.capture()?;
            }
        }
        for (len, (head, held)) in self.lens.iter_mut().zip(&mut self.rings) {
            *len += 1;
            if *held == w { *head = (*head + 1) % w } else { *held += 1 }
        }
        Ok(self.logits.view())
    }

    fn capture(&mut self) -> Result<()> {
        let c = self.model.config();
        // Every temporary of a step, each rounded up: generous, and small beside the weights.
        let wide = 16 * (c.hidden_size + c.intermediate_size) + 64 * c.num_heads * c.head_dim;
        let splits = 4 * self.pages * PAGE / 64 * c.num_heads * (c.head_dim + 2);
        let bytes = (c.num_layers + 1) * (self.lens.len() * (wide + splits) * 4 + (1 << 14));
        let device = self.model.device();
        let mut failed = None;
        let graph = Graph::capture(device, bytes, || {
            self.run().map_err(|e| {
                let text = e.to_string();
                failed = Some(e);
                dsla_core::Error::Argument {
                    op: "graph",
                    arg: "step",
                    got: text,
                    want: "a step that can be captured".into(),
                }
            })
        });
        match (failed, graph) {
            (Some(e), _) => Err(e),
            (None, graph) => {
                self.graph = Some(graph?);
                Ok(())
            }
        }
    }

    /// One step over what `inputs` says.
    fn run(&mut self) -> Result<()> {
        let base = self.model.base.clone();
        let (b, heads) = (self.lens.len(), self.model.heads());
        let input = |i: usize| self.inputs.rows(i, i + 1).reshape([b]);
        let at = Places {
            position: input(1),
            len: input(2),
            row: input(3),
            table: self.table.view(),
            slot: input(4),
            head: input(5),
            leaving: input(6),
            entering: input(7),
            features: input(8),
        };
        let mut x = self.model.embed_on_device(input(0))?;
        for (l, (layer, pool)) in base.layers.iter().zip(&mut self.pools).enumerate() {
            let mixer = match pool {
                LayerPool::Softmax(_) => None,
                LayerPool::Dsla(_) => Some(self.model.dsla(l)?),
            };
            let reads = mixer.is_some_and(|m| m.form.reads_hidden());
            let h =
                layer.attn_norm.forward_as(x.view(), if reads { DType::F32 } else { layer.qkv.reads() })?;
            let mut x_in = Projected::of(&layer.qkv, h.view(), heads, None)?;
            x_in.hidden = reads.then_some(h);
            let out = match (pool, mixer) {
                (LayerPool::Dsla(pool), Some(m)) => pool.decode(m, x_in, self.model.table(), &at)?,
                (LayerPool::Softmax(pool), _) => pool.decode(x_in, self.model.table(), &at)?,
                (LayerPool::Dsla(_), None) => unreachable!("a pool of states has its layer"),
            };
            let mixed = out.view().reshape([b, heads.heads * heads.head_dim]);
            layer.o.forward_into(mixed, Into::Add, x.view_mut())?;
            if let Some(m) = mixer {
                m.adapt_o(mixed, x.view_mut())?;
            }
            let h = layer.mlp_norm.forward_as(x.view(), layer.mlp.gate_up.reads())?;
            layer.mlp.add_to(h.view(), x.view_mut())?;
        }
        self.model.logits_into(x.view(), self.logits.view_mut())
    }
}
