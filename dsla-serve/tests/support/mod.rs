//! A tiny model that reads and writes text.
#![allow(dead_code)]

use dsla_model::{DType, Device, Model};
use std::path::PathBuf;

/// Ids 0 to 2 are special; é is two tokens, and nearly everything else a broken character can be made of is there.
fn tokenizer(words: &[(char, &str)]) -> String {
    let word =
        |c: char| words.iter().find(|(of, _)| *of == c).map_or(c.into(), |(_, word)| (*word).to_owned());
    let letters = ('a'..='z').chain('A'..='Z').map(word);
    let others = ["Ġ", "Ċ", "Ã", "©", "Â", "."].map(String::from);
    let special = ["<none>", "<begin>", "<end>"];
    let all = special.map(String::from).into_iter().chain(letters).chain(others);
    let vocab: Vec<String> =
        all.enumerate().map(|(id, token)| format!("{}:{id}", serde_json::json!(token))).collect();
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

/// The tied fixture with a tokenizer of single bytes and a chat template.
pub fn text_model() -> Model {
    text_model_with(&[])
}

/// The same, with words in the place of some letters.
pub fn text_model_with(words: &[(char, &str)]) -> Model {
    let dir = tempfile::tempdir().expect("a directory");
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dsla-model/tests/fixtures/tiny_tied");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), dir.path().join(file)).expect("a copy");
    }
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer(words)).expect("a tokenizer");
    std::fs::write(dir.path().join("tokenizer_config.json"), CONFIG).expect("its configuration");
    Model::load(dir.path(), &Device::Cpu, DType::F32).expect("a model")
}
