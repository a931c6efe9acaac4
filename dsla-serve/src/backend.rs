//! What the engine thread needs of a model: the seam at which tests put a model that fails on demand.

use crate::Result;
use crate::prefix::Weight;
use dsla_model::core::Tensor;
use dsla_model::{Device, Model, Sequence, Step, Tokenizer, Want};

/// Keys per chunk of a converted layer.
const GRAIN: usize = 64;

/// New tokens for one sequence.
pub(crate) struct Feed<'a, S> {
    pub seq: &'a mut S,
    /// One or more.
    pub tokens: &'a [u32],
    /// Which of their logits are wanted.
    pub logits: Want,
}

/// Bytes a sequence holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub kv: usize,
    pub state: usize,
}

/// A model, as the engine thread sees it.
pub(crate) trait Backend: Send + 'static {
    type Sequence: Send;

    /// An empty sequence with the first `converted` layers of the conversion order converted.
    fn start(&self, converted: usize) -> Result<Self::Sequence>;

    /// Feeds all; the wanted logits [rows, V] f32, in order.
    fn forward(&self, feeds: &mut [Feed<'_, Self::Sequence>]) -> Result<Tensor>;

    /// Converts the next layer of the order.
    fn fold(&self, seq: &mut Self::Sequence) -> Result<()>;

    /// Whether running sequences can be folded.
    fn foldable(&self) -> bool;

    /// Converted layers.
    fn converted(&self, seq: &Self::Sequence) -> usize;

    /// Tokens taken in.
    fn len(&self, seq: &Self::Sequence) -> usize;

    fn held(&self, seq: &Self::Sequence) -> Held;

    /// A copy that goes its own way: feeding or folding either does not change the other.
    fn snapshot(&self, seq: &Self::Sequence) -> Result<Self::Sequence>;

    /// What a snapshot keeps in memory.
    fn weight(&self, snapshot: &Self::Sequence) -> Weight;

    /// Tokens at whose multiples a prompt may be cut without a change in any bit; `None` where nothing is promised.
    fn grain(&self) -> Option<usize>;

    fn tokenizer(&self) -> Option<&Tokenizer>;

    /// Ids that end a text.
    fn eos(&self) -> &[u32];
}

impl Backend for Model {
    type Sequence = Sequence;

    fn start(&self, converted: usize) -> Result<Sequence> {
        Ok(self.new_sequence(&self.plan(converted))?)
    }

    fn forward(&self, feeds: &mut [Feed<'_, Sequence>]) -> Result<Tensor> {
        let mut steps: Vec<Step> =
            feeds.iter_mut().map(|f| Step { seq: f.seq, tokens: f.tokens, logits: f.logits }).collect();
        Ok(Model::forward(self, &mut steps)?)
    }

    fn fold(&self, seq: &mut Sequence) -> Result<()> {
        let next = self.adapter().and_then(|a| a.order.iter().find(|&&l| !seq.is_converted(l)));
        match next {
            Some(&layer) => Ok(Model::fold(self, seq, layer)?),
            None => Ok(()),
        }
    }

    fn foldable(&self) -> bool {
        self.adapter().is_some_and(|a| a.form.foldable())
    }

    fn converted(&self, seq: &Sequence) -> usize {
        seq.converted()
    }

    fn len(&self, seq: &Sequence) -> usize {
        seq.len()
    }

    fn held(&self, seq: &Sequence) -> Held {
        Held { kv: seq.kv_bytes(), state: seq.state_bytes() }
    }

    fn snapshot(&self, seq: &Sequence) -> Result<Sequence> {
        Ok(seq.clone())
    }

    fn weight(&self, snapshot: &Sequence) -> Weight {
        let held = Backend::held(self, snapshot);
        let pages: Vec<(usize, usize)> = snapshot.pages().collect();
        let paged: usize = pages.iter().map(|p| p.1).sum();
        Weight { own: (held.kv + held.state).saturating_sub(paged), pages }
    }

    /// On the host, of pieces of more than 16 tokens: softmax layers take any cut, converted ones count chunks of 64 keys from
    /// the first that leaves the window. On a GPU nobody has looked.
    fn grain(&self) -> Option<usize> {
        let whole = self.adapter().is_none_or(|a| a.form.window.is_multiple_of(GRAIN));
        (self.device() == Device::Cpu && whole).then_some(GRAIN)
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Model::tokenizer(self).ok()
    }

    fn eos(&self) -> &[u32] {
        &self.config().eos
    }
}
