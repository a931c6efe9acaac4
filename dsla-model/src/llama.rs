//! The hybrid Llama: one set of base weights; every sequence says, layer by layer, which attention it runs.
//!
//! Where a prompt may be cut: on the host, pieces of more than 16 tokens each (products of fewer rows take other kernels)
//! leave the bits of one call, logits and states, where softmax layers are cut anywhere and converted layers at multiples
//! of 64 tokens, the chunk of scalar decays (16 with vector decays). That holds for forms whose window is a multiple of the
//! chunk, because chunks are counted from the first key that leaves it. `tests/cuts.rs` holds it.

mod load;
mod mix;

use crate::adapter::Adapter;
use crate::sequence::{LayerState, Plan, Sequence};
use crate::weights::WeightFormat;
use crate::{ChatTemplate, Config, Error, Result, Tokenizer, Weights};
use dsla_core::attention::DslaAttention;
use dsla_core::kernels::ops::{copy, embedding, rope::Table};
use dsla_core::{DType, Device, Heads, KvCache, KvPages, Linear, Mlp, PAGE, PagePool, RmsNorm, Tensor};
use std::path::Path;
use std::sync::Arc;

/// A loaded model, with an adapter or without. Cloning shares all weights, and the count of pages.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) base: Arc<Base>,
    adapter: Option<Arc<Adapter>>,
    /// The adapter's layers as they run: on the model's device, ready.
    mixers: Arc<Vec<Option<DslaAttention>>>,
    /// Softmax layers of new sequences keep bytes.
    int8_cache: bool,
    /// Counts the pages of its sequences' softmax layers.
    pages: Arc<PagePool>,
}

#[derive(Debug)]
pub(crate) struct Base {
    config: Config,
    weights: Weights,
    tokenizer: Option<Tokenizer>,
    chat_template: Option<ChatTemplate>,
    device: Device,
    format: WeightFormat,
    embedding: Option<Tensor>,
    pub(crate) layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    table: Table,
}

/// One transformer layer: projections and MLP, the mixer between them chosen per sequence.
#[derive(Debug)]
pub struct Layer {
    /// Before attention.
    pub attn_norm: RmsNorm,
    /// q, k, v as one product [(H + 2 G) D, C].
    pub qkv: Linear,
    /// Heads back to the residual stream [C, H D].
    pub o: Linear,
    /// Before the MLP.
    pub mlp_norm: RmsNorm,
    /// Gate, up, down.
    pub mlp: Mlp,
}

/// Which logits a step wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: a chunk of a prompt that goes on.
    None,
    /// Of the last token.
    Last,
    /// Of every token.
    All,
}

/// New tokens for one sequence.
pub struct Step<'a> {
    /// The sequence, which takes them in.
    pub seq: &'a mut Sequence,
    /// At least one token.
    pub tokens: &'a [u32],
    /// Which rows of logits come back.
    pub logits: Want,
}

impl Model {
    /// The same weights with the adapter in `dir`. Errors when it was made for other weights.
    pub fn with_adapter(self, dir: impl AsRef<Path>) -> Result<Model> {
        let adapter = Adapter::open(dir.as_ref(), &self)?;
        self.with_adapter_value(adapter)
    }

    /// The same weights with this adapter.
    pub fn with_adapter_value(mut self, adapter: Adapter) -> Result<Model> {
        adapter.check(&self)?;
        let ready =
            |l: &Option<DslaAttention>| l.as_ref().map(|l| l.ready(self.device(), self.dtype())).transpose();
        self.mixers = Arc::new(adapter.layers.iter().map(ready).collect::<dsla_core::kernels::Result<_>>()?);
        self.adapter = Some(Arc::new(adapter));
        Ok(self)
    }

    /// The same model with room for `positions` positions (the trained context is `config().max_position`): quality
    /// beyond it is the model's own affair.
    pub fn with_positions(mut self, positions: usize) -> Result<Model> {
        let table = Table::new(&self.base.config.rope.inv_freq(self.base.config.head_dim), positions, 1.0);
        let table = table.to_device(self.device())?;
        let base = Arc::get_mut(&mut self.base).ok_or_else(|| Error::Argument {
            op: "with_positions",
            arg: "model",
            got: "a shared model".into(),
            want: "one that was not cloned yet".into(),
        })?;
        base.table = table;
        Ok(self)
    }

