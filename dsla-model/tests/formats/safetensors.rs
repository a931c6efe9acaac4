//! HF directories.

use crate::support::{line, mutate, put};
use dsla_kernels::{DType, bf16};
use dsla_model::Weights;
use half::f16;
use proptest::prelude::*;
use std::path::Path;

/// A safetensors file from its header's text.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

fn open(bytes: &[u8]) -> dsla_model::Result<Weights> {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "model.safetensors", bytes);
    Weights::open(dir.path())
}

/// Opens and, where that succeeds, reads everything.
fn exercise(bytes: &[u8]) {
    if let Ok(w) = open(bytes) {
        for name in w.names().map(str::to_owned).collect::<Vec<_>>() {
            if let Ok(t) = w.read(&name) {
                assert_eq!(Some(t.dims()), w.shape(&name));
            }
        }
        let _ = w.check(&[("a".to_owned(), vec![2, 3])]);
    }
}

fn three() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"F16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"BF16","shape":[1,2],"data_offsets":[32,36]},
        "d":{"dtype":"I64","shape":[1],"data_offsets":[36,44]},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[44,44]}}"#;
    let mut data = Vec::new();
    (0..6).for_each(|i| data.extend((i as f32 * 0.5 - 1.0).to_le_bytes()));
    [0.1, -2.0, 65504.0, 6e-8].iter().for_each(|&x| data.extend(f16::from_f32(x).to_le_bytes()));
    [1.0, -3.140625].iter().for_each(|&x| data.extend(bf16::from_f32(x).to_le_bytes()));
    data.extend(7i64.to_le_bytes());
    file(header, &data)
}

#[test]
fn reads_each_dtype() {
    let w = open(&three()).unwrap();
    assert_eq!(w.names().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    let a = w.read("a").unwrap();
    assert_eq!((a.dims(), a.f32()), (&[2, 3][..], &[-1.0, -0.5, 0.0, 0.5, 1.0, 1.5][..]));
    let b = w.read("b").unwrap();
    let want: Vec<f32> = [0.1, -2.0, 65504.0, 6e-8].iter().map(|&x| f16::from_f32(x).to_f32()).collect();
    assert_eq!((b.dtype(), b.to_vec_f32()), (DType::F32, want));
    let c = w.read("c").unwrap();
    assert_eq!((c.dtype(), c.to_vec_f32()), (DType::BF16, vec![1.0, -3.140625]));
    assert!(line(w.read("d")).contains("I64"));
    assert_eq!(w.read("e").unwrap().dims(), [0, 7]);
    assert!(line(w.read("f")).contains("f: got nothing"));
    assert_eq!((w.shape("a"), w.shape("f"), w.stored_dtype("b")), (Some(&[2, 3][..]), None, Some("F16")));
}

#[test]
fn large_tensors_are_read_in_pieces_without_seams() {
    let (rows, columns) = (301, 1000);
    let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
    let header = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{rows},{columns}],"data_offsets":[0,{n}]}},
        "x":{{"dtype":"BF16","shape":[{columns},{rows}],"data_offsets":[{n},{m}]}}}}"#,
        n = values.len() * 4,
        m = values.len() * 6
    );
    let mut data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    data.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()));
    let w = open(&file(&header, &data)).unwrap();
    assert_eq!(w.read("w").unwrap().f32(), values);
    let rounded: Vec<f32> = values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    assert_eq!(w.read("x").unwrap().to_vec_f32(), rounded);
}

