//! What an application that subscribes sees: a span per request, its admission and its end inside.

mod support;

use dsla_serve::{Engine, EngineConfig, SamplingParams};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Entry>>>);

/// A span (without a parent) or an event, and its fields.
#[derive(Clone)]
struct Entry {
    parent: Option<u64>,
    name: String,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Seen {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("dsla_serve")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut entry = Entry { parent: None, name: span.metadata().name().into(), fields: BTreeMap::new() };
        span.record(&mut entry);
        let mut all = self.0.lock().expect("a lock");
        all.push(entry);
        Id::from_u64(all.len() as u64)
    }

    fn event(&self, event: &Event<'_>) {
        let parent = event.parent().map(Id::into_u64);
        let mut entry = Entry { parent, name: String::new(), fields: BTreeMap::new() };
        event.record(&mut entry);
        entry.name = entry.fields.remove("message").unwrap_or_default();
        self.0.lock().expect("a lock").push(entry);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn every_request_has_a_span() {
    let seen = Seen::default();
    tracing::subscriber::set_global_default(seen.clone()).expect("the first");
    let engine = Engine::new(support::text_model(), EngineConfig::default()).expect("an engine");
    let params = SamplingParams { max_tokens: 3, ignore_eos: true, ..SamplingParams::default() };
    let both = ["abc", "hello"].map(|text| engine.complete(text, params.clone()).expect("accepted"));
    let ids = both.each_ref().map(|g| g.id());
    for generation in both {
        generation.wait().expect("a completion");
    }
    engine.shutdown(Duration::from_secs(10));
    let all = seen.0.lock().expect("a lock").clone();
    for (id, tokens) in ids.iter().zip(["3", "5"]) {
        let of = |e: &Entry| e.name == "request" && e.fields["id"] == id.to_string();
        let at = all.iter().position(of).expect("a span");
        assert_eq!(
            (all[at].fields["prompt_tokens"].as_str(), all[at].fields["max_tokens"].as_str()),
            (tokens, "3")
        );
        let inside: Vec<&Entry> = all.iter().filter(|e| e.parent == Some(at as u64 + 1)).collect();
        let names: Vec<&str> = inside.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["admitted", "request ended"]);
        assert_eq!(inside[1].fields["generated"], "3");
        assert_eq!(inside[1].fields["finish"], "Some(Length)");
    }
}
