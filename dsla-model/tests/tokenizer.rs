//! Tokenizers, incremental decoding and chat templates: equal to transformers', and no panic on hostile files.

mod support;

use dsla_model::{ChatTemplate, DecodeStream, Message, ModelFiles, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use support::{Gguf, Meta, line, mutate, put, real_model, tiny_llama};

/// Recorded from `tokenizers` 0.23 in Python with SmolLM2's vocabulary, merges and pre-tokenizer.
const FACTS: &[(&str, &[u32])] = &[
    ("Hello, world!", &[19556, 28, 905, 17]),
    ("  leading and trailing  ", &[216, 2899, 284, 35079, 256]),
    (
        "It's 2024: 3.14159 ≈ π",
        &[1589, 506, 216, 34, 32, 34, 36, 42, 216, 35, 30, 33, 36, 33, 37, 41, 21004, 226, 25143],
    ),
    ("naïve café — “quotes”…", &[3546, 46494, 37366, 1841, 619, 385, 2346, 573, 2829]),
    (
        "日本語のテキスト 😀👩\u{200d}👩\u{200d}👧",
        &[
            23274, 115, 40993, 179, 120, 248, 26453, 11100, 224, 10391, 251, 10391, 134, 11100, 226, 40303,
            218, 10813, 235, 119, 321, 231, 10813, 235, 119, 321, 231, 10813, 235, 117,
        ],
    ),
    ("<|im_start|>user\nHi<|im_end|>\n", &[1, 4093, 198, 26843, 2, 198]),
    ("tabs\tand\n\n\nnewlines \r\n", &[100, 7366, 197, 397, 1116, 198, 2241, 5110, 216, 2738]),
    (
        "def f(x):\n    return x**2  # comment",
        &[1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 216, 907, 5189],
    ),
    ("IT'S we'll THEY'RE", &[2901, 23, 67, 392, 3060, 6462, 73, 23, 3256]),
    (
        "e\u{301} \u{a0}\u{2003} \u{fffd} ½ ² ٣",
        &[85, 151, 219, 3351, 250, 321, 221, 216, 24211, 216, 16738, 216, 19133, 216, 164, 113],
    ),
    ("", &[]),
];

fn streamed(t: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = DecodeStream::new(skip_special);
    let mut out: String = ids.iter().map(|&id| stream.push(t, id).unwrap()).collect();
    out.push_str(&stream.finish(t).unwrap());
    out
}

#[test]
fn real_tokenizer_as_transformers() {
    let path = real_model();
    let m = ModelFiles::open(&path).unwrap();
    let t = m.tokenizer().unwrap();
    for (text, ids) in FACTS {
        assert_eq!(t.encode(text, true).unwrap(), *ids, "{text:?}");
        assert_eq!(t.encode(text, false).unwrap(), *ids, "{text:?}");
        assert_eq!(t.decode(ids, false).unwrap(), *text);
        assert_eq!(streamed(t, ids, false), *text);
    }
    assert_eq!(t.decode(&[1, 9690, 198, 2683, 2], true).unwrap(), "system\nYou");
    assert_eq!(
        (t.id("<|im_end|>"), t.id("no such token"), t.token(0)),
        (Some(2), None, Some("<|endoftext|>".into()))
    );
    assert_eq!(
        (t.vocab_size(), t.bos(), t.eos(), m.config.eos.as_slice()),
        (49152, Some(1), &[2][..], &[2][..])
    );

    let chat = m.chat_template().unwrap();
    let text = chat.render(&[Message::new("user", "What is 2 + 2?")], true, None).unwrap();
    let want = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                <|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(text, want);
    // As `apply_chat_template(..., tokenize=True)`.
    let ids = [
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712,
        8182, 2, 198, 1, 4093, 198, 1780, 314, 216, 34, 1232, 216, 34, 47, 2, 198, 1, 520, 9531, 198,
    ];
    assert_eq!(t.encode(&text, true).unwrap(), ids);
}

/// A byte-level vocabulary: the 256 bytes as GPT-2 writes them, then `extra`.
fn vocabulary(extra: &[&str]) -> Vec<String> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let bytes = (0..256).map(|b| {
        let c = if printable(b) {
            b
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(c).unwrap().to_string()
    });
    bytes.chain(extra.iter().map(|s| (*s).to_owned())).collect()
}

fn small_json() -> Value {
    let tokens = vocabulary(&["ab", "abc", "<s>", "</s>", "Ġa"]);
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(i, t)| (t.clone(), json!(i))).collect();
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "normalizer": null,
        "added_tokens": [
            {"id": 258, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 259, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [258], "tokens": ["<s>"]}}
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"], ["ab", "c"], ["Ġ", "a"]]}
    })
}

