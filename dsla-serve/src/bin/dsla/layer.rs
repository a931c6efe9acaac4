//! `dsla layer`: one paper-form layer, upstream's tensor names in, outputs and final states out.

use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Layer {
    /// hidden_states [B,T,C], {q,k,v,o,gk,gk2}_proj, alpha_list; metadata num_heads, gate_logit_normalizer.
    input: PathBuf,
    /// attn_output [B,T,C], state_history and state_recency [B,H,D,D].
    output: PathBuf,
}

impl Layer {
    pub fn run(self) -> Result<()> {
        dsla_model::paper::run_layer(&self.input, &self.output).context("layer")
    }
}
