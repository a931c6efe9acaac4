//! Steps that fail on demand, for tests of what stands around an engine. See [`crate::Engine::with_faults`].

use crate::backend::{Backend, Feed, Held};
use crate::prefix::Weight;
use crate::{Error, Result};
use dsla_model::core::Tensor;
use dsla_model::{Model, Sequence, Tokenizer};

/// How a step fails, before the model has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With an error.
    Error,
    /// With a panic.
    Panic,
}

/// A model whose calls fail where `fault` says so.
pub(crate) struct Faulty<F> {
    pub model: Model,
    pub fault: F,
}

impl<F: Fn(&[u32]) -> Option<Fault> + Send + 'static> Backend for Faulty<F> {
    type Sequence = Sequence;

    fn start(&self, converted: usize) -> Result<Sequence> {
        Backend::start(&self.model, converted)
    }

    fn forward(&self, feeds: &mut [Feed<'_, Sequence>]) -> Result<Tensor> {
        match feeds.iter().find_map(|f| (self.fault)(f.tokens)) {
            None => Backend::forward(&self.model, feeds),
            Some(Fault::Error) => Err(Error::internal("a step", "a planted error", "none")),
            Some(Fault::Panic) => std::panic::panic_any("planted"),
        }
    }

    fn fold(&self, seq: &mut Sequence) -> Result<()> {
        Backend::fold(&self.model, seq)
    }

    fn foldable(&self) -> bool {
        Backend::foldable(&self.model)
    }

    fn converted(&self, seq: &Sequence) -> usize {
        Backend::converted(&self.model, seq)
    }

    fn len(&self, seq: &Sequence) -> usize {
        Backend::len(&self.model, seq)
    }

    fn held(&self, seq: &Sequence) -> Held {
        Backend::held(&self.model, seq)
    }

    fn snapshot(&self, seq: &Sequence) -> Result<Sequence> {
        Backend::snapshot(&self.model, seq)
    }

    fn weight(&self, snapshot: &Sequence) -> Weight {
        Backend::weight(&self.model, snapshot)
    }

    fn grain(&self) -> Option<usize> {
        Backend::grain(&self.model)
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Backend::tokenizer(&self.model)
    }

    fn eos(&self) -> &[u32] {
        Backend::eos(&self.model)
    }
}
