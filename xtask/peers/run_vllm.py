"""vLLM's CPU build, its engine stepped in this process: no prefix cache, greedy tokens (its steps always sample)."""

import os

from peer import prompt, serve


class Engine:
    def __init__(self, a):
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{a.threads - 1}" if a.threads > 1 else "0")
        # In this process, so that one step is one call; nothing phones home.
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
        import vllm

        self.vllm = vllm
        dtype = {"bf16": "bfloat16", "f32": "float32"}[a.format]
        llm = vllm.LLM(
            a.model, dtype=dtype, skip_tokenizer_init=True, enable_prefix_caching=False, max_model_len=a.positions,
            max_num_seqs=a.batch, hf_overrides={"max_position_embeddings": a.positions}, disable_log_stats=True,
        )
        self.engine, self.count = llm.llm_engine, 0
        self.vocabulary = llm.model_config.hf_config.vocab_size
        self.positions, self.running = a.positions, []

    def facts(self):
        return {"version": f"vllm-cpu {self.vllm.__version__}"}

    def step(self):
        """One step; how many tokens each running request has by now."""
        for out in self.engine.step():
            self.produced[out.request_id] = len(out.outputs[0].token_ids)
            self.last = out.outputs[0].token_ids[-1]

    def prefill(self, context, batch):
        self.engine.abort_request(self.running)
        while self.engine.has_unfinished_requests():
            self.engine.step()
        ids = prompt(context, self.vocabulary)
        greedy = self.vllm.SamplingParams(temperature=0.0, max_tokens=self.positions - context, ignore_eos=True, detokenize=False)
        self.running, self.produced = [], {}
        for _ in range(batch):
            self.count += 1
            self.running.append(str(self.count))
            self.engine.add_request(self.running[-1], {"prompt_token_ids": ids}, greedy)
        while len(self.produced) < batch:
            self.step()

    def next(self):
        return self.last

    def decode(self, tokens):
        # With several sequences the first may be a token ahead of the last: the same number of tokens is timed for each.
        want = {r: n + tokens for r, n in self.produced.items()}
        while any(self.produced[r] < n for r, n in want.items()):
            self.step()


serve(Engine)
