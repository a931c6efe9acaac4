//! `/tokenize` and `/detokenize`, as vLLM has them.

use super::error::{ApiError, ApiResult, json_response};
use super::fields::Fields;
use super::{App, Body, chat, json_bytes, parse};
use crate::Engine;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn tokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    answer(app, headers, body, |engine, body| {
        let ids = match body.text("prompt")? {
            Some(text) => {
                let special = body.bool("add_special_tokens")?.unwrap_or(true);
                let ids = engine.model().tokenizer().and_then(|t| t.encode(text, special));
                ids.map_err(|e| ApiError::input("prompt", e))?
            }
            None if body.get("messages").is_some() => chat::prompt(engine, body)?,
            None => return Err(body.refuse("prompt", "a string, or messages")),
        };
        let mut out = json!({
            "count": ids.len(),
            "max_model_len": engine.model().table().positions(),
            "tokens": ids,
        });
        if body.bool("return_token_strs")?.unwrap_or(false) {
            let tokenizer = engine.model().tokenizer().map_err(|e| ApiError::input("prompt", e))?;
            out["token_strs"] = ids.iter().map(|&id| tokenizer.token(id)).collect();
        }
        Ok(out)
    })
    .await
}

pub(super) async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    answer(app, headers, body, |engine, body| {
        let ids = body.ids("tokens")?.ok_or_else(|| body.refuse("tokens", "an array of token ids"))?;
        let text = engine.model().tokenizer().and_then(|t| t.decode(&ids, false));
        Ok(json!({"prompt": text.map_err(|e| ApiError::input("tokens", e))?}))
    })
    .await
}

async fn answer(
    app: Arc<App>,
    headers: HeaderMap,
    body: Body,
    work: fn(&Engine, &Fields) -> ApiResult<Value>,
) -> ApiResult<Response> {
    let body = json_bytes(&headers, body)?;
    let engine = app.engine()?.clone();
    let reader = Arc::clone(&app);
    let value = app
        .blocking(move || {
            let body = parse(&body)?;
            let fields = Fields::new(&body)?;
            reader.check_model(&fields)?;
            work(&engine, &fields)
        })
        .await?;
    Ok(json_response(StatusCode::OK, &value))
}
