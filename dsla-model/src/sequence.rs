//! What one sequence keeps of its past, layer by layer, and the plan that says how.

use dsla_core::{DslaState, KvCache, KvPages};

/// Which layers of a sequence run as DSLA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    converted: Vec<bool>,
}

impl Plan {
    /// No layer converted: the exact teacher.
    pub fn teacher(layers: usize) -> Plan {
        Plan { converted: vec![false; layers] }
    }

    /// Just these layers; those beyond the model are ignored by nobody: they are an error when the plan is used.
    pub fn of_layers(layers: usize, converted: &[usize]) -> Plan {
        let mut plan = Plan::teacher(layers.max(converted.iter().max().map_or(0, |m| m + 1)));
        converted.iter().for_each(|&l| plan.set(l, true));
        plan
    }

    /// Convert a layer, or not.
    pub fn set(&mut self, layer: usize, converted: bool) {
        if let Some(c) = self.converted.get_mut(layer) {
            *c = converted;
        }
    }

    /// Whether a layer runs as DSLA.
    pub fn is_converted(&self, layer: usize) -> bool {
        self.converted.get(layer).copied().unwrap_or(false)
    }

    /// Number of converted layers.
    pub fn count(&self) -> usize {
        self.converted.iter().filter(|c| **c).count()
    }

    /// Share of layers converted.
    pub fn rate(&self) -> f64 {
        self.count() as f64 / self.converted.len().max(1) as f64
    }
}

/// One layer's memory of a sequence.
#[derive(Clone, Debug)]
pub(crate) enum LayerState {
    /// Grows with the sequence, on a GPU: in one piece.
    Softmax(KvCache),
    /// The same on the host: in pages that clones share.
    Pages(KvPages),
    /// Fixed size.
    Dsla(Box<DslaState>),
}

/// One sequence: its memory in every layer. On the host a clone shares all pages of keys and values with the original
/// ([`KvPages`]) and copies the states of converted layers: what a prefix cache keeps. On a GPU it copies everything.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub(crate) layers: Vec<LayerState>,
    pub(crate) len: usize,
    /// A step has begun and not ended: some layers have its tokens and others do not.
    pub(crate) torn: bool,
}

impl Sequence {
    /// Tokens taken in.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing taken in yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of KV cache, those shared with other sequences too: on the host whole pages of [`dsla_core::PAGE`] tokens. What
    /// sequences hold together is [`PagePool::live_bytes`](dsla_core::PagePool::live_bytes) of [`crate::Model::pages`].
    pub fn kv_bytes(&self) -> usize {
        let bytes = |l: &LayerState| match l {
            LayerState::Softmax(c) => c.bytes(),
            LayerState::Pages(c) => c.bytes(),
            LayerState::Dsla(_) => 0,
        };
        self.layers.iter().map(bytes).sum()
    }

    /// Its pages of keys and values, as [`KvPages::pages`] tells them apart.
    pub fn pages(&self) -> impl Iterator<Item = (usize, usize)> {
        let paged =
            self.layers.iter().filter_map(|l| if let LayerState::Pages(c) = l { Some(c) } else { None });
        paged.flat_map(KvPages::pages)
    }

    /// Bytes of DSLA states, rings included.
    pub fn state_bytes(&self) -> usize {
        self.layers.iter().map(|l| if let LayerState::Dsla(s) = l { s.bytes() } else { 0 }).sum()
    }

    /// Number of converted layers.
    pub fn converted(&self) -> usize {
        self.layers.iter().filter(|l| matches!(l, LayerState::Dsla(_))).count()
    }

    /// What a converted layer holds; None for a softmax layer.
    pub fn state(&self, layer: usize) -> Option<&DslaState> {
        match self.layers.get(layer) {
            Some(LayerState::Dsla(state)) => Some(state),
            _ => None,
        }
    }

    /// Whether a layer runs as DSLA.
    pub fn is_converted(&self, layer: usize) -> bool {
        matches!(self.layers.get(layer), Some(LayerState::Dsla(_)))
    }
}
