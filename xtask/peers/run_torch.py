"""transformers' Llama on PyTorch: sdpa attention, dynamic cache, no gradients, no compilation."""

from peer import best_of, prompt, serve


class Engine:
    def __init__(self, a):
        import torch
        import transformers

        torch.set_num_threads(a.threads)
        dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[a.format]
        self.torch, self.transformers, self.dtype = torch, transformers, dtype
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            a.model, dtype=dtype, attn_implementation="sdpa"
        ).eval()
        self.vocabulary = self.model.config.vocab_size

    def facts(self):
        torch = self.torch
        x, w = (torch.rand(shape).to(self.dtype) for shape in [(1024, 1024), (1024, 2048)])
        seconds = best_of(5, lambda: x @ w)
        version = f"torch {torch.__version__}, transformers {self.transformers.__version__}"
        return {"version": version, "gemm_gflops": 2 * 1024 * 2048 * 1024 / seconds / 1e9}

    def step(self, ids):
        with self.torch.inference_mode():
            out = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache, self.logits = out.past_key_values, out.logits[:, -1]

    def prefill(self, context, batch):
        self.cache, self.count = None, batch
        self.step(self.torch.tensor([prompt(context, self.vocabulary)] * batch))

    def next(self):
        return self.logits[0].argmax()

    def decode(self, tokens):
        ids = self.torch.ones((self.count, 1), dtype=self.torch.long)
        for _ in range(tokens):
            self.step(ids)


serve(Engine)
