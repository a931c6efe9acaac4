"""What serve_llama_cpp.py and serve_vllm.py are asked for."""

import argparse


def arguments():
    """The model's path; threads; positions of a sequence; sequences that may run at once."""
    a = argparse.ArgumentParser()
    a.add_argument("--model", required=True)
    a.add_argument("--threads", type=int, required=True)
    a.add_argument("--positions", type=int, required=True)
    a.add_argument("--running", type=int, required=True)
    return a.parse_args()
