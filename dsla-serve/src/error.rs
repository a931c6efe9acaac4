//! Typed errors: what was refused, what came, what was wanted. Each prints as one line.

/// What the engine can refuse, and how a request can fail.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that could never be served as it is.
    #[error("request: {field}: got {got}, want {want}")]
    Request {
        /// The part of the request at fault.
        field: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// As many requests wait as may; try again later.
    #[error("queue: got {queued} requests waiting, want fewer than {max}")]
    QueueFull {
        /// Requests waiting.
        queued: usize,
        /// The engine's `max_queue`.
        max: usize,
    },
    /// The request's caches would exceed the whole byte budget even with nothing else running.
    #[error(
        "memory: a request of {tokens} tokens: got {need} bytes of caches at {converted} converted layers, \
         want at most {budget}"
    )]
    NeverFits {
        /// Prompt tokens plus `max_tokens`.
        tokens: usize,
        /// Converted layers of the smallest way to run it that the policy and the guard allow.
        converted: usize,
        /// Bytes of keys, values and states at the last token.
        need: usize,
        /// The engine's `kv_budget`.
        budget: usize,
    },
    /// An engine configuration that makes no sense or does not fit the model.
    #[error("engine config: {field}: got {got}, want {want}")]
    Config {
        /// The field at fault.
        field: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// `shutdown` was called: no new requests.
    #[error("engine: got a request after shutdown, want one before")]
    ShuttingDown,
    /// The engine thread ended before the request did.
    #[error("engine: got a stopped engine thread, want a running one")]
    Stopped,
    /// The engine thread could not be started.
    #[error("engine: cannot start its thread: {message}")]
    Thread {
        /// What the system answered.
        message: String,
    },
    /// The model broke its contract with the engine: a bug.
    #[error("engine: {what}: got {got}, want {want}")]
    Internal {
        /// What was looked at.
        what: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] dsla_model::Error),
}

/// The result of a call into this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn request(field: &'static str, got: impl ToString, want: impl ToString) -> Error {
        Error::Request { field, got: got.to_string(), want: want.to_string() }
    }

    pub(crate) fn config(field: &'static str, got: impl ToString, want: impl ToString) -> Error {
        Error::Config { field, got: got.to_string(), want: want.to_string() }
    }

    pub(crate) fn internal(what: &'static str, got: impl ToString, want: impl ToString) -> Error {
        Error::Internal { what, got: got.to_string(), want: want.to_string() }
    }
}
