"""vLLM's CPU build behind its own OpenAI-compatible server, in the format that is faster on this processor.

Prints `listening on http://HOST:PORT` once it does. On SIGTERM it ends, and its engine with it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from server import arguments


def main():
    a = arguments()
    with open("/proc/cpuinfo") as f:
        flags = f.read()
    dtype = "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "6")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{a.threads - 1}" if a.threads > 1 else "0")
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", a.model, "--dtype", dtype,
            "--max-model-len", str(a.positions), "--max-num-seqs", str(a.running), "--host", "127.0.0.1", "--port", str(port),
        ],
        stdout=sys.stderr,
    )

    def end(*_):
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        if server.poll() is not None:
            sys.exit(f"vLLM ended with {server.returncode} before it listened")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    server.wait()
    sys.exit(f"vLLM ended with {server.returncode}")


main()
