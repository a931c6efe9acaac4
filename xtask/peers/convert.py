"""The model in every format that a peer wants: OUT/FORMAT.gguf for llama.cpp, OUT/hf (bf16 safetensors) for vLLM and candle,
OUT/facts.json with the sizes that shares of the machine's limits are computed from.

convert.py MODEL.gguf OUT [FORMAT ...]      what is there already is left alone; files and folders appear whole"""

import json
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import gguf
import numpy as np

KINDS = {"bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1"}


def note(text):
    print(text, file=sys.stderr, flush=True)


def is_matrix(t):
    return len([n for n in t.shape if n > 1]) > 1


def values(t):
    return gguf.dequantize(t.data, t.tensor_type).astype(np.float32)


def common_type(reader):
    """What most matrices of the file are in."""
    types = [t.tensor_type for t in reader.tensors if is_matrix(t)]
    return max(set(types), key=types.count)


def write_gguf(reader, format, path):
    """Every matrix that is in the file's main type goes to `format`; to a wider one, so do all others. Norms stay f32."""
    kind = gguf.GGMLQuantizationType[KINDS[format]]
    wide = format in ("bf16", "q8_0")
    main = common_type(reader)
    arch = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    writer = gguf.GGUFWriter(path, arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE):
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    writer.add_file_type(gguf.LlamaFileType["MOSTLY_" + KINDS[format]])
    for t in reader.tensors:
        if is_matrix(t) and (wide or t.tensor_type == main):
            writer.add_tensor(t.name, gguf.quantize(values(t), kind), raw_dtype=kind)
        else:
            writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_hf(source, path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, file = os.path.split(source)
    # Left alone, transformers keeps the blocks of the file and unpacks them at every product.
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(path)
    config_file = os.path.join(path, "config.json")
    with open(config_file) as f:
        config = json.load(f)
    # The old spelling beside the new one: candle reads only that.
    config.pop("quantization_config", None)
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    with open(config_file, "w") as f:
        json.dump(config, f, indent=2)


def facts(reader, files):
    arch = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    number = lambda key: int(reader.get_field(f"{arch}.{key}").contents())
    heads = number("attention.head_count")
    embedding = next(t for t in reader.tensors if t.name == "token_embd.weight")
    tied = not any(t.name == "output.weight" for t in reader.tensors)
    sizes = {t.name: int(t.n_elements) for t in reader.tensors}
    head = sizes["token_embd.weight"]
    return {
        "layers": number("block_count"), "hidden": number("embedding_length"), "heads": heads,
        "kv_heads": number("attention.head_count_kv"), "head_dim": number("embedding_length") // heads,
        "vocabulary": int(embedding.shape[-1]), "parameters": sum(sizes.values()),
        # Read once per decode step: everything, the embedding as the head where the two are one tensor.
        "read_per_step": sum(sizes.values()) - (0 if tied else head),
        "prefill_matrix": sum(n for name, n in sizes.items() if name.startswith("blk.") and "norm" not in name),
        "file_bytes": files,
    }


def main():
    source, out, *formats = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    reader = gguf.GGUFReader(source)
    files = {}
    for format in formats:
        path = os.path.join(out, format + ".gguf")
        if KINDS[format] == common_type(reader).name:
            # The file is in that format: measured as it is.
            if not os.path.exists(path):
                os.symlink(os.path.abspath(source), path)
        elif not os.path.exists(path):
            note(f"writing {format}.gguf")
            write_gguf(reader, format, path + ".partial")
            os.replace(path + ".partial", path)
        files[format] = os.path.getsize(path)
    hf = os.path.join(out, "hf")
    if not os.path.isdir(hf):
        note("writing hf")
        shutil.rmtree(hf + ".partial", ignore_errors=True)
        write_hf(source, hf + ".partial")
        os.rename(hf + ".partial", hf)
    path = os.path.join(out, "facts.json")
    with open(path + ".partial", "w") as f:
        json.dump(facts(reader, files), f)
    os.replace(path + ".partial", path)


main()
