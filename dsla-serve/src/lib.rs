//! DSLA-Serve: an embeddable engine that converts attention layers while it serves.
//!
//! One engine thread runs all sequences in one batch, one step after the other: continuous batching with chunked
//! prefill. How many layers a sequence runs as dual-state linear attention is its own affair: a [`Policy`] turns the
//! load into a target, new sequences start there, running ones are folded up to it without losing their past.
//!
//! ```no_run
//! use dsla_serve::{DType, Device, Engine, EngineConfig, Model, Policy, SamplingParams, user};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::load("models/smollm2", &Device::auto(), DType::BF16)?.with_adapter("adapters/smollm2-dsla")?;
//! // Goals for the time to the first token, and per token after it.
//! let policy = Policy::slo(Duration::from_secs(2), Duration::from_millis(200));
//! let engine = Engine::new(model, EngineConfig { policy, ..Default::default() })?;
//! for event in engine.chat(&[user("Why is the sky blue?")], SamplingParams::default())? {
//!     print!("{}", event?.text);
//! }
//! engine.shutdown(Duration::from_secs(10));
//! # Ok(())
//! # }
//! ```
//!
//! Same request, same seed, same text, whatever else runs: draws are numbered by (seed, place in the sequence), and
//! where prompts are cut changes no bit. Nor does the prefix cache, nor a preemption, after which a sequence is computed
//! again as it was. Where the policy changes a running sequence's layers its text
//! follows; [`SamplingParams::rate`] pins them.

pub mod adapt;
mod adjust;
mod backend;
mod engine;
mod error;
mod events;
mod footprint;
mod generation;
#[cfg(feature = "http")]
pub mod http;
pub mod latency;
mod prefix;
mod request;
mod running;
mod scheduler;
mod stats;
mod stop;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;

// What an embedder needs of the model, so that this crate alone will do.
pub use dsla_model::{DType, Device, Message, Model, user};

pub use adapt::{MemoryPressure, Policy, Slo, Threshold};
pub use engine::{Engine, EngineConfig};
pub use error::{Error, Result};
pub use generation::{Completion, Event, FinishReason, Generation, Logprob, PromptToken, Usage};
pub use latency::Latency;
pub use request::{Request, SamplingParams};
pub use stats::{PrefixStats, SequenceStats, Stats, StepReport};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
