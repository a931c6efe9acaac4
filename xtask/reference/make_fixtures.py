"""Write the tiny Llama checkpoints and their logits that dsla-model's tests pin: two layers, transformers in f64.

Run by hand when the set changes; the files are committed, so tests need no Python packages."""

import json
import os
import shutil

import torch
from common import LINEAR, LLAMA3, save_tiny, tiny_llama

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "..", "dsla-model", "tests", "fixtures")
LIMIT = 60_000

FIXTURES = {
    # tied embeddings, default rotation, 2 query heads per kv head, bf16
    "tiny_tied": dict(model=dict(seed=1, tie_word_embeddings=True), save=dict(dtype=torch.bfloat16, spelling="old")),
    # untied, llama3 rotation in the new spelling, biases everywhere, several shards, bf16
    "tiny_llama3": dict(
        model=dict(seed=2, hidden=32, inter=36, vocab=53, rope=LLAMA3, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
        save=dict(dtype=torch.bfloat16, spelling="new", shard="14KB"),
    ),
    # linear rotation in the oldest spelling, head_dim 10 with hidden 36, 3 query heads per kv head, f32
    "tiny_linear": dict(
        model=dict(seed=3, hidden=36, heads=3, kv_heads=1, head_dim=10, inter=20, vocab=47, theta=500.0, rope=LINEAR,
                   tie_word_embeddings=True),
        save=dict(dtype=torch.float32, spelling="legacy"),
    ),
}


def main():
    for name, spec in FIXTURES.items():
        path = os.path.normpath(os.path.join(OUT, name))
        shutil.rmtree(path, ignore_errors=True)
        model = save_tiny(tiny_llama(**spec["model"]), path, **spec["save"]).to(torch.float64)
        torch.manual_seed(100)
        ids = torch.randint(0, model.config.vocab_size, (19,))
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item()
        rows = [[float(f"{v:.6g}") for v in row] for row in logits.tolist()]
        with open(os.path.join(path, "expected.json"), "w") as f:
            f.write('{\n"input_ids": %s,\n"loss": %.9g,\n"logits": [\n%s\n]\n}\n' % (
                json.dumps(ids.tolist()), loss, ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)))
        size = sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path))
        print(f"{name}: {size} bytes, {len(os.listdir(path))} files, logits {logits.min():.2f} .. {logits.max():.2f}, loss {loss:.3f}")
        assert size < LIMIT, f"{name}: {size} bytes, want less than {LIMIT}"


main()
