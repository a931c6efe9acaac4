//! Decode of a fixed batch on a GPU as one CUDA graph: the launches of a step are captured once and replayed per token.
//! All addresses stay; ids, positions and rows go up in one small copy before each replay.

use crate::sequence::{LayerState, Sequence};
use crate::{Error, Model, Result};
use dsla_core::attention::{KvPool, Places};
use dsla_core::kernels::cuda::Graph;
use dsla_core::kernels::ops::{copy, linear::Into};
use dsla_core::{DType, Device, Projected, Tensor, View};

/// Positions per page.
const PAGE: usize = 16;
/// Rows of the step's small input: ids, positions, lengths, rows.
const INPUTS: usize = 4;

/// A batch of sequences being continued together.
pub struct GraphDecoder {
    model: Model,
    pools: Vec<KvPool>,
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
    /// Errors: a model on the host; no sequences; more positions than the model has; a converted layer (their pools come
    /// with the engine's); no memory left.
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
        let row = n.kv_heads * n.head_dim;
        let mut pools = vec![];
        for l in 0..model.config().num_layers {
            let mut pool = KvPool::new(n, b * pages, PAGE, model.dtype(), device)?;
            for (i, s) in sequences.iter().enumerate() {
                let LayerState::Softmax(cache) = &s.layers[l] else {
                    return refuse("sequences", format!("layer {l} converted"), "softmax layers");
                };
                let (first, rows) = (i * pages * PAGE, b * pages * PAGE);
                for (from, to) in [(&cache.k, &mut pool.k), (&cache.v, &mut pool.v)] {
                    let to = to.view_mut().reshape([rows, row]).rows(first, first + s.len());
                    copy::cast(from.view().reshape([s.len(), row]), to)?;
                }
            }
            pools.push(pool);
        }
        let table = Tensor::from_u32([b, pages], (0..(b * pages) as u32).collect()).to_device(device)?;
        Ok(GraphDecoder {
            model: model.clone(),
            pools,
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
        let lens = || self.lens.iter().enumerate();
        let host: Vec<u32> = (tokens.iter().copied())
            .chain(lens().map(|(_, len)| *len as u32))
            .chain(lens().map(|(_, len)| *len as u32 + 1))
            .chain(lens().map(|(i, len)| (i * self.pages * PAGE + len) as u32))
            .collect();
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
        self.lens.iter_mut().for_each(|len| *len += 1);
        Ok(self.logits.view())
    }

    fn capture(&mut self) -> Result<()> {
        let c = self.model.config();
        // Every temporary of a step, each rounded up: generous, and small beside the weights.
        let wide = 16 * (c.hidden_size + c.intermediate_size) + 32 * c.num_heads * c.head_dim;
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
        let at = Places { position: input(1), len: input(2), row: input(3), table: self.table.view() };
        let mut x = self.model.embed_on_device(input(0))?;
        for (layer, pool) in base.layers.iter().zip(&mut self.pools) {
            let h = layer.attn_norm.forward(x.view())?;
            let qkv = layer.qkv.forward(h.view())?;
            let out = pool.decode(Projected::split(qkv.view(), heads, None)?, self.model.table(), &at)?;
            let mixed = out.view().reshape([b, heads.heads * heads.head_dim]);
            layer.o.forward_into(mixed, Into::Add, x.view_mut())?;
            let h = layer.mlp_norm.forward(x.view())?;
            layer.mlp.add_to(h.view(), x.view_mut())?;
        }
        self.model.logits_into(x.view(), self.logits.view_mut())
    }
}