fn from_json(json: &Value) -> dsla_model::Result<Tokenizer> {
    Tokenizer::from_json(&json.to_string(), Path::new("tokenizer.json"), None)
}

#[test]
fn tokenizer_json() {
    let config =
        (r#"{"bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>"}"#, Path::new("c.json"));
    let t =
        Tokenizer::from_json(&small_json().to_string(), Path::new("tokenizer.json"), Some(config)).unwrap();
    assert_eq!((t.bos(), t.eos(), t.vocab_size()), (Some(258), &[259][..], 261));
    // Not cut to three, whatever the file's truncation says.
    let [space, x] = [b' ', b'x'].map(u32::from);
    assert_eq!(t.encode("abc ab a</s>x", true).unwrap(), [258, 257, space, 256, 260, 259, x]);
    assert_eq!(t.encode("abc", false).unwrap(), [257]);
    assert_eq!(t.decode(&[258, 257, 260, 259, 99999], true).unwrap(), "abc a");
    assert_eq!(t.decode(&[258, 257, 260, 259], false).unwrap(), "<s>abc a</s>");
}

#[test]
fn hostile_tokenizer_json() {
    let set = |pointer: &str, value: Value| {
        let mut json = small_json();
        *json.pointer_mut(pointer).unwrap() = value;
        json
    };
    let cases = [
        (set("/model/type", json!("Unigram")), "want BPE"),
        (set("/model/vocab", json!(null)), "vocab"),
        (set("/model/vocab/ab", json!(u32::MAX)), "2^24"),
        (set("/model/vocab/ab", json!(-1)), "vocab"),
        // tokenizers 0.23 panics on both of these.
        (set("/model/merges", json!([["abc", "abc"]])), "merge 0"),
        (set("/model/continuing_subword_prefix", json!("##abcdefgh")), "prefix"),
        (set("/model/merges", json!(["ab"])), "two tokens"),
        (set("/model/merges", json!([["a", "no"]])), "\"no\""),
        (set("/model/dropout", json!(0.5)), "random"),
        (set("/added_tokens/0/id", json!(u32::MAX)), "2^24"),
        (set("/pre_tokenizer", json!({"type": "Nonsense"})), "tokenizer"),
        (
            set(
                "/pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            ),
            "tokenizer",
        ),
        (json!([]), "JSON"),
        (json!({}), "JSON"),
    ];
    for (json, want) in cases {
        let error = line(from_json(&json));
        assert!(error.contains(want) && error.starts_with("tokenizer.json"), "{error} (want {want})");
    }
    // A post-processor that names an id it does not define: an error at one of the two steps.
    if let Ok(t) = from_json(&set("/post_processor/special_tokens", json!({}))) {
        line(t.encode("a", true));
    }
    let config = Some(("{", Path::new("tokenizer_config.json")));
    assert!(
        line(Tokenizer::from_json(&small_json().to_string(), Path::new("t"), config))
            .contains("tokenizer_config")
    );
}

fn small_gguf(pre: &'static str) -> Gguf {
    let mut g = tiny_llama();
    let tokens = vocabulary(&["ab", "abc", "<s>", "</s>", "Ġa", "12", "123", "<tool>"]);
    let mut types = vec![1; tokens.len()];
    (types[258], types[259], types[263]) = (3, 3, 4);
    g.set("tokenizer.ggml.model", Meta::Text("gpt2"))
        .set("tokenizer.ggml.pre", Meta::Text(pre))
        .set("tokenizer.ggml.tokens", Meta::Texts(tokens))
        .set("tokenizer.ggml.token_type", Meta::I32s(types))
        .set(
            "tokenizer.ggml.merges",
            Meta::Texts(["a b", "ab c", "Ġ a", "1 2", "12 3"].map(str::to_owned).to_vec()),
        )
        .set("tokenizer.ggml.bos_token_id", Meta::U32(258))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(259));
    g
}

fn from_gguf(g: &Gguf) -> dsla_model::Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    ModelFiles::open(&put(dir.path(), "m.gguf", g.bytes())).map(|m| m.tokenizer.unwrap())
}

