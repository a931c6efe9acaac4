"""Log-probabilities of dsla against transformers on tiny random Llamas that cover the configurations a checkpoint may have."""

import json
import os
import tempfile

import torch
from common import LINEAR, LLAMA3, arguments, dsla, finish, note, save_tiny, tiny_llama
from tokenizers.pre_tokenizers import ByteLevel

TIED, UNTIED = dict(tie_word_embeddings=True), dict(tie_word_embeddings=False)
BF16 = dict(dtype=torch.bfloat16)
VARIANTS = {
    "tied": (TIED, {}),
    "tied, old spelling": (TIED, dict(spelling="old")),
    "tied, bf16 on disk": (TIED, BF16),
    "tied, f16 on disk": (TIED, dict(dtype=torch.float16)),
    "untied": (UNTIED, {}),
    "untied, sharded": (UNTIED, dict(shard="16KB")),
    "llama3 rotation, new spelling": (dict(UNTIED, rope=LLAMA3, hidden=64), {}),
    "llama3 rotation, old spelling": (dict(UNTIED, rope=LLAMA3, hidden=64), dict(spelling="old")),
    "linear rotation, new spelling": (dict(TIED, rope=LINEAR), {}),
    "linear rotation, legacy spelling": (dict(TIED, rope=LINEAR), dict(spelling="legacy")),
    "rope_theta 1e6": (dict(TIED, theta=1e6), dict(spelling="old")),
    "attention_bias": (dict(UNTIED, attention_bias=True), {}),
    "mlp_bias": (dict(UNTIED, mlp_bias=True), {}),
    "all biases, sharded, bf16": (dict(UNTIED, attention_bias=True, mlp_bias=True), dict(BF16, shard="16KB")),
    "explicit head_dim": (dict(TIED, head_dim=12), {}),
    "grouped queries 3:1": (dict(TIED, hidden=36, heads=3, kv_heads=1), {}),
    "one kv head per query head": (dict(TIED, heads=4, kv_heads=4), {}),
    "odd sizes": (dict(UNTIED, hidden=42, heads=3, kv_heads=1, inter=51, vocab=97, layers=3), {}),
}


def tokenizer_json(vocab):
    """A byte-level BPE without merges over the first `vocab` letters of its alphabet."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    letters = sorted(ByteLevel.alphabet())[:vocab]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {c: i for i, c in enumerate(letters)}, "merges": []},
    }


def compare(binary, path, model, prompt, n, top, tolerance):
    """The largest relative difference over the top values of every step, or a complaint."""
    got = dsla(binary, "generate", path, "--prompt-ids", ",".join(map(str, prompt)), "--max-tokens", n, "--ignore-eos",
               "--logprobs", top, "--dtype", "f32")
    ids, rows = got["ids"], got["logprobs"]
    if len(ids) != n or len(rows) != n:
        return f"{len(ids)} tokens and {len(rows)} rows of logprobs, want {n}"
    with torch.no_grad():
        lp = torch.log_softmax(model(torch.tensor([prompt + ids])).logits[0].double(), -1)
    worst = 0.0
    error = lambda a, b: abs(a - b) / max(1.0, abs(b))
    for step, row in enumerate(rows):
        want = lp[len(prompt) - 1 + step]
        values = want.topk(top).values.tolist()
        if row["id"] != ids[step]:
            return f"step {step}: id {row['id']}, but ids says {ids[step]}"
        if len(row["top"]) != top:
            return f"step {step}: {len(row['top'])} top values, want {top}"
        if error(want[ids[step]].item(), values[0]) > tolerance:
            return f"step {step}: chose {ids[step]}, log-probability {want[ids[step]]:.4f}, the best has {values[0]:.4f}"
        pairs = [(row["logprob"], want[ids[step]].item())]
        for (token, value), best in zip(row["top"], values):
            pairs += [(value, want[token].item()), (value, best)]
        worst = max([worst] + [error(a, b) for a, b in pairs])
    return worst


def main():
    p = arguments(__doc__, model=False)
    p.add_argument("--tolerance", type=float, default=1e-3)
    a = p.parse_args()
    bad, worst = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, (config, save)) in enumerate(VARIANTS.items()):
            path = os.path.join(folder, f"tiny_{seed}")
            model = save_tiny(tiny_llama(seed, **config), path, **save)
            vocab = model.config.vocab_size
            with open(os.path.join(path, "tokenizer.json"), "w") as f:
                json.dump(tokenizer_json(vocab), f)
            prompt = torch.randint(0, vocab, (23,), generator=torch.Generator().manual_seed(seed)).tolist()
            result = compare(a.dsla, path, model, prompt, 8, 20, a.tolerance)
            if isinstance(result, str) or not result <= a.tolerance:
                bad.append(name)
                note(f"  {name}: FAILED: {result}")
            else:
                worst = max(worst, result)
                note(f"  {name}: {result:.1e}")
    finish("tiny", not bad, f"{len(VARIANTS) - len(bad)} of {len(VARIANTS)} configurations, largest relative difference {worst:.1e}"
           f" (limit {a.tolerance:g})" + (f"; wrong: {', '.join(bad)}" if bad else ""))


main()
