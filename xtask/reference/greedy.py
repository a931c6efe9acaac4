"""Greedy generation of dsla against transformers, both f32 on the same weights: 12 prompts, 32 tokens each.

Two correct f32 implementations may part ways where two logits are nearly equal; so a divergence is allowed only where
transformers' own gap between the two tokens is below --max-gap."""

import torch
from common import arguments, dsla, finish, load_hf, load_tokenizer, note, resolve

PLAIN = [
    "The lighthouse keeper counted the ships every evening, and on the last night of October",
    "Water boils at a lower temperature on a mountain because",
    "Once upon a time, in a village between two rivers, there lived a clockmaker who",
    "Die Hauptstadt von Frankreich ist",
    "1, 1, 2, 3, 5, 8, 13,",
]
CODE = [
    "def binary_search(items, target):\n    low, high = 0, len(items) - 1\n",
    "fn main() {\n    let words = vec![\"alpha\", \"beta\", \"gamma\"];\n    for word in &words {\n",
    "SELECT customers.name, SUM(orders.total)\nFROM customers\nJOIN orders ON",
]
CHAT = ["Why is the sky blue?", "Give me three short tips for growing tomatoes on a balcony.", "What is 17 + 25?"]
LONG = "".join(
    f"Entry {i}: the {a} cart carried {3 * i + 2} crates of {b} from the harbour to the market.\n"
    for i, (a, b) in enumerate(zip(["red", "blue", "old", "small", "wooden", "iron", "green"] * 6, ["apples", "salt", "cloth", "nails", "rope"] * 9))
) + "How many crates did the cart of entry 4 carry? Entry 4:"


def prompts(tokenizer):
    for text in PLAIN + CODE + [LONG]:
        yield text.split("\n")[0][:32], tokenizer(text, add_special_tokens=False).input_ids
    for text in CHAT:
        turn = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)
        yield f"chat: {text[:26]}", ids["input_ids"]


@torch.no_grad()
def continue_greedily(model, ids, n):
    """n greedy tokens, and the logits each was chosen from."""
    out, rows, past, step = [], [], None, torch.tensor([ids])
    for _ in range(n):
        y = model(step, past_key_values=past, use_cache=True)
        rows.append(y.logits[0, -1])
        past, token = y.past_key_values, int(rows[-1].argmax())
        out.append(token)
        step = torch.tensor([[token]])
    return out, rows


def main():
    p = arguments(__doc__)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--max-gap", type=float, default=1e-2, help="largest logit gap at which a divergence is a tie")
    a = p.parse_args()
    path = resolve(a.dsla, a.model)
    model, tokenizer = load_hf(path), load_tokenizer(path)
    same, ties, bad, total = 0, 0, 0, 0
    for name, ids in prompts(tokenizer):
        total += 1
        want, rows = continue_greedily(model, ids, a.tokens)
        got = dsla(a.dsla, "generate", path, "--prompt-ids", ",".join(map(str, ids)), "--max-tokens", a.tokens,
                   "--ignore-eos", "--dtype", "f32")
        if got["prompt_ids"] != ids or len(got["ids"]) != a.tokens:
            bad += 1
            note(f"  {name!r}: prompt ids changed, or {len(got['ids'])} tokens came, want {a.tokens}")
            continue
        at = next((i for i in range(a.tokens) if got["ids"][i] != want[i]), None)
        if at is None:
            same += 1
            note(f"  {name!r} ({len(ids)} ids): same")
            continue
        gap = float(rows[at][want[at]] - rows[at][got["ids"][at]])
        tie = gap <= a.max_gap
        ties, bad = ties + tie, bad + (not tie)
        note(f"  {name!r} ({len(ids)} ids): parts at token {at}: got {got['ids'][at]}, want {want[at]}, logit gap {gap:.2e}")
    finish("greedy", bad == 0, f"{same} of {total} prompts agree on {a.tokens} tokens, {ties} part at a tie (gap <= {a.max_gap}), {bad} wrong")


main()
