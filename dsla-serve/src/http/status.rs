//! What the server is and does: `/health`, `/v1/models`, `/v1/dsla`, and the page that plots it.

use super::App;
use super::error::{ApiError, ApiResult, json_response};
use crate::latency::{Recent, WINDOW};
use crate::{Engine, Stats};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

const PAGE: &str = include_str!("page.html");

/// Everything the page needs is in it: no other host is asked, and no other page may frame it.
const PAGE_POLICY: &str = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; \
     script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(super) async fn page() -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (headers, PAGE).into_response()
}

pub(super) async fn health(State(app): State<Arc<App>>) -> ApiResult<Response> {
    if app.engine()?.is_stopping() {
        let message = "server: shutting down";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down"));
    }
    Ok(json_response(StatusCode::OK, &json!({"status": "ok"})))
}

fn about(app: &App) -> ApiResult<Value> {
    let model = app.engine()?.model();
    Ok(json!({
        "id": app.options.model_name,
        "object": "model",
        // Of the weights nobody knows it: the protocol wants a number.
        "created": 0,
        "owned_by": "dsla",
        "max_model_len": model.table().positions(),
    }))
}

pub(super) async fn models(State(app): State<Arc<App>>) -> ApiResult<Response> {
    Ok(json_response(StatusCode::OK, &json!({"object": "list", "data": [about(&app)?]})))
}

pub(super) async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Response> {
    let about = about(&app)?;
    if id != app.options.model_name {
        return Err(app.no_model(&id));
    }
    Ok(json_response(StatusCode::OK, &about))
}

pub(super) async fn dsla(State(app): State<Arc<App>>) -> ApiResult<Response> {
    Ok(json_response(StatusCode::OK, &snapshot(app.engine()?, &app.options.model_name)))
}

fn snapshot(engine: &Engine, name: &str) -> Value {
    let (model, stats, latency) = (engine.model(), engine.stats(), engine.latency());
    let target = stats.converted_target;
    let quality = model.adapter().and_then(|a| a.quality_at(target));
    let quality = quality.map(|q| json!({"kl": q.kl, "ppl_ratio": q.ppl_ratio}));
    json!({
        "model": name,
        "max_model_len": model.table().positions(),
        "vocab_size": model.config().vocab_size,
        "weights_bytes": model.bytes(),
        "policy": engine.policy(),
        "uptime_s": stats.at.as_secs_f64(),
        "target": {
            "layers": target,
            "rate": target as f64 / stats.layers.max(1) as f64,
            "max_layers": stats.converted_max,
            "of": stats.layers,
            // As the adapter measured it; null where it did not.
            "quality": quality,
        },
        // By number of converted layers, from none on.
        "quality": (0..=stats.layers).map(|k| {
            let measured = model.adapter().and_then(|a| a.quality_at(k));
            measured.map(|q| json!({"kl": q.kl, "ppl_ratio": q.ppl_ratio}))
        }).collect::<Vec<_>>(),
        "layers": layers(engine, &stats),
        "load": {
            "waiting": stats.queued,
            "max_waiting": stats.max_queue,
            "running": stats.running,
            "max_running": stats.max_running,
            "prompt_tokens_ahead": stats.prompt_tokens_ahead,
            "prefill_tok_s": latency.prefill_rate.per_second(),
        },
        "memory": {
            "kv_bytes": stats.kv_bytes,
            "state_bytes": stats.state_bytes,
            "reserved_bytes": stats.reserved_bytes,
            "budget_bytes": stats.kv_budget,
        },
        "counters": {
            "steps": stats.steps,
            "folds": stats.folds,
            "preemptions": stats.preemptions,
            "recomputed_tokens": stats.recomputed_tokens,
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "finished": stats.finished,
            "cancelled": stats.cancelled,
            "failed": stats.failed,
        },
        "prefix_cache": {
            "queries": stats.prefix.queries,
            "hits": stats.prefix.hits,
            "other_rate": stats.prefix.other_rate,
            "not_kept": stats.prefix.not_kept,
            "too_short": stats.prefix.too_short,
            "entries": stats.prefix.entries,
            "bytes": stats.prefix.bytes,
            "evictions": stats.prefix.evictions,
        },
        "latency": {
            "window_s": WINDOW.as_secs(),
            "ttft_ms": quantiles(&latency.recent_first_token),
            "tpot_ms": quantiles(&latency.recent_inter_token),
        },
        "sequences": stats.sequences.iter().map(|s| json!({
            "id": s.id,
            "prompt_tokens": s.prompt_tokens,
            "prompt_fed": s.prompt_fed,
            "generated": s.generated,
            "converted": s.converted,
            "kv_bytes": s.kv_bytes,
            "state_bytes": s.state_bytes,
        })).collect::<Vec<_>>(),
    })
}

/// Per layer of the model: its rank in the adapter's order (null: it cannot convert), whether new sequences start with
/// it converted, and how many running ones have it converted.
fn layers(engine: &Engine, stats: &Stats) -> Vec<Value> {
    let order = engine.model().adapter().map_or(&[][..], |a| &a.order);
    let layer = |layer: usize| {
        let rank = order.iter().position(|&l| l == layer);
        let below = |converted: usize| rank.is_some_and(|rank| rank < converted);
        let running = stats.sequences.iter().filter(|s| below(s.converted)).count();
        json!({"layer": layer, "rank": rank, "target": below(stats.converted_target), "running_converted": running})
    };
    (0..stats.layers).map(layer).collect()
}

fn quantiles(recent: &Recent) -> Value {
    let ms = |q: f64| recent.quantile(q).map(|seconds| seconds * 1e3);
    json!({"count": recent.count(), "p50": ms(0.5), "p99": ms(0.99)})
}
