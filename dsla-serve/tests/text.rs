//! Text in and out: a tiny model with a tokenizer of single bytes, some of which are only parts of a character.

mod support;

use dsla_model::{Message, Model};
use dsla_serve::{Completion, Engine, EngineConfig, Event, FinishReason, Request, SamplingParams};
use support::text_model;

fn engine(model: &Model) -> Engine {
    Engine::new(model.clone(), EngineConfig::default()).expect("an engine")
}

fn params(seed: u64) -> SamplingParams {
    // Hot, so that broken characters come up.
    SamplingParams { max_tokens: 60, temperature: 3.0, seed, ignore_eos: true, ..SamplingParams::default() }
}

fn run(engine: &Engine, params: SamplingParams) -> Completion {
    engine.complete("hello w", params).expect("accepted").wait().expect("a completion")
}

#[test]
fn the_events_texts_are_the_text_of_the_ids() {
    let model = text_model();
    let engine = engine(&model);
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let (mut broken, mut accents) = (0, 0);
    for seed in 0..60 {
        let got = run(&engine, params(seed));
        let want = tokenizer.decode(&got.ids, true).expect("text");
        assert_eq!(got.text, want, "seed {seed}");
        assert_eq!((got.ids.len(), got.finish), (60, FinishReason::Length));
        broken += usize::from(want.contains(char::REPLACEMENT_CHARACTER));
        accents += usize::from(want.contains('é'));
    }
    assert!(broken > 0 && accents > 0, "the cases came up: {broken} broken, {accents} accents");
}

#[test]
fn stop_strings_across_tokens() {
    let model = text_model();
    let engine = engine(&model);
    for seed in 0..12 {
        let whole = run(&engine, params(seed));
        // Five characters from the middle, each a token or more of its own.
        let middle = whole.text.char_indices().nth(20).expect("long enough").0;
        let stop: String = whole.text[middle..].chars().take(5).collect();
        let cut = whole.text.find(&stop).expect("it is in there");
        let stops = vec!["never in there".into(), stop.clone()];
        let generation =
            engine.complete("hello w", SamplingParams { stop: stops, ..params(seed) }).expect("accepted");
        let events: Vec<Event> = generation.map(|e| e.expect("an event")).collect();
        let text: String = events.iter().map(|e| e.text.as_str()).collect();
        assert_eq!(text, whole.text[..cut], "seed {seed}, stop {stop:?}");
        let last = events.last().expect("events");
        assert_eq!(last.finish, Some(FinishReason::Stop));
        assert!(last.usage.generated < 60);
        let ids: Vec<u32> = events.iter().filter_map(|e| e.token).collect();
        assert_eq!(ids, whole.ids[..ids.len()], "the tokens do not depend on stop strings");
    }
}

#[test]
fn held_back_text_comes_at_the_end() {
    let engine = engine(&text_model());
    let whole = run(&engine, params(1));
    let ending: String = whole.text.chars().skip(whole.text.chars().count() - 3).collect();
    let stop = vec![format!("{ending}and more")];
    assert_eq!(run(&engine, SamplingParams { stop, ..params(1) }).text, whole.text);
}

#[test]
fn an_end_token_has_no_text() {
    let engine = engine(&text_model());
    let ended = (0..300).map(|seed| run(&engine, SamplingParams { ignore_eos: false, ..params(seed) }));
    let ended: Vec<_> = ended.filter(|c| c.finish == FinishReason::Stop).take(3).collect();
    assert_eq!(ended.len(), 3, "an end token came up");
    for completion in ended {
        assert!(!completion.ids.contains(&2) && completion.usage.generated == completion.ids.len());
        assert!(!completion.text.contains("<end>"));
    }
}

#[test]
fn text_and_chat_are_tokenised_before_they_queue() {
    let model = text_model();
    let engine = engine(&model);
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let submit =
        |prompt: Vec<u32>| engine.submit(Request { prompt, params: params(3) }).expect("accepted").wait();
    let plain = tokenizer.encode("hello w", true).expect("ids");
    assert_eq!(run(&engine, params(3)), submit(plain).expect("a completion"));
    let chat =
        engine.chat(&[Message::new("user", "Hi"), Message::new("bot", "Ho")], params(3)).expect("accepted");
    let rendered = tokenizer.encode("<begin>user Hi.bot Ho.a", false).expect("ids");
    assert_eq!(rendered[0], 1, "the begin token comes from the template, once");
    assert_eq!(chat.prompt_tokens(), rendered.len());
    assert_eq!(chat.wait().expect("a completion"), submit(rendered).expect("a completion"));
}
