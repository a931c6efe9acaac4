"""What the runners share: a process that loads a model once and then answers jobs, one JSON line each.

    -> {"ready": true, "version": "...", "gemm_gflops": 100.0}      the first line; or {"error": "..."} and the end
    <- {"job": "prefill", "context": 512, "batch": 1, "rate": 0, "tokens": 32, "format": "bf16"}
    -> {"tok_s": 1234.5, "next": 28}                                or {"error": "..."}
    <- {"job": "decode", ...}
    -> {"tok_s": 56.7}

prefill: `context` tokens into an empty cache, for each of `batch` sequences; tokens per second; `next` is the likeliest token.
decode: with `context` tokens in the cache, `tokens` more, one by one; the prefill is not timed, nor is any sampling."""

import argparse
import json
import os
import sys
import time

# No runner asks the network for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True, help="a .gguf file or an HF-layout directory, as the peer wants it")
    p.add_argument("--format", required=True)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--positions", type=int, required=True, help="the most tokens a sequence will have")
    p.add_argument("--batch", type=int, required=True, help="the most sequences at once")
    a = p.parse_args()
    # Before any numerical library is loaded, which is when they read it.
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    return a


def prompt(context, vocabulary):
    """The tokens that `dsla bench` takes."""
    return [(100 + i * 7 % 4000) % vocabulary for i in range(context)]


def one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]


def best_of(n, f):
    """The least of n times, in seconds."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def serve(engine_class):
    """`engine_class(arguments)` loads; `.prefill(context, batch)` fills an empty cache; `.next()` is the likeliest token then;
    `.decode(tokens)` goes on from there; `.facts()` is what the ready line says beside "ready"."""
    a = arguments()
    # Libraries print to stdout as they like: the protocol keeps the real one, they get stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value):
        print(json.dumps(value), file=answers, flush=True)

    try:
        engine = engine_class(a)
        # As long as a chunk of ours: every engine's first pass pays for its memory.
        engine.prefill(min(512, a.positions - 8), 1)
        engine.decode(2)
        say({"ready": True, **engine.facts()})
    except Exception as e:
        say({"error": one_line(e)})
        raise
    filled = None  # (context, batch) of the last prefill, while no decode has used it
    for line in sys.stdin:
        try:
            job = json.loads(line)
            context, batch, tokens = job["context"], job.get("batch", 1), job.get("tokens", 32)
            if job.get("rate", 0) != 0:
                raise ValueError(f"rate: got {job['rate']}, want 0: only dsla converts layers")
            if job.get("format", a.format) != a.format:
                raise ValueError(f"format: got {job['format']}, want {a.format}, which this process loaded")
            answer = {}
            if job["job"] == "prefill" or filled != (context, batch):
                start = time.perf_counter()
                engine.prefill(context, batch)
                answer["tok_s"] = context * batch / (time.perf_counter() - start)
                answer["next"] = int(engine.next())
                filled = (context, batch)
            if job["job"] == "decode":
                filled = None
                start = time.perf_counter()
                engine.decode(tokens)
                answer = {"tok_s": tokens * batch / (time.perf_counter() - start)}
            elif job["job"] != "prefill":
                raise ValueError(f"job: got {job['job']}, want prefill or decode")
            say(answer)
        except Exception as e:
            filled = None
            say({"error": one_line(e)})
