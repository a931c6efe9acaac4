//! What distillation can refuse or run into.

/// Errors of this crate; each prints as one line.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting out of range.
    #[error("{arg}: got {got}, want {want}")]
    Argument {
        /// The setting.
        arg: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// A checkpoint that does not belong to this run.
    #[error("checkpoint {file}: {at}: got {got}, want {want}")]
    Checkpoint {
        /// The file.
        file: String,
        /// The place in it.
        at: String,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// The loss is no number any more.
    #[error("step {step}: loss of layer {layer} is {loss}; the last good checkpoint is {checkpoint}")]
    Diverged {
        /// The step it happened in.
        step: u64,
        /// The layer.
        layer: usize,
        /// The loss.
        loss: f64,
        /// Where the last good state lies, or "none".
        checkpoint: String,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] dsla_model::Error),
    /// A kernel refused.
    #[error(transparent)]
    Kernel(#[from] dsla_kernels::Error),
}

/// The result of a call into this crate.
pub type Result<T> = std::result::Result<T, Error>;
