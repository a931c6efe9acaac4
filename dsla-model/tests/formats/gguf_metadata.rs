//! The metadata of GGUF files: a configuration, or one line of error.

use crate::gguf::model;
use crate::support::{Blob, Meta, line, tiny_llama};
use dsla_model::RopeKind;

#[test]
fn config_from_metadata() {
    let m = model(&tiny_llama()).unwrap();
    let c = &m.config;
    let sizes = [c.hidden_size, c.intermediate_size, c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim];
    assert_eq!(sizes, [64, 96, 1, 2, 1, 32]);
    assert_eq!((c.vocab_size, c.max_position, c.rms_eps, c.rope.theta), (320, 128, 1e-5, 1e5));
    assert_eq!(
        (c.tie_embeddings, c.attention_bias, c.eos.as_slice(), c.bos),
        (true, false, &[2][..], Some(1))
    );
    assert!(m.tokenizer.is_none() && m.chat_template.is_none());
    assert!(line(m.tokenizer()).contains("tokenizer"));

    let mut g = tiny_llama();
    g.set("llama.rope.scaling.type", Meta::Text("linear")).set("llama.rope.scaling.factor", Meta::F32(4.0));
    assert_eq!(model(&g).unwrap().config.rope.kind, RopeKind::Linear { factor: 4.0 });
    let mut g = tiny_llama();
    g.set("tokenizer.ggml.eot_token_id", Meta::U32(7)).remove("llama.vocab_size");
    let factors: Vec<f32> = (0..16).map(|i| 1.0 + i as f32).collect();
    g.tensors = vec![
        Blob::f32("rope_freqs.weight", &[16], &factors),
        Blob::f32("token_embd.weight", &[1, 300], &[0.0; 300]),
        Blob::f32("output.weight", &[1, 1], &[0.0]),
    ];
    let m = model(&g).unwrap();
    assert_eq!(
        (m.config.vocab_size, m.config.eos.as_slice(), m.config.tie_embeddings),
        (300, &[2, 7][..], false)
    );
    assert_eq!(m.config.rope.kind, RopeKind::Factors { factors });
    let plain = dsla_model::Rope { theta: 1e5, kind: RopeKind::Default }.inv_freq(32);
    for (i, (got, plain)) in m.config.rope.inv_freq(32).iter().zip(plain).enumerate() {
        assert_eq!(*got, f64::from(plain as f32 / (1.0 + i as f32)));
    }
    m.weights.check(&[("model.embed_tokens.weight".to_owned(), vec![300, 1])]).unwrap();
}

#[test]
fn refused_metadata() {
    let cases = [
        ("general.architecture", Some(Meta::Text("qwen2")), "want llama"),
        ("general.architecture", None, "want llama"),
        ("general.architecture", Some(Meta::U32(1)), "a string"),
        ("llama.block_count", None, "llama.block_count: got nothing"),
        ("llama.block_count", Some(Meta::U32(u32::MAX)), "1..="),
        ("llama.block_count", Some(Meta::I32(-1)), "not negative"),
        ("llama.attention.head_count", Some(Meta::I32s(vec![1, 2])), "whole number"),
        ("llama.attention.head_count", Some(Meta::U32(0)), "divisor"),
        ("llama.attention.head_count_kv", Some(Meta::U32(3)), "divisor"),
        ("llama.attention.value_length", Some(Meta::U32(16)), "head size 32"),
        ("llama.rope.dimension_count", Some(Meta::U32(16)), "head size 32"),
        ("llama.attention.layer_norm_rms_epsilon", Some(Meta::F32(f32::NAN)), "eps"),
        ("llama.attention.layer_norm_rms_epsilon", Some(Meta::U32(0)), "a float"),
        ("llama.rope.freq_base", Some(Meta::F32(f32::INFINITY)), "rope_theta"),
        ("llama.rope.scaling.type", Some(Meta::Text("yarn")), "none, linear"),
        ("llama.rope.scaling.type", Some(Meta::Text("linear")), "scaling.factor"),
        ("llama.rope.scaling.attn_factor", Some(Meta::F32(2.0)), "want 1"),
        ("llama.expert_count", Some(Meta::U32(8)), "no mixture"),
        ("tokenizer.ggml.eos_token_id", Some(Meta::U32(u32::MAX)), "below 320"),
        ("tokenizer.ggml.model", Some(Meta::Text("llama")), "SentencePiece"),
        ("tokenizer.ggml.model", Some(Meta::Text("gpt2")), "tokenizer.ggml.tokens"),
        ("tokenizer.chat_template", Some(Meta::Text("{% if %}")), "chat template"),
        ("general.alignment", Some(Meta::U32(0)), "power of two"),
        ("general.alignment", Some(Meta::U32(48)), "power of two"),
        ("general.alignment", Some(Meta::U32(1 << 31)), "power of two"),
        ("general.alignment", Some(Meta::F32(32.0)), "power of two"),
    ];
    for (key, value, want) in cases {
        let mut g = tiny_llama();
        match value {
            Some(v) => g.set(key, v),
            None => g.remove(key),
        };
        let error = line(model(&g));
        assert!(error.contains(want), "{key}: {error} (want {want})");
    }
}
