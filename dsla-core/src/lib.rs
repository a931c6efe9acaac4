//! Blocks of a hybrid transformer over the kernels: linear, norm, MLP, softmax and dual-state linear attention, with
//! their caches. Backward passes are explicit: parameter gradients are added to, activation gradients written.
#![warn(missing_docs)]

pub mod attention;
mod form;
mod linear;
mod mlp;
mod params;

pub use attention::{DslaState, Heads, KvCache, KvPages, PAGE, PagePool, Projected};
pub use dsla_kernels::{self as kernels, DType, Device, Error, Result, Shape, Tensor, View, ViewMut};
pub use form::{FeatureMap, Form, Gamma, Gate, GateInput, Normalizer, Projections};
pub use linear::{Linear, RmsNorm, activation};
pub use mlp::Mlp;
pub use params::{DslaParams, half_lives, logit_of_half_life};
