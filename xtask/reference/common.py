"""What the comparison scripts share: running `dsla`, loading the same model with transformers, tiny random Llamas."""

import argparse
import json
import math
import os
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def arguments(doc, model=True):
    p = argparse.ArgumentParser(description=doc)
    p.add_argument("--dsla", required=True, help="the dsla binary")
    if model:
        p.add_argument("--model", required=True, help="an HF-layout directory, a .gguf file, or a name `dsla fetch` knows")
    return p


def note(text):
    """Progress: stderr, so that stdout holds the summary line alone."""
    print(text, file=sys.stderr, flush=True)


def dsla(binary, *args):
    """Run `dsla ARGS --json`; its JSON object."""
    cmd = [binary, *map(str, args), "--json"]
    done = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(cmd[:3])} ...: exit {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def resolve(binary, model):
    """A path for MODEL, fetching it when it is a name."""
    return model if os.path.exists(model) else dsla(binary, "fetch", model)["path"]


def source(path):
    """Arguments of `from_pretrained` for a directory or a .gguf file."""
    if path.endswith(".gguf"):
        return os.path.dirname(path) or ".", {"gguf_file": os.path.basename(path)}
    return path, {}


def load_hf(path, dtype=torch.float32, **more):
    where, how = source(path)
    model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **how, **more)
    return model.eval()


def load_tokenizer(path):
    where, how = source(path)
    tokenizer = AutoTokenizer.from_pretrained(where, **how)
    if how:
        split_digits(path, tokenizer)
    return tokenizer


def split_digits(path, tokenizer):
    """transformers ignores `tokenizer.ggml.pre` and always splits words as GPT-2 does. SmolLM's tokenizer takes every digit
    apart first (llama.cpp does too), which also changes how the white space before a digit is split."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    field = gguf.GGUFReader(path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        split = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(split)


def finish(name, ok, text):
    """The one summary line, and the exit code."""
    print(f"{name}: {'ok' if ok else 'FAILED'}: {text}")
    sys.exit(0 if ok else 1)


# Tiny random Llamas. `spelling` is how config.json writes the rotary settings:
#   new      rope_parameters {rope_type, rope_theta, ...}          (transformers 5)
#   old      rope_theta and rope_scaling {rope_type, ...} or null   (transformers 4.43+)
#   legacy   rope_theta and rope_scaling {type, ...}                (before)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 2.5}


def tiny_llama(seed, hidden=32, heads=4, kv_heads=2, inter=40, vocab=61, layers=2, theta=10000.0, rope=None, **config):
    """Weights large enough that attention is far from uniform, norms away from 1, biases away from 0."""
    torch.manual_seed(seed)
    parameters = {"rope_theta": theta, **(rope or {"rope_type": "default"})}
    config = LlamaConfig(hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=inter,
                         vocab_size=vocab, num_hidden_layers=layers, max_position_embeddings=256, rms_norm_eps=1e-5,
                         rope_parameters=parameters, bos_token_id=1, eos_token_id=2, pad_token_id=None,
                         attn_implementation="eager", **config)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.6, 1.4)
            elif name.endswith("bias"):
                p.normal_(0, 0.3)
            elif "embed" in name or "lm_head" in name:
                p.normal_(0, 0.5)
            else:
                p.normal_(0, 1.5 / math.sqrt(p.shape[1]))
    return model.eval()


def save_tiny(model, path, dtype=torch.float32, spelling="new", shard=None):
    """Write `model` rounded to `dtype`; config.json in the given spelling; the model as read back, in f32."""
    for p in model.parameters():  # not model.to(dtype): that would round the rotary frequencies too
        p.data = p.data.to(dtype)
    model.save_pretrained(path, max_shard_size=shard or "1GB")
    generation = os.path.join(path, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    file = os.path.join(path, "config.json")
    with open(file) as f:
        config = json.load(f)
    keep = ["architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
            "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id"]
    out = {k: config[k] for k in keep}
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        out["head_dim"] = config["head_dim"]
    rope = dict(config["rope_parameters"])
    if spelling == "new":
        out["rope_parameters"] = rope
        out["dtype"] = str(dtype).removeprefix("torch.")
    else:
        out["torch_dtype"] = str(dtype).removeprefix("torch.")
        out["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        key = "rope_type" if spelling == "old" else "type"
        out["rope_scaling"] = None if kind == "default" else {key: kind, **rope}
    with open(file, "w") as f:
        json.dump(out, f, indent=2)
        f.write("\n")
    before, after = model.to(torch.float32), load_hf(path, attn_implementation="eager")
    ids = torch.arange(20)[None] % model.config.vocab_size
    with torch.no_grad():
        assert torch.equal(before(ids).logits, after(ids).logits), f"{path}: transformers reads back another model"
    return after
