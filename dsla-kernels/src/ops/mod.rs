//! One op, one folder; this list is the one place that names them all.

/// Declares the op modules and [`all`], the table that tests and benches loop over.
macro_rules! ops {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        $($(#[$meta])* pub mod $name;)*

        /// Every op: its name and its cases.
        pub fn all() -> Vec<(&'static str, Vec<crate::case::Case>)> {
            vec![$((stringify!($name), $name::cases::cases())),*]
        }

        /// Every PTX source, with its op.
        pub fn sources() -> Vec<(&'static str, &'static crate::cuda::Source)> {
            let mut all = vec![];
            $(all.extend($name::cuda::SOURCES.iter().map(|s| (stringify!($name), *s)));)*
            all
        }
    };
}

ops! {
    /// The positive feature map of linear attention.
    feature_map,
    /// Decay gates.
    gate,
    /// Causal softmax attention.
    softmax_attention,
    /// Dual-state linear attention.
    dsla,
    /// Linear layers.
    linear,
    /// Root-mean-square normalisation.
    rms_norm,
    /// Scaling, differences and sums of whole tensors.
    axpby,
    /// Copies that change dtype, place or order.
    copy,
    /// AdamW steps.
    adamw,
    /// Cross-entropy of a softmax.
    cross_entropy,
    /// Token embedding.
    embedding,
    /// Euclidean norm of a gradient.
    global_norm,
    /// Kullback-Leibler divergence between softmaxes.
    kl_div,
    /// Normalised mean squared error.
    mse,
    /// Rotary position embedding.
    rope,
    /// Choosing the next token.
    sample,
    /// Gated activation of the Llama MLP.
    swiglu,
}
