//! `config.json`, `generation_config.json`, and the rotary frequencies they stand for.

use crate::support::line;
use dsla_model::{Config, Rope, RopeKind};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

fn read(json: &Value) -> dsla_model::Result<Config> {
    Config::from_json(&json.to_string(), Path::new("config.json"))
}

/// SmolLM2-135M-Instruct's, shortened.
fn smollm2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536, "is_llama_config": true,
        "max_position_embeddings": 8192, "mlp_bias": false, "num_attention_heads": 9, "num_hidden_layers": 30,
        "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false,
        "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "vocab_size": 49152
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut json = smollm2();
    json[key] = value;
    json
}

#[test]
fn reads_smollm2() {
    let want = Config {
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: 30,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        vocab_size: 49152,
        max_position: 8192,
        rms_eps: 1e-5,
        tie_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        rope: Rope { theta: 100000.0, kind: RopeKind::Default },
        eos: vec![2],
        bos: Some(1),
        dtype: Some(dsla_kernels::DType::BF16),
    };
    assert_eq!(read(&smollm2()).unwrap(), want);
    // The spelling of transformers 5.
    let mut new = smollm2();
    for old in ["rope_theta", "rope_scaling", "torch_dtype"] {
        new.as_object_mut().unwrap().remove(old);
    }
    new["rope_parameters"] = json!({"rope_theta": 100000.0, "rope_type": "default"});
    new["dtype"] = json!("bfloat16");
    assert_eq!(read(&new).unwrap(), want);
}

#[test]
fn rope_in_every_spelling() {
    let llama3 = RopeKind::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };
    let body = |key: &str| {
        let mut v = json!({
            "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192
        });
        v[key] = json!("llama3");
        v
    };
    assert_eq!(
        read(&with("rope_scaling", body("rope_type"))).unwrap().rope,
        Rope { theta: 1e5, kind: llama3.clone() }
    );
    assert_eq!(read(&with("rope_scaling", body("type"))).unwrap().rope.kind, llama3);
    assert_eq!(
        read(&with("rope_parameters", body("rope_type"))).unwrap().rope,
        Rope { theta: 1e5, kind: llama3 }
    );
    let linear = json!({"type": "linear", "factor": 2});
    assert_eq!(read(&with("rope_scaling", linear)).unwrap().rope.kind, RopeKind::Linear { factor: 2.0 });
}

#[test]
fn explicit_head_dim_and_defaults() {
    let c = read(&with("head_dim", json!(32))).unwrap();
    assert_eq!((c.head_dim, c.hidden_size, c.num_heads), (32, 576, 9));
    let mut small = smollm2();
    for key in
        ["num_key_value_heads", "rms_norm_eps", "rope_theta", "eos_token_id", "hidden_act", "architectures"]
    {
        small.as_object_mut().unwrap().remove(key);
    }
    let c = read(&small).unwrap();
    assert_eq!((c.num_kv_heads, c.rms_eps, c.rope.theta, c.eos.len()), (9, 1e-6, 10000.0, 0));
    assert_eq!(read(&with("eos_token_id", json!([2, 0, 2]))).unwrap().eos, [2, 0]);
}

#[test]
fn refusals_name_key_got_and_want() {
    let cases = [
        ("architectures", json!(["GPT2LMHeadModel"]), "LlamaForCausalLM"),
        ("architectures", json!("LlamaForCausalLM"), "list"),
        ("model_type", json!("mistral"), "llama"),
        ("hidden_act", json!("gelu"), "silu"),
        ("hidden_size", json!(0), "1..="),
        ("hidden_size", json!(-1), "not negative"),
        ("hidden_size", json!(1.5), "whole"),
        ("hidden_size", json!(null), "whole"),
        ("hidden_size", json!(u64::MAX), "hidden_size"),
        ("intermediate_size", json!(1u64 << 40), "1..="),
        ("num_hidden_layers", json!(100000), "1..="),
        ("vocab_size", json!(1u64 << 62), "1..="),
        ("max_position_embeddings", json!(0), "1..="),
        ("num_attention_heads", json!(7), "divisor"),
        ("num_attention_heads", json!(0), "divisor"),
        ("num_key_value_heads", json!(2), "divisor"),
        ("num_key_value_heads", json!(0), "1..="),
        ("head_dim", json!(63), "even"),
        ("head_dim", json!(0), "1..="),
        ("rms_norm_eps", json!(-1.0), "eps"),
        ("rms_norm_eps", json!(1e300), "eps"),
        ("eos_token_id", json!(49152), "below 49152"),
        ("eos_token_id", json!([1, "x"]), "token id"),
        ("eos_token_id", json!(vec![0; 5000]), "at most"),
        ("bos_token_id", json!(-2), "token id"),
        ("rope_theta", json!(0.0), "rope_theta"),
        ("rope_theta", json!("1e4"), "a number"),
        ("rope_scaling", json!({"type": "yarn", "factor": 4.0}), "default, linear or llama3"),
        ("rope_scaling", json!({"type": "linear"}), "factor"),
        ("rope_scaling", json!({"type": "linear", "factor": 0.0}), "factor"),
        ("rope_scaling", json!([]), "object"),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            "above low_freq_factor",
        ),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("quantization_config", json!({"bits": 4}), "quantization_config"),
        ("tie_word_embeddings", json!("yes"), "true or false"),
    ];
    for (key, value, want) in cases {
        let error = line(read(&with(key, value.clone())));
        assert!(error.contains(want) && error.starts_with("config.json: "), "{key} = {value}: {error}");
    }
    for text in ["", "[]", "{", "null", "{}", "\u{0}", "{\"model_type\": \"llama\"}"] {
        line(Config::from_json(text, Path::new("config.json")));
    }
}

