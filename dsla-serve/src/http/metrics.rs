//! `/metrics`: Prometheus text. Names are vLLM's under `dsla:`, so that its dashboards need one replacement.

use super::App;
use super::error::ApiResult;
use crate::Stats;
use crate::latency::{Histogram, Latency};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::fmt::Write;
use std::sync::{Arc, PoisonError};

pub(super) async fn metrics(State(app): State<Arc<App>>) -> ApiResult<Response> {
    let engine = app.engine()?;
    let mut page = Page::new(&app.options.model_name);
    page.load(&engine.stats());
    page.requests(&engine.stats(), &engine.latency());
    let answers = app.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    page.head("http_responses_total", "counter", "HTTP answers by status.");
    for (status, n) in answers {
        page.sample("http_responses_total", &format!("status=\"{status}\""), n as f64);
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], page.text).into_response())
}

struct Page {
    text: String,
    /// `model_name="..."`, on every sample.
    model: String,
}

impl Page {
    fn new(model: &str) -> Page {
        let escaped = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        Page { text: String::new(), model: format!("model_name=\"{escaped}\"") }
    }

    // Writing to a String cannot fail.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP dsla:{name} {help}\n# TYPE dsla:{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = writeln!(self.text, "dsla:{name}{{{}{comma}{labels}}} {value}", self.model);
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.sample(name, "", value);
    }

    fn load(&mut self, s: &Stats) {
        let held = (s.kv_bytes + s.state_bytes) as f64;
        let gauges = [
            ("num_requests_running", "Sequences running.", s.running as f64),
            ("num_requests_waiting", "Requests waiting.", s.queued as f64),
            (
                "prompt_tokens_ahead",
                "Prompt tokens still to be taken in, of requests that wait and run.",
                s.prompt_tokens_ahead as f64,
            ),
            ("converted_layers", "Layers that a new sequence starts converted.", s.converted_target as f64),
            (
                "target_rate",
                "The same as a share of all layers.",
                s.converted_target as f64 / s.layers.max(1) as f64,
            ),
            ("kv_bytes", "Bytes of keys and values of running sequences.", s.kv_bytes as f64),
            ("state_bytes", "Bytes of states and windows of running sequences.", s.state_bytes as f64),
            (
                "reserved_bytes",
                "Bytes of running sequences with whole prompts counted from the start.",
                s.reserved_bytes as f64,
            ),
            ("prefix_cache_entries", "Snapshots in the prefix cache.", s.prefix.entries as f64),
            ("prefix_cache_bytes", "Their bytes.", s.prefix.bytes as f64),
        ];
        for (name, help, value) in gauges {
            self.one(name, "gauge", help, value);
        }
        if let Some(budget) = s.kv_budget {
            self.one("kv_budget_bytes", "gauge", "Bytes that caches and states may take.", budget as f64);
            let help = "Share of the byte budget in use, from 0 to 1.";
            self.one("kv_cache_usage_perc", "gauge", help, held / budget as f64);
        }
        let counters = [
            ("steps_total", "Engine steps.", s.steps),
            ("folds_total", "Layers of running sequences folded from keys and values into states.", s.folds),
            ("prompt_tokens_total", "Prompt tokens fed.", s.prompt_tokens),
            ("generation_tokens_total", "Tokens generated.", s.generated_tokens),
            (
                "num_preemptions_total",
                "Running requests that went back to the queue for want of bytes.",
                s.preemptions,
            ),
            ("recomputed_tokens_total", "Tokens fed once more after that.", s.recomputed_tokens),
            ("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", s.prefix.queries),
            ("prefix_cache_hits_total", "Prompt tokens that the prefix cache gave.", s.prefix.hits),
            ("prefix_cache_evictions_total", "Snapshots dropped from the prefix cache.", s.prefix.evictions),
        ];
        for (name, help, value) in counters {
            self.one(name, "counter", help, value as f64);
        }
        let name = "prefix_cache_unusable_total";
        self.head(
            name,
            "counter",
            "Prompt tokens that were no hit: computed at another rate, not kept, of too short a prompt.",
        );
        let p = &s.prefix;
        for (reason, n) in
            [("other_rate", p.other_rate), ("not_kept", p.not_kept), ("too_short", p.too_short)]
        {
            self.sample(name, &format!("reason=\"{reason}\""), n as f64);
        }
    }

    fn requests(&mut self, s: &Stats, l: &Latency) {
        self.head("request_success_total", "counter", "Requests that ended by themselves or were cancelled.");
        let reasons = [
            ("stop", s.finished - s.finished_by_length),
            ("length", s.finished_by_length),
            ("abort", s.cancelled),
        ];
        for (reason, n) in reasons {
            self.sample("request_success_total", &format!("finished_reason=\"{reason}\""), n as f64);
        }
        let help = "How fast the last few thousand prompt tokens went; 0 before the first prompt.";
        let rate = l.prefill_rate.per_second().unwrap_or(0.0);
        self.one("prefill_tokens_per_second", "gauge", help, rate);
        self.one("request_failure_total", "counter", "Requests that ended with an error.", s.failed as f64);
        let histograms = [
            ("time_to_first_token_seconds", "From submission to the first token.", &l.first_token),
            ("inter_token_latency_seconds", "Between one token and the next.", &l.inter_token),
            ("request_time_per_output_token_seconds", "Mean per token after the first.", &l.per_token),
            ("e2e_request_latency_seconds", "From submission to the end.", &l.whole),
            ("request_queue_time_seconds", "From submission to admission.", &l.queue),
            ("request_prefill_time_seconds", "From admission to the first token.", &l.prefill),
            ("request_decode_time_seconds", "From the first token to the end.", &l.decode),
            ("request_prompt_tokens", "Prompt tokens of requests that ended.", &l.prompt_tokens),
            ("request_generation_tokens", "Tokens generated by requests that ended.", &l.generated_tokens),
            ("iteration_tokens_total", "Tokens of an engine step.", &l.step_tokens),
        ];
        for (name, help, histogram) in histograms {
            self.histogram(name, help, histogram);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, h: &Histogram) {
        self.head(name, "histogram", help);
        for (bound, n) in h.buckets() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
            self.sample(&format!("{name}_bucket"), &format!("le=\"{bound}\""), n as f64);
        }
        self.sample(&format!("{name}_sum"), "", h.sum());
        self.sample(&format!("{name}_count"), "", h.count() as f64);
    }
}
