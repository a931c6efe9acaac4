//! llama.cpp's tensor names and HF's.

/// Llama 3.1's frequency factors: part of the configuration, not of the weights.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Parts of a layer, `blk.N.` and `model.layers.N.` aside.
const LAYER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The HF name; a name that llama models do not have stays as it is.
pub(super) fn to_hf(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => return "model.norm.weight".to_owned(),
        "output.weight" => return "lm_head.weight".to_owned(),
        _ => {}
    }
    if let Some((layer, part, kind)) = layer_part(name)
        && let Some((_, hf)) = LAYER.iter().find(|(gguf, _)| *gguf == part)
    {
        return format!("model.layers.{layer}.{hf}.{kind}");
    }
    name.to_owned()
}

/// `blk.3.attn_q.weight` to (3, attn_q, weight).
fn layer_part(name: &str) -> Option<(u32, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.split_once('.')?;
    let number = layer.parse::<u32>().ok()?;
    // Only the canonical spelling: `blk.03.` would collide with `blk.3.`.
    (number.to_string() == layer && matches!(kind, "weight" | "bias")).then_some((number, part, kind))
}

/// Whose heads the rows of a tensor belong to.
pub(super) enum Heads {
    Query,
    Key,
}

/// The tensors whose rows llama.cpp's converter interleaves.
pub(super) fn permuted(name: &str) -> Option<Heads> {
    match layer_part(name)?.1 {
        "attn_q" => Some(Heads::Query),
        "attn_k" => Some(Heads::Key),
        _ => None,
    }
}