#[test]
fn generation_config_adds_end_ids() {
    let mut config = read(&smollm2()).unwrap();
    let path = Path::new("generation_config.json");
    config.merge_generation(r#"{"eos_token_id": [0, 2], "bos_token_id": 5}"#, path).unwrap();
    assert_eq!((config.eos.clone(), config.bos), (vec![0, 2], Some(1)));
    config.merge_generation("{}", path).unwrap();
    assert_eq!(config.eos, [0, 2]);
    assert!(line(config.merge_generation(r#"{"eos_token_id": 99999999}"#, path)).contains("below"));
}

/// Bit for bit what `LlamaRotaryEmbedding.inv_freq` holds (transformers 5.23, torch 2.15, as f32 bits).
#[test]
fn inv_freq_as_in_transformers() {
    let check = |rope: Rope, head_dim: usize, want: &[u32]| {
        let got = rope.inv_freq(head_dim);
        assert_eq!(got.len(), want.len());
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let w = f32::from_bits(w);
            assert!(g == f64::from(w), "{rope:?}, {i}: got {g:e}, want {w:e}");
        }
    };
    let default = RopeKind::Default;
    check(Rope { theta: 1e5, kind: default.clone() }, 64, &DEFAULT_64);
    check(Rope { theta: 1e4, kind: default }, 24, &ODD_24);
    check(Rope { theta: 1e4, kind: RopeKind::Linear { factor: 3.0 } }, 16, &LINEAR_16);
    let kind = RopeKind::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };
    check(Rope { theta: 5e5, kind }, 64, &LLAMA3_64);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Config::from_json(&text, Path::new("config.json"));
    }

    /// Any number in any place: an error, or a config within bounds whose frequencies are finite.
    #[test]
    fn any_numbers(
        key in prop::sample::select(vec![
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "eos_token_id",
        ]),
        value in prop_oneof![
            any::<u64>().prop_map(|n| json!(n)), (0u64..5000).prop_map(|n| json!(n)), any::<i64>().prop_map(|n| json!(n)),
            prop::num::f64::NORMAL.prop_map(|x| json!(x)),
        ],
    ) {
        if let Ok(c) = read(&with(key, value)) {
            prop_assert!(c.vocab_size.checked_mul(c.hidden_size).is_some());
            prop_assert!(c.rope.inv_freq(c.head_dim).iter().all(|f| f.is_finite() && *f > 0.0));
        }
    }
}

const DEFAULT_64: [u32; 32] = [
    1065353216, 1060283654, 1056527311, 1051589887, 1047712803, 1042904073, 1038909398, 1034226006,
    1030116802, 1025555485, 1021334738, 1016892311, 1012562930, 1008236293, 1003801109, 999587246, 995049016,
    990944987, 986306396, 982309339, 977573004, 973680130, 968848599, 965057193, 960132947, 956440363,
    951425819, 947746260, 942726994, 938924694, 934036253, 930114413,
];
const LINEAR_16: [u32; 8] =
    [1051372203, 1037557967, 1023969417, 1009562585, 995783693, 982133115, 967754559, 954011435];
const LLAMA3_64: [u32; 32] = [
    1065353216, 1059709382, 1054963644, 1049992931, 1044812720, 1040434848, 1034871981, 1030233703,
    1025116360, 1020030793, 1015523779, 1010044269, 1005516623, 1000248322, 995260192, 984164251, 971060768,
    952867063, 933446029, 928558209, 923781368, 918476020, 914179523, 908595819, 903811268, 898893515,
    893679120, 889347892, 883754919, 879076685, 874013863, 868893104,
];
const ODD_24: [u32; 12] = [
    1065353216, 1055761980, 1046256949, 1036831949, 1027481237, 1018199494, 1008981770, 999823482, 990720361,
    981668463, 972249692, 962717863,
];
