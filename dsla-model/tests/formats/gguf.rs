//! GGUF files.

use crate::support::{
    BF16, Blob, F16, F32, Gguf, Meta, Q4_0, Q4_1, Q8_0, line, mutate, put, real_model, tiny_llama,
};
use dsla_kernels::{DType, bf16};
use dsla_model::{ModelFiles, Weights};
use half::f16;
use proptest::prelude::*;

pub fn open(bytes: &[u8]) -> dsla_model::Result<Weights> {
    let dir = tempfile::tempdir().unwrap();
    Weights::open(&put(dir.path(), "m.gguf", bytes))
}

pub fn model(g: &Gguf) -> dsla_model::Result<ModelFiles> {
    let dir = tempfile::tempdir().unwrap();
    ModelFiles::open(&put(dir.path(), "m.gguf", g.bytes()))
}

/// Opens all of it and, where that succeeds, reads every tensor.
fn exercise(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    if let Ok(m) = ModelFiles::open(&put(dir.path(), "m.gguf", bytes)) {
        for name in m.weights.names().map(str::to_owned).collect::<Vec<_>>() {
            if let Ok(t) = m.weights.read(&name) {
                assert_eq!(Some(t.dims()), m.weights.shape(&name));
            }
        }
        assert!(m.config.rope.inv_freq(m.config.head_dim).iter().all(|f| f.is_finite()));
        if let Some(t) = &m.tokenizer {
            let ids = t.encode("ab 12 é<s>", true).unwrap();
            t.decode(&ids, false).unwrap();
        }
    }
}

pub fn blob(name: &str, dims: &[u64], kind: u32, data: Vec<u8>) -> Blob {
    Blob { name: name.to_owned(), dims: dims.to_vec(), kind, data }
}

/// Bytes that look random, the same every time.
fn noise(n: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_u32;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .collect()
}