#[test]
fn gguf_pre_tokenizers() {
    let ids = |t: &Tokenizer, text: &str| t.encode(text, false).unwrap();
    let digits = [b'1', b'2', b'3'].map(u32::from);
    // Digits one by one; as many as the merges take; three at a time.
    assert_eq!(ids(&from_gguf(&small_gguf("smollm")).unwrap(), "123"), digits);
    assert_eq!(ids(&from_gguf(&small_gguf("qwen2")).unwrap(), "123"), digits);
    let four = [262, u32::from(b'1')];
    assert_eq!(ids(&from_gguf(&small_gguf("gpt-2")).unwrap(), "1231"), four);
    assert_eq!(ids(&from_gguf(&small_gguf("llama-bpe")).unwrap(), "1231"), four);
    assert_eq!(ids(&from_gguf(&small_gguf("default")).unwrap(), "1231"), four);
    assert!(line(from_gguf(&small_gguf("gpt-4o"))).contains("smollm"));
    // Llama 3 begins with its begin token unless the file says otherwise; the others the other way round.
    let t = from_gguf(&small_gguf("llama-bpe")).unwrap();
    assert_eq!(
        (t.encode("abc", true).unwrap(), t.encode("abc", false).unwrap()),
        (vec![258, 257], vec![257])
    );
    let mut g = small_gguf("llama-bpe");
    g.set("tokenizer.ggml.add_bos_token", Meta::Bool(false))
        .set("tokenizer.ggml.add_eos_token", Meta::Bool(true));
    assert_eq!(from_gguf(&g).unwrap().encode("abc", true).unwrap(), [257, 259]);
    // A control token is special, a user's is cut out of the text but stays in it.
    let t = from_gguf(&small_gguf("smollm")).unwrap();
    let all = t.encode("ab<tool><s> a", true).unwrap();
    assert_eq!(all, [256, 263, 258, 260]);
    assert_eq!(t.decode(&all, true).unwrap(), "ab<tool> a");
    assert_eq!((t.eos(), t.bos()), (&[259][..], Some(258)));
}

#[test]
fn hostile_gguf_tokenizers() {
    let texts = |list: &[&str]| Meta::Texts(list.iter().map(|s| (*s).to_owned()).collect());
    let cases = [
        ("tokenizer.ggml.merges", texts(&["abc abc"]), "two tokens that make a third"),
        ("tokenizer.ggml.merges", texts(&["ab"]), "two tokens"),
        ("tokenizer.ggml.merges", texts(&["a b c"]), "two tokens"),
        ("tokenizer.ggml.merges", texts(&[""]), "two tokens"),
        ("tokenizer.ggml.merges", Meta::U32(1), "array of strings"),
        ("tokenizer.ggml.tokens", texts(&["a", "a"]), "\"a\" twice"),
        ("tokenizer.ggml.tokens", Meta::I32s(vec![1]), "array of strings"),
        ("tokenizer.ggml.token_type", Meta::I32s(vec![1]), "as many as tokens"),
        ("tokenizer.ggml.eos_token_id", Meta::U32(300), "below"),
        ("tokenizer.ggml.add_bos_token", Meta::U32(1), "boolean"),
    ];
    for (key, value, want) in cases {
        let mut g = small_gguf("smollm");
        g.set(key, value);
        let error = line(from_gguf(&g));
        assert!(error.contains(want), "{key}: {error} (want {want})");
    }
}

