//! The OpenAI-compatible server: a router over an [`Engine`], to serve alone or inside another axum application.
//!
//! ```no_run
//! # async fn f(engine: dsla_serve::Engine) -> Result<(), Box<dyn std::error::Error>> {
//! let dsla = dsla_serve::http::router(engine, dsla_serve::http::Options::new("smollm2"));
//! let app = axum::Router::new().nest("/llm", dsla);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | path | answers |
//! |---|---|
//! | `POST /v1/chat/completions`, `POST /v1/completions` | OpenAI's, streamed or whole; `"dsla": {"rate": 0.5}` pins the rate |
//! | `GET /v1/models`, `GET /v1/models/{id}` | the one model |
//! | `POST /tokenize`, `POST /detokenize` | as vLLM's |
//! | `GET /v1/dsla` | target, layers, policy, load, memory, latency |
//! | `GET /health` | 200 when it serves, 503 while the model loads and after shutdown |
//! | `GET /metrics` | Prometheus text, vLLM's names under `dsla:` |
//! | `GET /` | a page that plots `/v1/dsla` |
//!
//! With an API key all but the last three ask for it. Nothing here blocks an async thread: JSON, templates and
//! tokenising run on tokio's blocking threads, as many at a time as there are cores, and events wake their task. A
//! connection that closes cancels its request.

mod answer;
mod calls;
mod chat;
mod completions;
mod error;
mod fields;
mod job;
mod logprobs;
mod metrics;
mod params;
mod serve;
mod status;
mod tokenize;

use crate::Engine;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response, Sse, sse::KeepAlive};
use axum::routing::{get, post};
use error::{ApiError, ApiResult, json_response};
use fields::Fields;
use job::Job;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A comment line in a stream that has been silent this long, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How the server presents itself and what it accepts.
#[derive(Clone)]
pub struct Options {
    /// The model's name in `/v1/models`, and the one that requests may name.
    pub model_name: String,
    /// What clients have to send as `Authorization: Bearer KEY`. `None`: nothing.
    pub api_key: Option<String>,
    /// Bounds of a request.
    pub limits: Limits,
}

impl Options {
    /// No key, default limits.
    pub fn new(model_name: impl Into<String>) -> Options {
        Options { model_name: model_name.into(), api_key: None, limits: Limits::default() }
    }
}

/// Without the key: what is printed ends up in logs.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut s = f.debug_struct("Options");
        s.field("model_name", &self.model_name).field("api_key", &self.api_key.as_ref().map(|_| "..."));
        s.field("limits", &self.limits).finish()
    }
}

/// Bounds of a request, beside those of model and engine. Beyond them: 400, 413 for the body, 429 for `open`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens that one choice may ask for.
    pub max_tokens: usize,
    /// Choices of one request: prompts times `n`.
    pub choices: usize,
    /// Requests at once that are being read and tokenised, or wait for a whole answer.
    pub open: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 8 << 20,
            prompt_tokens: usize::MAX,
            max_tokens: usize::MAX,
            choices: 128,
            open: 1024,
        }
    }
}

/// A server whose engine may come later. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Server(Arc<App>);

#[derive(Debug)]
struct App {
    options: Options,
    /// Empty while the model loads.
    engine: OnceLock<Engine>,
    /// One permit per core for work that blocks.
    workers: Arc<Semaphore>,
    open: Semaphore,
    /// Answers so far by status.
    answers: Mutex<BTreeMap<u16, u64>>,
}

/// All endpoints over a running engine.
pub fn router(engine: Engine, options: Options) -> Router {
    let server = Server::new(options);
    server.ready(engine);
    server.router()
}

impl Server {
    /// Answers 503 until [`Server::ready`].
    pub fn new(options: Options) -> Server {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let open = Semaphore::new(options.limits.open.min(Semaphore::MAX_PERMITS));
        Server(Arc::new(App {
            options,
            engine: OnceLock::new(),
            workers: Arc::new(Semaphore::new(cores)),
            open,
            answers: Mutex::default(),
        }))
    }

    /// Serves from here on. The first engine stays.
    pub fn ready(&self, engine: Engine) {
        // A second engine is dropped, which ends it.
        let _ = self.0.engine.set(engine);
    }

    /// The engine, once there is one.
    pub fn engine(&self) -> Option<&Engine> {
        self.0.engine.get()
    }

    /// All endpoints.
    pub fn router(&self) -> Router {
        let app = Arc::clone(&self.0);
        let protected = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(completions))
            .route("/v1/models", get(status::models))
            .route("/v1/models/{*id}", get(status::model))
            .route("/v1/dsla", get(status::dsla))
            .route("/tokenize", post(tokenize::tokenize))
            .route("/detokenize", post(tokenize::detokenize))
            .route_layer(middleware::from_fn_with_state(Arc::clone(&app), key));
        Router::new()
            .merge(protected)
            .route("/", get(status::page))
            .route("/health", get(status::health))
            .route("/metrics", get(metrics::metrics))
            .fallback(|request: Request| async move {
                let message = format!("path: got {}, want one of this server's", request.uri().path());
                ApiError::new(StatusCode::NOT_FOUND, message)
            })
            .method_not_allowed_fallback(|request: Request| async move {
                let message = format!("method: got {}, want the path's own", request.method());
                ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
            })
            .layer(DefaultBodyLimit::max(app.options.limits.body_bytes))
            .layer(middleware::from_fn_with_state(Arc::clone(&app), count))
            .with_state(app)
    }
}

