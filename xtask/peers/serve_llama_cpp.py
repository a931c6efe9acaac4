"""llama.cpp's server: a slot with room for a whole context for every sequence that may run, the rest as it comes.

Prints `listening on http://HOST:PORT` once it does."""

import threading

import xllamacpp
from server import arguments


def main():
    a = arguments()
    p = xllamacpp.CommonParams()
    p.model.path = a.model
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = a.threads
    p.n_parallel, p.n_ctx, p.kv_unified = a.running, a.running * a.positions, False
    p.hostnames, p.port, p.ui = ["127.0.0.1"], 0, False
    # Without it the context is trimmed to memory that is free at the moment.
    p.fit_params = False
    server = xllamacpp.Server(p)
    print(f"listening on {server.listening_address}", flush=True)
    threading.Event().wait()


main()