#[test]
fn stream_holds_back_unfinished_characters() {
    let t = from_gguf(&small_gguf("smollm")).unwrap();
    let mut s = DecodeStream::new(false);
    let pieces: Vec<_> = "a€😀b".bytes().map(|b| s.push(&t, u32::from(b)).unwrap()).collect();
    assert_eq!(pieces, ["a", "", "", "€", "", "", "", "😀", "b"]);
    assert_eq!(s.finish(&t).unwrap(), "");
    // An unfinished one comes out at the end, once.
    assert_eq!(s.push(&t, 0xe2).unwrap(), "");
    assert_eq!((s.finish(&t).unwrap().as_str(), s.finish(&t).unwrap().as_str()), ("\u{fffd}", ""));
    // Undecodable bytes do not dam up the text for ever.
    let ids = [0x80; 500];
    let held = ids.iter().filter(|&&id| s.push(&t, id).unwrap().is_empty()).count();
    assert!(held <= 3, "{held}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any ids: the pieces put together are the whole, and no piece ends in a mark that later bytes take back.
    #[test]
    fn stream_is_decode(ids in prop::collection::vec(prop_oneof![0u32..270, 0x80u32..0x100, 0xe0u32..0xf8], 0..120), skip in any::<bool>()) {
        let t = from_gguf(&small_gguf("smollm")).unwrap();
        prop_assert_eq!(streamed(&t, &ids, skip), t.decode(&ids, skip).unwrap());
    }

    #[test]
    fn text_comes_back(text in any::<String>()) {
        let t = from_gguf(&small_gguf("llama-bpe")).unwrap();
        let ids = t.encode(&text, false).unwrap();
        prop_assert_eq!(t.decode(&ids, false).unwrap(), text.clone());
        prop_assert_eq!(streamed(&t, &ids, false), text);
    }

    #[test]
    fn mutated_tokenizer_json(edits in prop::collection::vec((any::<u8>(), any::<usize>(), any::<u8>()), 1..4)) {
        let bytes = mutate(small_json().to_string().as_bytes(), &edits);
        if let Ok(t) = Tokenizer::from_json(&String::from_utf8_lossy(&bytes), Path::new("t"), None)
            && let Ok(ids) = t.encode("abc 12 é<s> ab", true)
        {
            let _ = t.decode(&ids, false);
        }
    }

    #[test]
    fn any_template(source in "(\\{[{%#] ?|[%}#]\\}|for |in |if |messages|\\.|\\[|\\]|\\||\\(|\\)|[a-z0-9 '\"~+*-]){0,30}") {
        if let Ok(t) = ChatTemplate::new(&source, None, None) {
            let _ = t.render(&[Message::new("user", "x")], true, None);
        }
    }
}

/// Templates and what transformers 5.23 makes of them (`support/chat_cases.json` is its record).
#[test]
fn chat_templates_as_transformers() {
    let record: Value = serde_json::from_str(include_str!("support/chat_cases.json")).unwrap();
    for case in record["cases"].as_array().unwrap() {
        let source = record["templates"][case["template"].as_str().unwrap()].as_str().unwrap();
        let index = case["messages"].as_u64().unwrap() as usize;
        let messages: Vec<Message> = serde_json::from_value(record["messages"][index].clone()).unwrap();
        let t = ChatTemplate::new(source, Some("<|im_start|>".into()), Some("<|im_end|>".into())).unwrap();
        let tools = case["tools"].as_bool().unwrap().then(|| &record["tools"]);
        let got = t.render(&messages, true, tools).unwrap();
        assert_eq!(got, case["text"].as_str().unwrap(), "{} {index}", case["template"]);
    }
}

#[test]
fn chat_templates_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let render = |tools: Option<&Value>| {
        ChatTemplate::open(dir.path())
            .unwrap()
            .unwrap()
            .render(&[Message::new("user", "x")], false, tools)
            .unwrap()
    };
    assert!(ChatTemplate::open(dir.path()).unwrap().is_none());
    let config = |v: Value| put(dir.path(), "tokenizer_config.json", v.to_string());
    config(json!({"eos_token": {"content": "E"}, "bos_token": null}));
    assert!(ChatTemplate::open(dir.path()).unwrap().is_none());
    config(
        json!({"chat_template": "{{ messages[0].content }}{{ eos_token }}{{ bos_token }}", "eos_token": {"content": "E"}}),
    );
    assert_eq!(render(None), "xE");
    let named = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]);
    config(json!({"chat_template": named}));
    assert_eq!((render(None).as_str(), render(Some(&json!([]))).as_str()), ("plain", "tools"));
    config(json!({"chat_template": [{"name": "x", "template": "y"}]}));
    assert!(line(ChatTemplate::open(dir.path())).contains("default"));
    config(json!({"chat_template": "config"}));
    put(dir.path(), "chat_template.jinja", "{{ strftime_now('%Y') | length }}");
    assert_eq!(render(None), "4");
}

