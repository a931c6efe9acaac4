//! Distils a pretrained Llama's softmax attention layers into dual-state linear attention, stage by stage:
//! calibrate (closed form; on request), align (every layer against the teacher's own inputs), rank (which layer goes first), chain
//! (converted layers together, on the teacher's logits).
//!
//! Progress comes out as [`Event`]s; nothing here prints. Every step is a function of the configuration and its
//! number, so that a run continued from a checkpoint gives the same bits as one that was never interrupted.
#![warn(missing_docs)]

mod ablate;
mod align;
mod calibrate;
mod chain;
pub mod chart;
mod checkpoint;
mod compare;
mod config;
mod data;
mod error;
mod fnv;
pub mod mqar;
mod optimizer;
pub mod page;
pub mod pretrain;
mod probe;
mod rank;
pub mod report;
mod schedule;
mod sensitivity;
mod session;
pub mod states;
mod tape;
mod trainer;
mod transposed;

pub use ablate::{Lesson, Outcome, Variant, ablate, variants};
pub use chain::Prefixes;
pub use compare::prefixes;
pub use config::{Chain, Config, Stage, Training};
pub use data::{Corpus, self_text};
pub use error::{Error, Result};
pub use fnv::Fnv;
pub use probe::LayerProbe;
pub use schedule::cosine;
pub use sensitivity::{Metric, Sensitivity, sensitivity};
pub use trainer::{Event, align_gradients, chain_gradients, distill};
