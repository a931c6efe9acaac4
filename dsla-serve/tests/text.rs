//! Text in and out: a tiny model with a tokenizer of single bytes, some of which are only parts of a character.

use dsla_model::{DType, Device, Message, Model};
use dsla_serve::{Completion, Engine, EngineConfig, Event, FinishReason, Request, SamplingParams};
use std::path::PathBuf;

/// Ids 0 to 2 are special; é is two tokens, and nearly everything else a broken character can be made of is there.
fn tokenizer() -> String {
    let letters = ('a'..='z').chain('A'..='Z').map(String::from);
    let others = ["Ġ", "Ċ", "Ã", "©", "Â", "."].map(String::from);
    let special = ["<none>", "<begin>", "<end>"];
    let all = special.map(String::from).into_iter().chain(letters).chain(others);
    let vocab: Vec<String> = all.enumerate().map(|(id, token)| format!("\"{token}\":{id}")).collect();
    assert_eq!(vocab.len(), 61);
    let added = |(id, token)| {
        format!(
            "{{\"id\":{id},\"content\":\"{token}\",\"special\":true,\"single_word\":false,\"lstrip\":false,\
             \"rstrip\":false,\"normalized\":false}}"
        )
    };
    let added: Vec<String> = special.iter().enumerate().map(added).collect();
    format!(
        "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{}],\"normalizer\":null,\
         \"pre_tokenizer\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}},\
         \"post_processor\":null,\"decoder\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\
         \"use_regex\":true}},\"model\":{{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\
         \"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\
         \"vocab\":{{{}}},\"merges\":[]}}}}",
        added.join(","),
        vocab.join(",")
    )
}

const CONFIG: &str = r#"{"bos_token":"<begin>","eos_token":"<end>","chat_template":
    "{{ bos_token }}{% for m in messages %}{{ m.role }} {{ m.content }}.{% endfor %}{% if add_generation_prompt %}a{% endif %}"}"#;

fn model() -> Model {
    let dir = tempfile::tempdir().expect("a directory");
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures/tiny_tied");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), dir.path().join(file)).expect("a copy");
    }
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer()).expect("a tokenizer");
    std::fs::write(dir.path().join("tokenizer_config.json"), CONFIG).expect("its configuration");
    Model::load(dir.path(), &Device::Cpu, DType::F32).expect("a model")
}

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
    let model = model();
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
    let model = model();
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
    let engine = engine(&model());
    let whole = run(&engine, params(1));
    let ending: String = whole.text.chars().skip(whole.text.chars().count() - 3).collect();
    let stop = vec![format!("{ending}and more")];
    assert_eq!(run(&engine, SamplingParams { stop, ..params(1) }).text, whole.text);
}

#[test]
fn an_end_token_has_no_text() {
    let engine = engine(&model());
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
    let model = model();
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