#[test]
fn shards_and_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, x: f32| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        file(&header, &x.to_le_bytes())
    };
    put(dir.path(), "model-1.safetensors", one("a", 1.0));
    put(dir.path(), "model-2.safetensors", one("b", 2.0));
    let index = |text: &str| put(dir.path(), "model.safetensors.index.json", text);
    index(
        r#"{"metadata":{"total_size":8},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#,
    );
    let w = Weights::open(dir.path()).unwrap();
    assert_eq!((w.read("a").unwrap().f32(), w.read("b").unwrap().f32()), (&[1.0][..], &[2.0][..]));
    let print = w.fingerprint().unwrap();
    assert!(print.len() == 64 && print == w.fingerprint().unwrap());
    // One changed element changes it.
    put(dir.path(), "model-2.safetensors", one("b", 2.5));
    assert_ne!(print, Weights::open(dir.path()).unwrap().fingerprint().unwrap());

    // Twice, a lost tensor, a lost shard, paths, no index.
    put(dir.path(), "model-2.safetensors", one("a", 2.0));
    assert!(line(Weights::open(dir.path())).contains("b: got nothing"));
    index(r#"{"weight_map":{"a":"model-1.safetensors","c":"model-2.safetensors"}}"#);
    line(Weights::open(dir.path()));
    for (text, want) in [
        (r#"{"weight_map":{"a":"gone.safetensors"}}"#, "gone.safetensors"),
        (r#"{"weight_map":{"a":"../model-1.safetensors"}}"#, "beside"),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "beside"),
        (r#"{"weight_map":{"a":".."}}"#, "beside"),
        (r#"{"weight_map":{}}"#, "no tensors"),
        (r#"{"weight_map":3}"#, "weight_map"),
        ("{", "JSON"),
    ] {
        index(text);
        let error = line(Weights::open(dir.path()));
        assert!(error.contains(want), "{text}: {error}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(line(Weights::open(empty.path())).contains("model.safetensors"));
    line(Weights::open(Path::new("/nonexistent")));
    assert!(line(Weights::open(&put(empty.path(), "model.bin", "x"))).contains(".gguf"));
}

#[test]
fn a_tensor_of_two_shards() {
    let dir = tempfile::tempdir().unwrap();
    let both = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    put(dir.path(), "1.safetensors", file(both, &[0; 8]));
    put(dir.path(), "2.safetensors", file(both, &[0; 8]));
    let index = r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    put(dir.path(), "model.safetensors.index.json", index);
    assert!(line(Weights::open(dir.path())).contains("again"));
}

#[test]
fn hostile_headers() {
    let t = |rest: &str| format!(r#"{{"a":{{{rest}}}}}"#);
    let cases = [
        (file("{", &[]), "JSON"),
        (file("[]", &[]), "JSON"),
        (file("\u{0}", &[]), "JSON"),
        (file(&t(r#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#), &[0; 4]), "header"),
        (file(&t(r#""dtype":"F32","shape":[1],"data_offsets":[0,8]"#), &[0; 4]), "inside the 4 bytes"),
        (file(&t(r#""dtype":"F32","shape":[1],"data_offsets":[4,8]"#), &[0; 8]), "header"),
        (file(&t(r#""dtype":"F32","shape":[1],"data_offsets":[4,0]"#), &[0; 4]), "header"),
        (file(&t(r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#), &[0; 4]), "header"),
        (file(&t(r#""dtype":"F99","shape":[1],"data_offsets":[0,4]"#), &[0; 4]), "header"),
        (file(&t(r#""dtype":"F32","shape":[1]"#), &[0; 4]), "data_offsets"),
        // The product of the dimensions is 2^64, or 0 in arithmetic that wraps.
        (file(&t(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]"#), &[]), "header"),
        (file(&t(r#""dtype":"BF16","shape":[9223372036854775808],"data_offsets":[0,0]"#), &[]), "header"),
        // An end near 2^64: safetensors 0.8 adds the header's length to it.
        (
            file(
                &t(r#""dtype":"U8","shape":[18446744073709551610],"data_offsets":[0,18446744073709551610]"#),
                &[],
            ),
            "ends at",
        ),
        // Bytes that no tensor owns.
        (file(&t(r#""dtype":"F32","shape":[1],"data_offsets":[0,4]"#), &[0; 5]), "header"),
        (vec![], "0 bytes"),
        (vec![1, 2, 3], "3 bytes"),
        (u64::MAX.to_le_bytes().to_vec(), "a length of"),
        ((1u64 << 40).to_le_bytes().to_vec(), "a length of"),
    ];
    for (bytes, want) in cases {
        let error = line(open(&bytes));
        assert!(error.contains(want), "{error} (want {want})");
    }
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert!(line(open(&file(twice, &[0; 8]))).contains("a twice"));
    // Names with control characters come out escaped, long ones cut.
    let odd = format!(
        r#"{{"{}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#,
        "\\n\\u001b[2J".repeat(100)
    );
    let w = open(&file(&odd, &f32::NAN.to_le_bytes())).unwrap();
    let name = w.names().next().unwrap().to_owned();
    let error = line(w.read(&name));
    assert!(error.contains("NaN") && error.len() < 1200 && !error.contains('\u{1b}'), "{error}");
    let deep = r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}}"#;
    assert!(line(open(&file(deep, &[0; 4])).unwrap().read("a")).contains("5 dimensions"));
}

#[test]
fn not_finite() {
    for (dtype, bytes) in [
        ("F32", f32::NAN.to_le_bytes().to_vec()),
        ("F32", f32::NEG_INFINITY.to_le_bytes().to_vec()),
        ("F16", f16::INFINITY.to_le_bytes().to_vec()),
        ("BF16", bf16::NAN.to_le_bytes().to_vec()),
    ] {
        let n = bytes.len();
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[3],"data_offsets":[0,{}]}}}}"#, 3 * n);
        let data = [vec![0; n], bytes.clone(), bytes].concat();
        let error = line(open(&file(&header, &data)).unwrap().read("w"));
        assert!(error.contains("w: got NaN or infinity at element 1"), "{error}");
    }
}

#[test]
fn check_reports_everything_in_one_line() {
    let w = open(&three()).unwrap();
    let want = |list: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        list.iter().map(|(n, s)| ((*n).to_owned(), s.to_vec())).collect()
    };
    w.check(&want(&[("a", &[2, 3]), ("b", &[4]), ("c", &[1, 2]), ("d", &[1]), ("e", &[0, 7])])).unwrap();
    let error = line(w.check(&want(&[("a", &[3, 2]), ("b", &[4]), ("z", &[1]), ("c", &[1, 2])])));
    assert!(error.ends_with("missing z; misshapen a (got [2, 3], want [3, 2]); unexpected d, e"), "{error}");
    let many: Vec<_> = (0..100).map(|i| (format!("layer.{i:02}"), vec![1])).collect();
    let error = line(w.check(&many));
    assert!(error.contains("layer.07 and 92 more; unexpected a, b, c, d, e"), "{error}");

    // Buffers and a duplicate output projection are let pass.
    let header = r#"{"lm_head.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "model.layers.0.self_attn.rotary_emb.inv_freq":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let w = open(&file(header, &[0; 8])).unwrap();
    w.check(&[]).unwrap();
    assert!(line(w.check(&want(&[("lm_head.weight", &[2])]))).contains("misshapen lm_head.weight"));
}

#[test]
fn truncated_anywhere() {
    let bytes = three();
    for n in 0..bytes.len() {
        line(open(&bytes[..n]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise(&bytes);
    }

    #[test]
    fn random_headers(header in ".{0,200}", data in prop::collection::vec(any::<u8>(), 0..50)) {
        exercise(&file(&header, &data));
    }

    #[test]
    fn mutated(edits in prop::collection::vec((any::<u8>(), any::<usize>(), any::<u8>()), 1..6)) {
        exercise(&mutate(&three(), &edits));
    }

    #[test]
    fn any_sizes(shape in prop::collection::vec(any::<u64>(), 0..4), a in any::<u64>(), b in any::<u64>(), small in 0u64..40) {
        for (start, end) in [(a, b), (0, b), (0, small), (small, small + 4)] {
            let header = format!(r#"{{"a":{{"dtype":"F16","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#);
            exercise(&file(&header, &[0; 40]));
        }
    }
}