    /// The same model, whose new sequences keep keys and values as int8 with a scale per token and head: half the memory of
    /// bf16. Windows and sinks of converted layers stay in the model's dtype.
    ///
    /// Errors: a model that is not on the host.
    pub fn with_int8_cache(mut self) -> Result<Model> {
        if self.device() != Device::Cpu {
            let (got, want) = (self.device().to_string(), "cpu".into());
            return Err(Error::Argument { op: "with_int8_cache", arg: "device", got, want });
        }
        self.int8_cache = true;
        Ok(self)
    }

    /// Keys and values of all its sequences' softmax layers, and of its clones': pages that sequences share count once. On
    /// a GPU there are none: caches are in one piece there, each its sequence's own.
    pub fn pages(&self) -> &PagePool {
        &self.pages
    }

    /// Tokens whose keys and values take their memory together: a page on the host, one on a GPU.
    pub fn page_tokens(&self) -> usize {
        if self.device() == Device::Cpu { PAGE } else { 1 }
    }

    /// Bytes that keys and values of `tokens` tokens take in one softmax layer, shared or not. Saturates.
    pub fn kv_bytes(&self, tokens: usize) -> usize {
        let whole = tokens.checked_next_multiple_of(self.page_tokens()).unwrap_or(usize::MAX);
        whole.saturating_mul(self.token_bytes())
    }

    /// Bytes that a token's key and value take in one softmax layer; memory comes by [`Model::kv_bytes`].
    pub fn token_bytes(&self) -> usize {
        let n = self.heads();
        match self.int8_cache {
            true => 2 * n.kv_heads * (n.head_dim.next_multiple_of(32) + 4),
            false => 2 * n.kv_heads * n.head_dim * self.dtype().size(),
        }
    }

    /// Shape of the model.
    pub fn config(&self) -> &Config {
        &self.base.config
    }

    /// Its tensors on disk.
    pub fn weights(&self) -> &Weights {
        &self.base.weights
    }

    /// Where the weights are and the model runs.
    pub fn device(&self) -> Device {
        self.base.device
    }

    /// Model dtype: of KV caches and states, and of weights that are not quantised.
    pub fn dtype(&self) -> DType {
        self.base.format.dtype()
    }

    /// What linear weights are held in.
    pub fn format(&self) -> WeightFormat {
        self.base.format
    }

    /// Rotary tables.
    pub fn table(&self) -> &Table {
        &self.base.table
    }

    /// The layers.
    pub fn layers(&self) -> &[Layer] {
        &self.base.layers
    }

    /// Head counts and size.
    pub fn heads(&self) -> Heads {
        let c = self.config();
        Heads { heads: c.num_heads, kv_heads: c.num_kv_heads, head_dim: c.head_dim }
    }

