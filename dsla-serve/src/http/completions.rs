//! `/v1/completions`: a text, token ids, or several of either.

use super::App;
use super::error::{ApiError, ApiResult};
use super::fields::{self, Fields};
use super::job::{Job, Kind};
use super::params;
use crate::Engine;
use serde_json::Value;

/// The job that a request body asks for. Tokenises: not for an async thread.
pub(super) fn job(app: &App, engine: &Engine, body: &Value) -> ApiResult<Job> {
    let body = Fields::new(body)?;
    app.check_model(&body)?;
    let mut wishes = params::read(&body)?;
    wishes.params.logprobs = body.count("logprobs")?;
    if wishes.params.logprobs.is_some_and(|n| n > 20) {
        return Err(body.refuse("logprobs", "at most 20"));
    }
    let echo = body.bool("echo")?.unwrap_or(false);
    let limit = Some(body.count("max_tokens")?.unwrap_or(params::COMPLETION_TOKENS));
    let asked = wishes.params.prompt_logprobs;
    // An echo's tokens have log-probabilities too. Without a token to generate it is the prompt's that there are.
    if echo && (wishes.params.logprobs.is_some() || limit == Some(0)) {
        let wanted = wishes.params.logprobs.unwrap_or(0);
        wishes.params.prompt_logprobs = Some(asked.unwrap_or(0).max(wanted));
    }
    let special = body.bool("add_special_tokens")?.unwrap_or(true);
    let prompts = prompts(engine, &body, special)?;
    let mut job = Job::new(app, engine, Kind::Completion, wishes, prompts, limit)?;
    job.prompt_logprobs = asked;
    if echo {
        job.echo_prompts(engine)?;
    }
    Ok(job)
}

fn prompts(engine: &Engine, body: &Fields, special: bool) -> ApiResult<Vec<Vec<u32>>> {
    let want = "a string, an array of strings, an array of token ids or an array of those";
    let encode = |text: &str| {
        let ids = engine.model().tokenizer().and_then(|t| t.encode(text, special));
        ids.map_err(|e| ApiError::input("prompt", e))
    };
    match body.get("prompt") {
        Some(Value::String(text)) => Ok(vec![encode(text)?]),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            Ok(vec![fields::ids(list).ok_or_else(|| body.refuse("prompt", want))?])
        }
        Some(Value::Array(list)) if !list.is_empty() => {
            let one = |v: &Value| match v {
                Value::String(text) => encode(text),
                Value::Array(ids) => fields::ids(ids).ok_or_else(|| body.refuse("prompt", want)),
                _ => Err(body.refuse("prompt", want)),
            };
            list.iter().map(one).collect()
        }
        _ => Err(body.refuse("prompt", want)),
    }
}
