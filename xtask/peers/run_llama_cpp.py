"""llama.cpp through the C functions that llama-cpp-python binds: flash attention, micro-batches of 512, f16 cache."""

from peer import prompt, serve


class Engine:
    def __init__(self, a):
        import llama_cpp as l
        import numpy as np

        self.l, self.np = l, np
        l.llama_backend_init()
        model_params = l.llama_model_default_params()
        self.model = l.llama_model_load_from_file(a.model.encode(), model_params)
        if not self.model:
            raise RuntimeError("llama.cpp does not load the model")
        p = l.llama_context_default_params()
        p.n_seq_max = a.batch
        # Each sequence gets its share, rounded as the library wants it.
        p.n_ctx = a.batch * -(-a.positions // 256) * 256
        p.n_batch, p.n_ubatch = 2048, 512
        p.n_threads = p.n_threads_batch = a.threads
        p.flash_attn_type = l.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = l.llama_init_from_model(self.model, p)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.vocabulary = l.llama_vocab_n_tokens(l.llama_model_get_vocab(self.model))
        b = self.batch = l.llama_batch_init(p.n_batch, 0, 1)
        self.most, self.lengths = p.n_batch, []
        # numpy writes the arrays: a loop in Python would be part of the times.
        self.token, self.position, self.wanted, counts = (
            np.ctypeslib.as_array(field, shape=(self.most,)) for field in (b.token, b.pos, b.logits, b.n_seq_id)
        )
        counts[:] = 1
        self.owners(range(0), 0)

    def owners(self, sequences, rest):
        """Row i belongs to sequences[i]; the others to `rest`."""
        owners = [*sequences] + [rest] * (self.most - len(sequences))
        if owners != getattr(self, "owned", None):
            self.owned = owners
            for i, sequence in enumerate(owners):
                self.batch.seq_id[i][0] = sequence

    def facts(self):
        return {"version": f"llama-cpp-python {self.l.__version__}"}

    def run(self, tokens, positions, last_only):
        n = self.batch.n_tokens = len(tokens)
        self.token[:n], self.position[:n] = tokens, positions
        self.wanted[:n] = not last_only
        self.wanted[n - 1] = 1
        code = self.l.llama_decode(self.context, self.batch)
        if code != 0:
            raise RuntimeError(f"llama_decode: code {code}")

    def prefill(self, context, batch):
        self.l.llama_memory_clear(self.l.llama_get_memory(self.context), True)
        tokens = prompt(context, self.vocabulary)
        for sequence in range(batch):
            self.owners(range(0), sequence)
            for start in range(0, context, self.most):
                part = tokens[start : start + self.most]
                self.run(part, range(start, start + len(part)), last_only=True)
        self.l.llama_synchronize(self.context)
        self.lengths = [context] * batch

    def next(self):
        row = self.l.llama_get_logits_ith(self.context, -1)
        return self.np.ctypeslib.as_array(row, shape=(self.vocabulary,)).argmax()

    def decode(self, tokens):
        self.owners(range(len(self.lengths)), 0)
        for i in range(tokens):
            self.run([1] * len(self.lengths), [n + i for n in self.lengths], last_only=False)
            self.l.llama_synchronize(self.context)


serve(Engine)