#[test]
fn hostile_templates() {
    let user = [Message::new("user", "x")];
    for source in
        ["{% if %}", "{{", "{% for x in messages %}", "{% generation %}", "{% include 'chat' %}{% x %}"]
    {
        line(ChatTemplate::new(source, None, None));
    }
    for (source, want) in [
        ("{{ raise_exception('no\nway') }}", "no\\nway"),
        ("{{ strftime_now('%Q') }}", "%Q"),
        ("{{ messages.nope.deeper }}", "undefined"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "fuel"),
        ("{{ 'x' * 9999999999999 }}", ""),
        ("{{ ('x' * 99999999) ~ ('x' * 99999999) ~ ('x' * 99999999) ~ ('x' * 99999999) }}", "fuel"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ""),
        ("{% include 'chat' %}", ""),
        ("{{ messages | tojson(separators=1) }}", ""),
    ] {
        let error = line(ChatTemplate::new(source, None, None).unwrap().render(&user, true, None));
        assert!(error.contains(want), "{source}: {error}");
    }
    let t = ChatTemplate::new("x", None, None).unwrap();
    assert!(line(t.render(&[] as &[Message], true, None)).contains("at least one"));
}

/// Nesting deeper than a thread's usual stack, in values and in the source, and values that contain themselves: whatever
/// comes of it, the process lives.
#[test]
fn nested_templates() {
    let nest = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let sets = "{%set x=[x]%}".repeat(4900);
    let sources = [
        format!("{nest}{{{{ ns.x | tojson }}}}"),
        format!("{sets}{{{{ x }}}}"),
        format!("{sets}{{{{ x | tojson }}}}"),
        format!("{{{{ {}1 }}}}", "-".repeat(65_000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(32_000)),
        format!("{{{{ messages{} }}}}", ".a".repeat(32_000)),
        format!("{{{{ [1]{} }}}}", "|batch(1)".repeat(7000)),
        "[".repeat(65_000),
        format!("{{{{ {}", "[".repeat(65_000)),
        "{% if 1 %}".repeat(6000),
    ];
    for source in &sources {
        if let Ok(t) = ChatTemplate::new(source, None, None) {
            let _ = t.render(&[Message::new("user", "x")], true, None);
        }
    }
    let long = line(ChatTemplate::new(&"x".repeat(70_000), None, None));
    assert!(long.contains("at most"), "{long}");
    for source in [
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [1, {'a': ns}] %}{{ ns }}",
        "{% set ns = namespace() %}{%set(ns.x)=ns%}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x, b = ns, ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set m = namespace(n=ns) %}{% set ns.x = m %}{{ ns | tojson }}",
    ] {
        let error = line(ChatTemplate::new(source, None, None).unwrap().render(
            &[Message::new("user", "x")],
            true,
            None,
        ));
        assert!(error.contains("cannot be stored"), "{source}: {error}");
    }
}