    /// The tokenizer, or an error that says the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.base
            .tokenizer
            .as_ref()
            .ok_or_else(|| self.lacks("tokenizer", "tokenizer.json or tokenizer.ggml.* metadata"))
    }

    /// The chat template, or an error that says the model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.base
            .chat_template
            .as_ref()
            .ok_or_else(|| self.lacks("chat template", "a chat_template in its files"))
    }

    fn lacks(&self, at: &str, want: &str) -> Error {
        Error::file(self.base.weights.path(), at, "nothing", want)
    }

    /// The adapter, if any.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_deref()
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        let b = &self.base;
        let layers: usize = b.layers.iter().map(Layer::bytes).sum();
        layers + b.head.bytes() + b.norm.bytes() + b.embedding.as_ref().map_or(0, Tensor::bytes)
    }

    /// The plan that converts the first `converted` layers of the adapter's order (none without an adapter).
    pub fn plan(&self, converted: usize) -> Plan {
        let mut plan = Plan::teacher(self.config().num_layers);
        if let Some(a) = &self.adapter {
            a.order.iter().take(converted).for_each(|&l| plan.set(l, true));
        }
        plan
    }

    /// An empty sequence whose layers run as `plan` says.
    pub fn new_sequence(&self, plan: &Plan) -> Result<Sequence> {
        let layers = (0..self.config().num_layers)
            .map(|l| match plan.is_converted(l) {
                true => Ok(LayerState::Dsla(Box::new(self.dsla(l)?.state(self.dtype())?))),
                false if self.int8_cache => Ok(LayerState::Pages(KvPages::int8(self.heads(), &self.pages))),
                false if self.device() == Device::Cpu => {
                    Ok(LayerState::Pages(KvPages::new(self.heads(), self.dtype(), &self.pages)))
                }
                false => Ok(LayerState::Softmax(KvCache::new(self.heads(), self.dtype(), self.device())?)),
            })
            .collect::<Result<_>>()?;
        Ok(Sequence { layers, len: 0, torn: false })
    }

    pub(crate) fn dsla(&self, layer: usize) -> Result<&DslaAttention> {
        self.mixers.get(layer).and_then(Option::as_ref).ok_or_else(|| Error::Argument {
            op: "plan",
            arg: "layer",
            got: format!("layer {layer} converted"),
            want: "an adapter that has this layer".into(),
        })
    }

    /// Token embeddings [T, C] f32.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let (c, vocab) = (self.config().hidden_size, self.config().vocab_size);
        if let Some((i, id)) = tokens.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
            let got = format!("id {id} at {i}");
            return Err(Error::Argument {
                op: "forward",
                arg: "tokens",
                got,
                want: format!("ids below {vocab}"),
            });
        }
        let mut x = Tensor::empty_on(self.device(), [tokens.len(), c], DType::F32)?;
        match &self.base.embedding {
            Some(table) => {
                let ids = Tensor::ids(tokens.len(), tokens.iter().copied());
                embedding::forward(table.view(), ids.view(), x.view_mut())?;
            }
            None if self.device() != Device::Cpu => {
                let ids = Tensor::ids(tokens.len(), tokens.iter().copied());
                embedding::forward(self.tied_table()?, ids.view(), x.view_mut())?;
            }
            None => {
                for (row, &id) in x.f32_mut().chunks_exact_mut(c).zip(tokens) {
                    self.base.head.weight().row(id as usize, row);
                }
            }
        }
        Ok(x)
    }

    /// Token embeddings [B, C] f32 of ids [B] u32 that are on the device already.
    pub(crate) fn embed_on_device(&self, ids: dsla_core::View) -> Result<Tensor> {
        let [b] = ids.dims("embed", "ids")?;
        let table = match &self.base.embedding {
            Some(table) => table.view(),
            None => self.tied_table()?,
        };
        let mut x = Tensor::empty_on(self.device(), [b, self.config().hidden_size], DType::F32)?;
        embedding::forward(table, ids, x.view_mut())?;
        Ok(x)
    }

    /// The output layer's weight on the device, where it is the embedding too.
    fn tied_table(&self) -> Result<dsla_core::View<'_>> {
        self.base.head.weight().as_view().ok_or_else(|| self.lacks("embedding", "a table"))
    }

    /// The norm before the output layer.
    pub fn norm(&self) -> &RmsNorm {
        &self.base.norm
    }

    /// [`Model::logits`] into y [T, V].
    pub(crate) fn logits_into(&self, hidden: dsla_core::View, y: dsla_core::ViewMut) -> Result<()> {
        let h = self.base.norm.forward_as(hidden, self.base.head.reads())?;
        Ok(self.base.head.forward_into(h.view(), dsla_core::kernels::ops::linear::Into::Store, y)?)
    }

    /// Logits [T, V] f32 of final hidden rows [T, C] (before the final norm).
    pub fn logits(&self, hidden: dsla_core::View) -> Result<Tensor> {
        let h = self.base.norm.forward_as(hidden, self.base.head.reads())?;
        Ok(self.base.head.forward(h.view())?)
    }

    /// Run the steps' tokens through all layers; the sequences take them in. Returns the logits asked for, in step
    /// order: [rows, V] f32.
    ///
    /// Errors (an unknown id, a full context, no tokens) come before anything is changed. Where something fails later, the
    /// sequences are torn, and every further step of theirs is refused.
    pub fn forward(&self, steps: &mut [Step]) -> Result<Tensor> {
        let x = self.run(steps, |s| match s.logits {
            Want::None => 0,
            Want::Last => 1,
            Want::All => s.tokens.len(),
        })?;
        self.logits(x.view())
    }

    /// [`Model::forward`] up to the last layer's output [T, C], for all tokens of all steps.
    pub fn hidden(&self, steps: &mut [Step]) -> Result<Tensor> {
        self.run(steps, |s| s.tokens.len())
    }

    /// The last layer's output for the last `rows` tokens of each step: [sum of rows, C]. In that layer nothing is computed that
    /// they do not need.
    fn run(&self, steps: &mut [Step], rows: impl Fn(&Step) -> usize + Sync) -> Result<Tensor> {
        for s in steps.iter() {
            let (end, room) = (s.seq.len + s.tokens.len(), self.base.table.positions());
            if s.tokens.is_empty() || end > room {
                let got = format!("{} tokens after {}", s.tokens.len(), s.seq.len);
                return Err(Error::Argument {
                    op: "forward",
                    arg: "tokens",
                    got,
                    want: format!("1 to {room} in all"),
                });
            }
            if s.seq.torn {
                return Err(Error::Argument {
                    op: "forward",
                    arg: "seq",
                    got: "a sequence whose last step failed half way".into(),
                    want: "a whole one".into(),
                });
            }
        }
        let total = steps.iter().map(|s| s.tokens.len()).sum();
        let mut x = self.embed(Tensor::ids(total, steps.iter().flat_map(|s| s.tokens).copied()).u32())?;
        steps.iter_mut().for_each(|s| s.seq.torn = true);
        let last = self.base.layers.len().saturating_sub(1);
        let cut = steps.iter().any(|s| rows(s) < s.tokens.len());
        for (l, layer) in self.base.layers.iter().enumerate() {
            let here = |s: &Step| if l == last { rows(s) } else { s.tokens.len() };
            let h = layer.attn_norm.forward_as(x.view(), layer.qkv.reads())?;
            let mut mixed = self.mix(l, steps, h, |s| here(s) > 0)?;
            if l == last && cut {
                (mixed, x) = (last_rows(&mixed, steps, &rows)?, last_rows(&x, steps, &rows)?);
            }
            layer.o.forward_into(mixed.view(), dsla_core::kernels::ops::linear::Into::Add, x.view_mut())?;
            self.adapt_o(l, steps, here, &mixed, &mut x)?;
            let h = layer.mlp_norm.forward_as(x.view(), layer.mlp.gate_up.reads())?;
            layer.mlp.add_to(h.view(), x.view_mut())?;
        }
        for s in steps {
            s.seq.len += s.tokens.len();
            s.seq.torn = false;
        }
        Ok(x)
    }

    /// Convert one layer of a running sequence: its KV cache becomes the two states, exactly what they would hold had
    /// the layer run as DSLA from the first token on the same inputs; the cache is freed. Already converted: nothing.
    pub fn fold(&self, seq: &mut Sequence, layer: usize) -> Result<()> {
        let folded = |cache: &KvCache| {
            self.dsla(layer)?.fold(cache, &self.base.table, self.dtype()).map_err(Error::from)
        };
        let state = match seq.layers.get(layer) {
            Some(LayerState::Softmax(cache)) => folded(cache)?,
            Some(LayerState::Pages(cache)) => folded(&cache.to_cache(self.dtype())?)?,
            _ => return Ok(()),
        };
        seq.layers[layer] = LayerState::Dsla(Box::new(state));
        Ok(())
    }

    /// Convert one layer of a running sequence and forget its past: it goes on with empty states, as the paper's system
    /// has it. Only there to be measured against [`Model::fold`]. Already converted: nothing.
    pub fn drop_past(&self, seq: &mut Sequence, layer: usize) -> Result<()> {
        if layer < seq.layers.len() && !seq.is_converted(layer) {
            seq.layers[layer] = LayerState::Dsla(Box::new(self.dsla(layer)?.state(self.dtype())?));
        }
        Ok(())
    }
}

/// The last `rows` rows of each step of x [T, C].
fn last_rows(x: &Tensor, steps: &[Step], rows: impl Fn(&Step) -> usize) -> Result<Tensor> {
    let mut picked = Tensor::empty_on(x.device(), [steps.iter().map(&rows).sum(), x.dims()[1]], x.dtype())?;
    let (mut at, mut to) = (0, 0);
    for s in steps {
        let (end, n) = (at + s.tokens.len(), rows(s));
        copy::cast(x.rows(end - n, end), picked.view_mut().rows(to, to + n))?;
        (at, to) = (end, to + n);
    }
    Ok(picked)
}

impl Layer {
    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.attn_norm.bytes() + self.qkv.bytes() + self.o.bytes() + self.mlp_norm.bytes() + self.mlp.bytes()
    }
}
