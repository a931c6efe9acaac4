//! How to continue a prompt, as OpenAI's and vLLM's clients say it.

use super::error::{ApiError, ApiResult};
use super::fields::Fields;
use crate::SamplingParams;
use std::hash::{BuildHasher, RandomState};

/// Tokens of a completion when the request does not say: OpenAI's default of the older endpoint.
pub(super) const COMPLETION_TOKENS: usize = 16;

/// What would change the text and is not done here; each with the values that ask for nothing.
const REFUSED: [(&str, &[&str]); 17] = [
    ("allowed_token_ids", &["[]"]),
    ("audio", &[]),
    ("bad_words", &["[]"]),
    ("chat_template", &[]),
    ("continue_final_message", &["false"]),
    ("documents", &["[]"]),
    ("functions", &["[]"]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("include_stop_str_in_output", &["false"]),
    ("structured_outputs", &[]),
    ("suffix", &["\"\""]),
    ("truncate_prompt_tokens", &[]),
    ("use_beam_search", &["false"]),
    ("web_search_options", &[]),
];

/// A request's wishes beside its prompt.
pub(super) struct Wishes {
    /// `max_tokens` is 0 where the request does not say.
    pub params: SamplingParams,
    /// Choices per prompt.
    pub n: usize,
    pub stream: bool,
    /// One more chunk at the end of a stream, with the usage.
    pub include_usage: bool,
    /// Choices carry their token ids.
    pub token_ids: bool,
}

/// `logprobs` and the name of the token limit differ between the endpoints and are read there.
pub(super) fn read(body: &Fields) -> ApiResult<Wishes> {
    for (name, nothing) in REFUSED {
        if body.get(name).is_some_and(|v| !nothing.contains(&v.to_string().as_str())) {
            return Err(body.refuse(name, "it left out: this server does not support it"));
        }
    }
    if let Some(format) = body.object("response_format")?
        && format.text("type")?.is_some_and(|t| t != "text")
    {
        return Err(format.refuse("type", "\"text\": this server does not constrain its output"));
    }
    let n = body.count("n")?.unwrap_or(1);
    if n == 0 {
        return Err(body.refuse("n", "1 or more"));
    }
    if body.count("best_of")?.is_some_and(|best| best != n) {
        return Err(body.refuse("best_of", "it equal to n: all choices are returned"));
    }
    let stream = body.bool("stream")?.unwrap_or(false);
    let options = body.object("stream_options")?;
    if options.is_some() && !stream {
        return Err(body.refuse("stream_options", "it only together with stream: true"));
    }
    let include_usage = match options {
        Some(options) => options.bool("include_usage")?.unwrap_or(false),
        None => false,
    };
    let plain = SamplingParams::default();
    let params = SamplingParams {
        max_tokens: 0,
        // OpenAI's default; the engine's own is greedy.
        temperature: body.float("temperature")?.unwrap_or(1.0),
        top_k: top_k(body)?,
        top_p: body.float("top_p")?.unwrap_or(plain.top_p),
        min_p: body.float("min_p")?.unwrap_or(plain.min_p),
        seed: body.integer("seed")?.unwrap_or_else(random),
        repetition_penalty: body.float("repetition_penalty")?.unwrap_or(plain.repetition_penalty),
        presence_penalty: body.float("presence_penalty")?.unwrap_or(plain.presence_penalty),
        frequency_penalty: body.float("frequency_penalty")?.unwrap_or(plain.frequency_penalty),
        logit_bias: logit_bias(body)?,
        min_tokens: body.count("min_tokens")?.unwrap_or(plain.min_tokens),
        stop: body.texts("stop")?.unwrap_or_default(),
        stop_ids: body.ids("stop_token_ids")?.unwrap_or_default(),
        ignore_eos: body.bool("ignore_eos")?.unwrap_or(plain.ignore_eos),
        keep_special: !body.bool("skip_special_tokens")?.unwrap_or(true),
        logprobs: None,
        cache_prompt: body.bool("cache_prompt")?.unwrap_or(plain.cache_prompt),
        prompt_logprobs: prompt_logprobs(body, stream)?,
        rate: match body.object("dsla")? {
            Some(dsla) => dsla.number("rate")?,
            None => None,
        },
    };
    let token_ids = body.bool("return_token_ids")?.unwrap_or(false);
    Ok(Wishes { params, n, stream, include_usage, token_ids })
}

/// vLLM's field, which it does not have in streams either.
fn prompt_logprobs(body: &Fields, stream: bool) -> ApiResult<Option<usize>> {
    match body.count("prompt_logprobs")? {
        Some(n) if n > 20 => Err(body.refuse("prompt_logprobs", "at most 20")),
        Some(_) if stream => Err(body.refuse("prompt_logprobs", "it left out together with stream: true")),
        n => Ok(n),
    }
}

/// -1 and 0 keep all, as in vLLM.
fn top_k(body: &Fields) -> ApiResult<usize> {
    match body.get("top_k").and_then(|v| v.as_i64()) {
        Some(-1) => Ok(0),
        _ => Ok(body.count("top_k")?.unwrap_or(0)),
    }
}

fn logit_bias(body: &Fields) -> ApiResult<Vec<(u32, f32)>> {
    let Some(bias) = body.object("logit_bias")? else { return Ok(Vec::new()) };
    let one = |name: &String| {
        let id: u32 =
            name.parse().map_err(|_| ApiError::field("logit_bias", format!("{name:?}"), "token ids"))?;
        Ok(bias.float(name)?.map(|x| (id, x)))
    };
    bias.map().keys().filter_map(|name| one(name).transpose()).collect()
}

/// The standard library's per-process keys, another one at each call: nobody can guess a seed from the one before.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}
