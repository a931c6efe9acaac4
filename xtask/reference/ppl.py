"""Perplexity of `dsla eval ppl` against transformers in f32: non-overlapping windows from the file's start, no BOS."""

import math

import torch
from common import arguments, dsla, finish, load_hf, load_tokenizer, note, resolve


@torch.no_grad()
def reference(model, ids, context, windows):
    """Mean negative log-likelihood of tokens 2..context of each window, summed in f64."""
    total, count = 0.0, 0
    for w in range(windows):
        x = torch.tensor(ids[w * context : (w + 1) * context])
        lp = torch.log_softmax(model(x[None]).logits[0, :-1], -1)
        total -= lp[torch.arange(len(x) - 1), x[1:]].double().sum().item()
        count += len(x) - 1
    return total / count, count


def main():
    p = arguments(__doc__)
    p.add_argument("--text", nargs="+", required=True)
    p.add_argument("--context", type=int, default=2048)
    p.add_argument("--windows", type=int, default=2, help="at most this many of each file")
    p.add_argument("--dtype", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    p.add_argument("--tolerance", type=float, nargs=2, default=[1e-4, 1e-2], metavar=("F32", "BF16"),
                   help="largest difference of log perplexity")
    a = p.parse_args()
    path = resolve(a.dsla, a.model)
    model, tokenizer = load_hf(path), load_tokenizer(path)
    limit, worst, ok = dict(zip(["f32", "bf16"], a.tolerance)), {}, True
    for file in a.text:
        with open(file, encoding="utf-8") as f:
            ids = tokenizer(f.read(), add_special_tokens=False).input_ids
        windows = min(a.windows, len(ids) // a.context)
        if windows == 0:
            raise SystemExit(f"ppl: {file}: {len(ids)} tokens, want at least {a.context}")
        nll, count = reference(model, ids, a.context, windows)
        for dtype in a.dtype:
            got = dsla(a.dsla, "eval", "ppl", path, "--text", file, "--context", a.context, "--windows", windows, "--dtype", dtype)
            diff = abs(math.log(got["ppl"]) - nll)
            good = got["tokens"] == count and diff <= limit[dtype]
            worst[dtype], ok = max(worst.get(dtype, 0.0), diff), ok and good
            note(f"  {file} {dtype}: {got['tokens']} tokens, want {count}; ppl {got['ppl']:.4f}, want {math.exp(nll):.4f}"
                 + ("" if good else "  <- FAILED"))
    text = ", ".join(f"{d} {v:.1e} (limit {limit[d]:g})" for d, v in worst.items())
    finish("ppl", ok, f"{len(a.text)} files, largest difference of log perplexity: {text}")


main()
