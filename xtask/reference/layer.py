"""`dsla layer` against the paper-form recurrence in f64 (arXiv 2506.09316; names as in its code, utnslab/DSLA-Serve)."""

import os
import subprocess
import tempfile

import torch
import torch.nn.functional as F
from common import arguments, finish, note
from safetensors.torch import load_file, save_file

# B, T, hidden size C, heads, gate_logit_normalizer, scale of the gate bias
CASES = [
    (1, 1, 32, 2, 16, 1.0),
    (1, 2, 32, 4, 16, 1.0),
    (1, 37, 48, 3, 16, 1.0),
    (2, 63, 64, 4, 16, 4.0),
    (2, 64, 64, 1, 1, 1.0),
    (1, 65, 64, 2, 16, 1.0),
    (2, 129, 40, 5, 8, 2.0),
    (3, 17, 64, 2, 1, 60.0),
    (1, 300, 128, 2, 16, 1.0),
    (1, 1001, 64, 4, 16, 8.0),
]


def inputs(seed, b, t, c, gate_bias):
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape, scale=1.0: torch.randn(*shape, generator=g, dtype=torch.float32) * scale
    x = {"hidden_states": normal(b, t, c), "alpha_list": normal(2)}
    for name in ["q", "k", "v", "o"]:
        x[f"self_attn.{name}_proj.weight"] = normal(c, c, scale=c**-0.5)
    for name in ["gk_proj", "gk_proj2"]:
        x[f"{name}.weight"] = normal(c, c, scale=c**-0.5)
        x[f"{name}.bias"] = normal(c, scale=gate_bias)
    return x


def reference(x, heads, normalizer):
    """Token by token: S = diag(exp(g)) S + k v^T, o = (D^-1/2 q)^T S; the two states mixed by softmax(alpha_list)."""
    x = {k: v.double() for k, v in x.items()}
    h = x["hidden_states"]
    b, t, c = h.shape
    d = c // heads
    split = lambda u: u.view(b, t, heads, d)
    q, k, v = (split(h @ x[f"self_attn.{n}_proj.weight"].T) for n in "qkv")
    gates = [
        split((F.logsigmoid(h @ x[f"{n}.weight"].T + x[f"{n}.bias"]) / normalizer).clamp(min=-50.0)) for n in ["gk_proj", "gk_proj2"]
    ]
    mix = torch.softmax(x["alpha_list"], 0)
    states = [torch.zeros(b, heads, d, d, dtype=torch.float64) for _ in range(2)]
    out = torch.zeros(b, t, heads, d, dtype=torch.float64)
    for i in range(t):
        write = k[:, i, :, :, None] * v[:, i, :, None, :]
        for s in range(2):
            states[s] = gates[s][:, i].exp()[..., None] * states[s] + write
            out[:, i] += mix[s] * torch.einsum("bhk,bhkv->bhv", q[:, i] * d**-0.5, states[s])
    y = out.reshape(b, t, c) @ x["self_attn.o_proj.weight"].T
    return {"attn_output": y, "state_history": states[0], "state_recency": states[1]}


def main():
    p = arguments(__doc__, model=False)
    p.add_argument("--tolerance", type=float, default=1e-4, help="largest error, relative to the largest value")
    a = p.parse_args()
    bad, worst = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        source, result = os.path.join(folder, "in.safetensors"), os.path.join(folder, "out.safetensors")
        for seed, (b, t, c, heads, normalizer, gate_bias) in enumerate(CASES):
            name = f"b{b} t{t} c{c} h{heads} normalizer {normalizer} bias {gate_bias:g}"
            x = inputs(seed, b, t, c, gate_bias)
            save_file(x, source, metadata={"num_heads": str(heads), "gate_logit_normalizer": str(normalizer)})
            done = subprocess.run([a.dsla, "layer", source, result], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if done.returncode != 0:
                bad += 1
                note(f"  {name}: FAILED: exit {done.returncode}: {done.stderr.strip()[-300:]}")
                continue
            got, want = load_file(result), reference(x, heads, normalizer)
            os.remove(result)
            errors = {}
            for key, w in want.items():
                g = got.get(key)
                fits = g is not None and g.dtype == torch.float32 and g.shape == w.shape
                errors[key] = ((g.double() - w).abs().max() / w.abs().max()).item() if fits else float("inf")
            here = max(errors.values())
            good = here <= a.tolerance
            bad += not good
            worst = max(worst, here)
            note(f"  {name}: {here:.1e}" + ("" if good else f"  <- FAILED: {errors}"))
    finish("layer", bad == 0, f"{len(CASES) - bad} of {len(CASES)} cases, largest relative error {worst:.1e} (limit {a.tolerance:g})")


main()