/// Refuses requests without the key.
async fn key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(key) = &app.options.api_key else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |v| v.as_bytes());
    if same(given, format!("Bearer {key}").as_bytes()) {
        return next.run(request).await;
    }
    let message = "authorization: got no valid key, want `Authorization: Bearer KEY`";
    ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key").into_response()
}

/// Equality in a time that does not tell where `given` differs, only how long it is.
fn same(given: &[u8], want: &[u8]) -> bool {
    let wanted = want.iter().copied().cycle();
    let differences = given.iter().zip(wanted).fold(0, |d, (a, b)| std::hint::black_box(d | (a ^ b)));
    differences == 0 && given.len() == want.len()
}

/// Counts answers by status.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let mut answers = app.answers.lock().unwrap_or_else(PoisonError::into_inner);
    *answers.entry(response.status().as_u16()).or_default() += 1;
    drop(answers);
    response
}

impl App {
    fn engine(&self) -> ApiResult<&Engine> {
        self.engine.get().ok_or_else(|| {
            let message = "server: the model is being loaded";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("loading").retry_after(1)
        })
    }

    fn check_model(&self, body: &Fields) -> ApiResult<()> {
        match body.text("model")? {
            Some(name) if name != self.options.model_name => Err(self.no_model(name)),
            _ => Ok(()),
        }
    }

    fn no_model(&self, name: &str) -> ApiError {
        let mut error =
            ApiError::field("model", fields::show(&name.into()), format!("{:?}", self.options.model_name));
        error.status = StatusCode::NOT_FOUND;
        error.code("model_not_found")
    }

    /// Work that may take milliseconds, on a thread for it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let lost = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server: a worker thread ended early");
        let permit = Arc::clone(&self.workers).acquire_owned().await.map_err(|_| lost())?;
        let work = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(lost()))
    }
}

/// A JSON body, as an extractor gives it.
type Body = Result<Bytes, BytesRejection>;

/// The body as JSON; to be called where blocking is fine.
fn parse(body: &[u8]) -> ApiResult<Value> {
    let wrong =
        |e: serde_json::Error| ApiError::new(StatusCode::BAD_REQUEST, format!("body: got {e}, want JSON"));
    serde_json::from_slice(body).map_err(wrong)
}

/// The bytes of a body that says it is JSON. Browsers let any page post other types anywhere; this one they ask about
/// first, and get no permission.
fn json_bytes(headers: &HeaderMap, body: Body) -> ApiResult<Bytes> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("nothing");
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = format!("content-type: got {}, want application/json", fields::show(&kind.into()));
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    body.map_err(|rejection| ApiError::new(rejection.status(), format!("body: {}", rejection.body_text())))
}

async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> ApiResult<Response> {
    generate(app, headers, body, chat::job).await
}

async fn completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> ApiResult<Response> {
    generate(app, headers, body, completions::job).await
}

async fn generate(
    app: Arc<App>,
    headers: HeaderMap,
    body: Body,
    read: fn(&App, &Engine, &Value) -> ApiResult<Job>,
) -> ApiResult<Response> {
    let body = json_bytes(&headers, body)?;
    let engine = app.engine()?.clone();
    let Ok(_open) = app.open.try_acquire() else {
        let message = format!("server: got {} open requests, want fewer", app.options.limits.open);
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full").retry_after(1));
    };
    let (reader, to) = (Arc::clone(&app), engine.clone());
    let (job, generations) = app
        .blocking(move || {
            let mut job = read(&reader, &to, &parse(&body)?)?;
            let generations = job.submit(&to)?;
            Ok((job, generations))
        })
        .await?;
    if job.stream {
        let chunks = answer::Chunks::new(job, engine, generations);
        let stream = Sse::new(chunks).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
        // nginx would collect the whole stream first.
        return Ok(([("x-accel-buffering", "no")], stream).into_response());
    }
    let value = answer::whole(job, &engine, generations).await?;
    Ok(json_response(StatusCode::OK, &value))
}

#[cfg(test)]
mod tests {
    use super::{Options, same};

    #[test]
    fn a_key_is_not_printed() {
        let options = Options { api_key: Some("sesame".into()), ..Options::new("tiny") };
        let text = format!("{options:?}");
        assert!(text.contains("tiny") && !text.contains("sesame"), "{text}");
    }

    #[test]
    fn keys() {
        assert!(same(b"abc", b"abc") && same(b"", b""));
        assert!(!same(b"", b"abc") && !same(b"ab", b"abc") && !same(b"abcabc", b"abc"));
        assert!(!same(b"abd", b"abc") && !same(b"abc", b""));
    }
}
