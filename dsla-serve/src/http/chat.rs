//! `/v1/chat/completions`: messages in, the text of the model's chat template to the engine.

use super::App;
use super::calls::Parser;
use super::error::{ApiError, ApiResult};
use super::fields::{Fields, show};
use super::job::{Job, Kind};
use super::params;
use crate::Engine;
use serde_json::{Map, Value};

/// The job that a request body asks for. Renders and tokenises: not for an async thread.
pub(super) fn job(app: &App, engine: &Engine, body: &Value) -> ApiResult<Job> {
    let body = Fields::new(body)?;
    app.check_model(&body)?;
    let mut wishes = params::read(&body)?;
    wishes.params.logprobs = logprobs(&body)?;
    let limit = body.count("max_completion_tokens")?.or(body.count("max_tokens")?);
    let prompt = prompt(engine, &body)?;
    let mut job = Job::new(app, engine, Kind::Chat, wishes, vec![prompt], limit)?;
    job.parser = parser(&body)?;
    Ok(job)
}

/// `logprobs: true` asks for the tokens', `top_logprobs` for this many alternatives too.
fn logprobs(body: &Fields) -> ApiResult<Option<usize>> {
    let asked = body.bool("logprobs")?.unwrap_or(false);
    match body.count("top_logprobs")? {
        Some(n) if n > 20 => Err(body.refuse("top_logprobs", "at most 20")),
        Some(n) if n > 0 && !asked => {
            Err(body.refuse("top_logprobs", "it only together with logprobs: true"))
        }
        n => Ok(asked.then_some(n.unwrap_or(0))),
    }
}

/// The ids of a conversation.
pub(super) fn prompt(engine: &Engine, body: &Fields) -> ApiResult<Vec<u32>> {
    let Some(list) = body.array("messages")? else {
        return Err(body.refuse("messages", "an array of messages"));
    };
    let messages: Vec<Value> =
        list.iter().enumerate().map(|(i, m)| message(i, m)).collect::<ApiResult<_>>()?;
    let open = body.bool("add_generation_prompt")?.unwrap_or(true);
    let input = |e| ApiError::input("messages", e);
    let template = engine.model().chat_template().map_err(input)?;
    let text = template.render(&messages, open, tools(body)?.as_ref()).map_err(input)?;
    // The template has written the begin token already.
    engine.model().tokenizer().and_then(|t| t.encode(&text, false)).map_err(input)
}

/// A message as templates know it: every field passes, and a content in parts becomes one text.
fn message(index: usize, message: &Value) -> ApiResult<Value> {
    let at = |field: &str| format!("messages[{index}]{field}");
    let Value::Object(fields) = message else {
        return Err(ApiError::field(at(""), show(message), "an object"));
    };
    let role = fields.get("role").unwrap_or(&Value::Null);
    if !role.is_string() {
        return Err(ApiError::field(at(".role"), show(role), "a string"));
    }
    let content = match fields.get("content").unwrap_or(&Value::Null) {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let parts = parts.iter().enumerate();
            let texts = parts.map(|(i, part)| text_part(part, at(&format!(".content[{i}]"))));
            texts.collect::<ApiResult<Vec<_>>>()?.join("\n")
        }
        // An assistant that called a tool may have said nothing.
        Value::Null if fields.get("tool_calls").is_some_and(Value::is_array) => String::new(),
        other => return Err(ApiError::field(at(".content"), show(other), "a string or an array of parts")),
    };
    let mut out: Map<String, Value> = fields.clone();
    out.insert("content".into(), content.into());
    for (i, call) in out.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
    {
        arguments(call).map_err(|got| {
            ApiError::field(at(&format!(".tool_calls[{i}].function.arguments")), got, "a JSON object as text")
        })?;
    }
    Ok(out.into())
}

/// Clients send arguments as text, and templates write them as JSON: once is enough. Refused: what came.
fn arguments(call: &mut Value) -> Result<(), String> {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return Ok(()) };
    let Value::String(text) = &*arguments else { return Ok(()) };
    let map = match text.trim() {
        "" => Map::new(),
        text => serde_json::from_str(text).map_err(|_| show(arguments))?,
    };
    *arguments = map.into();
    Ok(())
}

fn text_part(part: &Value, at: String) -> ApiResult<&str> {
    let kind = &part["type"];
    match (kind.as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        (Some("text"), None) => {
            Err(ApiError::field(at, "a part without text", "{\"type\": \"text\", \"text\": ...}"))
        }
        _ => Err(ApiError::field(format!("{at}.type"), show(kind), "\"text\": the model reads nothing else")),
    }
}

/// Reads the calls that the model writes, where it was told of tools.
fn parser(body: &Fields) -> ApiResult<Option<Parser>> {
    let Some(Value::Array(tools)) = tools(body)? else { return Ok(None) };
    let name = |tool: &Value| tool["function"]["name"].as_str().map(String::from);
    let most = if body.bool("parallel_tool_calls")? == Some(false) { 1 } else { usize::MAX };
    Ok(Some(Parser::new(tools.iter().filter_map(name).collect(), most)))
}

/// The tools for the template.
fn tools(body: &Fields) -> ApiResult<Option<Value>> {
    let tools = body.array("tools")?.filter(|t| !t.is_empty());
    for (i, tool) in tools.into_iter().flatten().enumerate() {
        if !tool["function"]["name"].is_string() {
            let (at, got) = (format!("tools[{i}].function.name"), show(&tool["function"]["name"]));
            return Err(ApiError::field(at, got, "a string"));
        }
    }
    let tools = tools.map(|t| Value::from(t.clone()));
    match body.get("tool_choice") {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(None),
        Some(_) => {
            Err(body.refuse("tool_choice", "\"auto\" or \"none\": this server does not constrain its output"))
        }
    }
}
