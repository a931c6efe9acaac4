//! The hybrid Llama: weights, tokenizer, chat template, adapters, generation, evaluation.

pub mod adapter;
pub mod chat;
pub mod config;
mod decode;
mod error;
pub mod eval;
pub mod generate;
pub mod hub;
mod llama;
pub mod paper;
mod sequence;
pub mod tokenizer;
mod tokens;
pub mod weights;

pub use adapter::{Adapter, PrefixQuality};
pub use chat::{ChatTemplate, Message, user};
pub use config::{Config, Rope, RopeKind};
pub use decode::GraphDecoder;
pub use dsla_core as core;
pub use dsla_core::kernels::ops::linear::Quant;
pub use dsla_core::kernels::ops::sample;
pub use dsla_core::{DType, Device, Form};
pub use error::{Error, Result};
pub use llama::{Layer, Model, Step, Want};
pub use sequence::{Plan, Sequence};
pub use tokenizer::{DecodeStream, Tokenizer};
pub use tokens::Tokens;
pub use weights::{ModelFiles, WeightFormat, Weights};