/// Blocks of noise with sensible f16 scales in front; `scales` of them.
pub fn blocks(count: usize, size: usize, scales: usize) -> Vec<u8> {
    let mut out = noise(count * size);
    for (i, block) in out.chunks_exact_mut(size).enumerate() {
        for s in 0..scales {
            let scale = f16::from_f32(0.01 * (i + s + 1) as f32);
            block[2 * s..2 * s + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    out
}

/// ggml-quants.c, element by element.
fn reference(kind: u32, data: &[u8], i: usize) -> f32 {
    let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
    let (block, within) = (i / 32, i % 32);
    let nibble = |q: &[u8]| if within < 16 { q[within] & 15 } else { q[within - 16] >> 4 };
    match kind {
        Q8_0 => {
            let b = &data[34 * block..][..34];
            half(b) * f32::from(b[2 + within] as i8)
        }
        Q4_0 => {
            let b = &data[18 * block..][..18];
            half(b) * (f32::from(nibble(&b[2..])) - 8.0)
        }
        Q4_1 => {
            let b = &data[20 * block..][..20];
            half(b) * f32::from(nibble(&b[4..])) + half(&b[2..])
        }
        _ => unreachable!(),
    }
}

pub fn with(tensors: Vec<Blob>) -> Gguf {
    let mut g = tiny_llama();
    g.tensors = tensors;
    g
}

#[test]
fn dequantises_each_type() {
    let halves: Vec<u8> = [0.1f32, -2.0, 3.5].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let brains: Vec<u8> = [1.0f32, -3.140625].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    let g = with(vec![
        Blob::f32("output_norm.weight", &[3], &[1.0, -2.0, 0.25]),
        blob("blk.0.attn_norm.weight", &[3], F16, halves),
        blob("blk.0.ffn_norm.weight", &[2], BF16, brains),
        blob("blk.0.ffn_up.weight", &[64, 5], Q8_0, blocks(10, 34, 1)),
        blob("blk.0.ffn_gate.weight", &[64, 7], Q4_0, blocks(14, 18, 1)),
        blob("blk.0.ffn_down.weight", &[96, 3000], Q4_1, blocks(9000, 20, 2)),
    ]);
    let w = open(&g.bytes()).unwrap();
    assert_eq!(w.read("model.norm.weight").unwrap().f32(), [1.0, -2.0, 0.25]);
    let t = w.read("model.layers.0.input_layernorm.weight").unwrap();
    assert_eq!(t.f32(), [f16::from_f32(0.1).to_f32(), -2.0, 3.5]);
    let t = w.read("model.layers.0.post_attention_layernorm.weight").unwrap();
    assert_eq!((t.dtype(), t.to_vec_f32()), (DType::BF16, vec![1.0, -3.140625]));
    for (name, shape, b) in [
        ("model.layers.0.mlp.up_proj.weight", [5, 64], &g.tensors[3]),
        ("model.layers.0.mlp.gate_proj.weight", [7, 64], &g.tensors[4]),
        ("model.layers.0.mlp.down_proj.weight", [3000, 96], &g.tensors[5]),
    ] {
        let t = w.read(name).unwrap();
        assert_eq!(t.dims(), shape);
        for (i, &x) in t.f32().iter().enumerate() {
            assert_eq!(x, reference(b.kind, &b.data, i), "{name} {i}");
        }
    }
    let print = w.fingerprint().unwrap();
    assert!(print.len() == 64 && print.chars().all(|c| c.is_ascii_hexdigit()));
}

/// The converter's permutation (`LlamaModel.permute` in convert_hf_to_gguf.py), applied here, undone by the reader.
#[test]
fn q_and_k_rows_come_back_in_hf_order() {
    let permute = |heads: usize, rows: usize| -> Vec<usize> {
        // reshape(heads, 2, d / 2).swapaxes(1, 2)
        let d = rows / heads;
        (0..heads * d).map(|i| (i / d) * d + (i % 2) * (d / 2) + (i % d) / 2).collect()
    };
    let matrix = |heads: usize, rows: usize| -> Vec<f32> {
        permute(heads, rows).iter().flat_map(|&r| [r as f32, r as f32 + 0.5]).collect()
    };
    let bias: Vec<f32> = permute(2, 64).iter().map(|&r| r as f32).collect();
    let w = open(
        &with(vec![
            Blob::f32("blk.0.attn_q.weight", &[2, 64], &matrix(2, 64)),
            Blob::f32("blk.0.attn_k.weight", &[2, 32], &matrix(1, 32)),
            Blob::f32("blk.0.attn_v.weight", &[2, 32], &matrix(1, 32)),
            Blob::f32("blk.0.attn_q.bias", &[64], &bias),
        ])
        .bytes(),
    )
    .unwrap();
    for (name, rows) in [("q", 64), ("k", 32)] {
        let t = w.read(&format!("model.layers.0.self_attn.{name}_proj.weight")).unwrap();
        let want: Vec<f32> = (0..rows).flat_map(|r| [r as f32, r as f32 + 0.5]).collect();
        assert_eq!(t.f32(), want, "{name}");
    }
    let v = w.read("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert_eq!(v.f32(), matrix(1, 32));
    let b = w.read("model.layers.0.self_attn.q_proj.bias").unwrap();
    assert_eq!(b.f32(), (0..64).map(|r| r as f32).collect::<Vec<_>>());
    // Rows that the heads do not divide.
    let g = with(vec![Blob::f32("blk.0.attn_q.weight", &[2, 63], &[0.0; 126])]);
    assert!(line(open(&g.bytes())).contains("2 heads of 32 rows"));
}

#[test]
fn refused_structure() {
    let good = with(vec![Blob::f32("a", &[4, 2], &[0.0; 8]), Blob::f32("b", &[8], &[0.0; 8])]);
    open(&good.bytes()).unwrap();
    type Change = fn(&mut Gguf);
    let cases: [(Change, &str); 22] = [
        (|g| g.version = 1, "version"),
        (|g| g.version = 4, "version"),
        (|g| g.version = 3u32.swap_bytes(), "big-endian"),
        (|g| g.tensor_count = Some(u64::MAX), "tensor count"),
        (|g| g.tensor_count = Some(1 << 40), "tensor count"),
        (|g| g.tensor_count = Some(3), ""),
        (|g| g.meta_count = Some(u64::MAX), "metadata count"),
        (|g| g.meta_count = Some(1 << 33), "metadata count"),
        (|g| g.meta_count = Some(12), ""),
        (|g| g.meta.push(("general.architecture".into(), Meta::Text("llama"))), "second time"),
        (|g| g.tensors[1].name = "a".into(), "second time"),
        (|g| g.tensors[1].name = "token_embd.weight".into(), "ok"),
        (|g| g.tensors[0].dims = vec![1, 1, 1, 4, 2], "5 dimensions"),
        (|g| g.tensors[0].dims = vec![1 << 32, 1 << 32], "a size that fits"),
        (|g| g.tensors[0].dims = vec![u64::MAX], "a size that fits"),
        (|g| g.tensors[0].dims = vec![1 << 40], "a place"),
        (|g| g.tensors[0].dims = vec![4, 40], "a place"),
        (|g| g.tensors[0].kind = 14, "unsupported type Q6_K"),
        (|g| g.tensors[0].kind = 4242, "unsupported type"),
        (|g| g.tensors[0].kind = Q4_0, "multiple of 32"),
        (|g| g.offsets = Some(vec![0, 8]), "multiple of the alignment"),
        (|g| g.offsets = Some(vec![0, 0]), "shared with"),
    ];
    for (i, (change, want)) in cases.into_iter().enumerate() {
        let mut g = good.clone();
        change(&mut g);
        let result = open(&g.bytes());
        if want == "ok" {
            result.unwrap();
            continue;
        }
        let error = line(result);
        assert!(error.contains(want), "case {i}: {error} (want {want})");
    }
    for offset in [64, 1 << 20, u64::MAX - 31, u64::MAX - 63] {
        let mut g = good.clone();
        g.offsets = Some(vec![0, offset]);
        let error = line(open(&g.bytes()));
        assert!(error.contains("a place in"), "{offset}: {error}");
    }
    // Two spellings of one tensor.
    let g = with(vec![
        Blob::f32("output_norm.weight", &[1], &[0.0]),
        Blob::f32("model.norm.weight", &[1], &[0.0]),
    ]);
    assert!(line(open(&g.bytes())).contains("second time"));
    assert!(line(open(b"GGML\x03\0\0\0")).contains("magic"));
    assert!(line(open(b"")).contains("0 bytes"));
}

#[test]
fn lying_lengths_and_bad_text() {
    let bytes = with(vec![Blob::f32("a", &[1], &[0.0])]).bytes();
    let key = 24;
    let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what).unwrap();
    let value = at(&bytes, b"llama") - 8;
    for length in [u64::MAX, 1 << 63, 1 << 32, bytes.len() as u64] {
        for place in [key, value] {
            let mut b = bytes.clone();
            b[place..place + 8].copy_from_slice(&length.to_le_bytes());
            line(open(&b));
        }
    }
    let mut b = bytes.clone();
    b[value + 8] = 0xff;
    assert!(line(open(&b)).contains("invalid UTF-8"));
    // A boolean that is neither, an unknown value type, arrays: nested, of unknown type, longer than the file.
    let tail = |kind: u32, rest: &[u8]| {
        let mut b = b"GGUF".to_vec();
        b.extend(3u32.to_le_bytes());
        b.extend(0u64.to_le_bytes());
        b.extend(1u64.to_le_bytes());
        b.extend(1u64.to_le_bytes());
        b.push(b'k');
        b.extend(kind.to_le_bytes());
        b.extend(rest);
        b.resize(b.len() + 64, 0);
        b
    };
    let array = |kind: u32, n: u64| [&kind.to_le_bytes()[..], &n.to_le_bytes()].concat();
    for (bytes, want) in [
        (tail(7, &[2]), "boolean 2"),
        (tail(13, &[]), "value type 13"),
        (tail(9, &array(9, 1)), "array of arrays"),
        (tail(9, &array(99, 1)), "array of type 99"),
        (tail(9, &array(0, u64::MAX)), "at most"),
        (tail(9, &array(4, 1 << 62)), "at most"),
        (tail(9, &array(8, 1 << 60)), "at most"),
        (tail(9, &array(12, 9)), "at most"),
        (tail(9, &[array(10, 1), u64::MAX.to_le_bytes().to_vec()].concat()), "above 2^63"),
    ] {
        let error = line(open(&bytes));
        assert!(error.contains(want), "{error} (want {want})");
    }
}

/// A file with every kind of metadata, a tokenizer and some tensors.
fn rich() -> Gguf {
    let mut g = with(vec![
        Blob::f32("output_norm.weight", &[4], &[1.0; 4]),
        blob("blk.0.attn_q.weight", &[32, 64], Q8_0, blocks(64, 34, 1)),
        blob("blk.0.ffn_up.weight", &[32, 2], Q4_1, blocks(2, 20, 2)),
        Blob::f32("rope_freqs.weight", &[16], &[2.0; 16]),
    ]);
    let tokens = ["<s>", "a", "b", "</s>", "ab", "1", "2", "Ġ"].map(str::to_owned).to_vec();
    g.set("tokenizer.ggml.model", Meta::Text("gpt2"))
        .set("tokenizer.ggml.pre", Meta::Text("smollm"))
        .set("tokenizer.ggml.tokens", Meta::Texts(tokens))
        .set("tokenizer.ggml.merges", Meta::Texts(vec!["a b".to_owned()]))
        .set("tokenizer.ggml.token_type", Meta::I32s(vec![3, 1, 1, 3, 1, 1, 1, 1]))
        .set("tokenizer.ggml.scores", Meta::F32s(vec![0.0; 8]))
        .set("tokenizer.ggml.add_bos_token", Meta::Bool(true))
        .set("tokenizer.chat_template", Meta::Text("{% for m in messages %}{{ m.content }}{% endfor %}"));
    g
}

#[test]
fn truncated_anywhere() {
    let bytes = rich().bytes();
    exercise(&bytes);
    open(&bytes).unwrap();
    for n in 0..bytes.len() {
        line(open(&bytes[..n]));
    }
    // Version 2 has the same layout.
    let mut g = rich();
    g.version = 2;
    open(&g.bytes()).unwrap();
}

/// Every byte of the header replaced by a few others.
#[test]
fn each_header_byte_replaced() {
    let bytes = rich().bytes();
    let dir = tempfile::tempdir().unwrap();
    for at in 0..bytes.len().min(2600) {
        for byte in [0xff, bytes[at].wrapping_add(1)] {
            let mut b = bytes.clone();
            b[at] = byte;
            if let Ok(w) = Weights::open(&put(dir.path(), "m.gguf", &b)) {
                w.names().for_each(|n| drop(w.read(n)));
            }
        }
    }
}

#[test]
fn not_finite() {
    let g = with(vec![Blob::f32("output_norm.weight", &[3], &[0.0, f32::NAN, f32::INFINITY])]);
    let error = line(open(&g.bytes()).unwrap().read("model.norm.weight"));
    assert!(error.contains("model.norm.weight: got NaN or infinity at element 1"), "{error}");
    // A block whose scale is infinite.
    let mut data = blocks(1, 34, 1);
    data[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let g = with(vec![blob("blk.0.ffn_up.weight", &[32], Q8_0, data)]);
    line(open(&g.bytes()).unwrap().read("model.layers.0.mlp.up_proj.weight"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise(&tail);
        exercise(&[b"GGUF\x03\0\0\0", tail.as_slice()].concat());
    }

    #[test]
    fn mutated(edits in prop::collection::vec((any::<u8>(), any::<usize>(), any::<u8>()), 1..6)) {
        exercise(&mutate(&rich().bytes(), &edits));
    }

    #[test]
    fn any_table(
        dims in prop::collection::vec(prop_oneof![0u64..100, any::<u64>()], 0..5),
        kind in prop_oneof![Just(F32), Just(F16), Just(BF16), Just(Q8_0), Just(Q4_0), Just(Q4_1), 0u32..40],
        offset in prop_oneof![Just(0), (0u64..40).prop_map(|n| n * 32), any::<u64>()],
    ) {
        let mut g = with(vec![blob("blk.0.ffn_up.weight", &dims, kind, noise(512))]);
        g.offsets = Some(vec![offset]);
        exercise(&g.bytes());
    }
}

/// Sums over whole tensors of the real file, from `gguf.quants.dequantize` and HF's row order (gguf-py 0.19).
#[test]
fn real_model_as_gguf_py_reads_it() {
    let path = real_model();
    let m = ModelFiles::open(&path).unwrap();
    assert_eq!(m.weights.names().count(), 272);
    let c = &m.config;
    assert_eq!(
        (c.num_layers, c.hidden_size, c.head_dim, c.vocab_size, c.tie_embeddings),
        (30, 576, 64, 49152, true)
    );
    let cases = [
        (
            "model.embed_tokens.weight",
            &[49152, 576][..],
            -15353.04449415207,
            -755983.3788437843,
            [0.032978058, 0.07106781, -0.04170227],
        ),
        (
            "model.layers.0.self_attn.q_proj.weight",
            &[576, 576],
            59.22322082519531,
            -3847.325942993164,
            [0.15734863, -0.47003174, -0.25585938],
        ),
        (
            "model.layers.29.self_attn.k_proj.weight",
            &[192, 576],
            87.89241790771484,
            2583.1746673583984,
            [0.004333496, 0.04093933, 0.0819397],
        ),
        (
            "model.layers.7.mlp.down_proj.weight",
            &[576, 1536],
            -198.9853515625,
            -17313.84243774414,
            [-0.127594, 0.03262329, 0.05706787],
        ),
        ("model.norm.weight", &[576], 1038.33203125, 50489.86328125, [1.8203125, 1.71875, 1.984375]),
    ];
    for (name, shape, sum, weighted, some) in cases {
        let t = m.weights.read(name).unwrap();
        assert_eq!(t.dims(), shape);
        let x = t.f32();
        assert_eq!([x[1], x[x.len() / 3], x[x.len() - 1]], some, "{name}");
        // The second sum notices a wrong order, which the first does not.
        let got: f64 = x.iter().map(|&v| f64::from(v)).sum();
        let ordered: f64 = x.iter().enumerate().map(|(i, &v)| f64::from(v) * (i % 97 + 1) as f64).sum();
        assert!((got - sum).abs() < 1e-6 && (ordered - weighted).abs() < 1e-4, "{name}: {got} {ordered}");
    }
    let print = m.weights.fingerprint().unwrap();
    assert_eq!(print, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}
