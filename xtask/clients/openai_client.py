"""The official openai client against `dsla serve` with the real model: what users' programs do, unchanged.

    openai_client.py --dsla target/debug/dsla --model smollm2-135m-instruct
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time

import openai
from prometheus_client.parser import text_string_to_metric_families

KEY = "sesame"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@contextlib.contextmanager
def served(dsla, model, *options):
    """A server on a free port; its base URL and its process."""
    command = [dsla, "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "DSLA_API_KEY": KEY})
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://"), line
        yield line.split()[-1], process
    finally:
        process.kill()
        process.wait()


def eventually(what, so):
    end = time.monotonic() + 300
    while not so():
        assert time.monotonic() < end, f"not in 300 s: {what}"
        time.sleep(0.05)


def raised(kind, call):
    try:
        call()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__}")


class Checks:
    def __init__(self, url, model):
        self.url, self.model = url, model
        self.client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=600)
        # What is not below /v1.
        self.root = self.client.with_options(base_url=url)

    def chat(self, client=None, messages=QUESTION, **options):
        options = {"model": self.model, "temperature": 0, "max_tokens": 24, **options}
        return (client or self.client).chat.completions.create(messages=messages, **options)

    def complete(self, prompt, **options):
        options = {"model": self.model, "temperature": 0, "max_tokens": 12, **options}
        return self.client.completions.create(prompt=prompt, **options)

    def dsla(self):
        return self.client.get("/dsla", cast_to=object)

    def models(self):
        assert [m.id for m in self.client.models.list()] == [self.model]
        assert self.client.models.retrieve(self.model).id == self.model
        raised(openai.NotFoundError, lambda: self.client.models.retrieve("gpt-5"))

    def whole_and_streamed(self):
        whole = self.chat()
        text = whole.choices[0].message.content
        assert "Paris" in text, text
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        assert whole.usage.model_extra["dsla"] == {"rate": 0.0, "converted_layers": 0, "layers": 30}
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        deltas = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(deltas) == text and len([d for d in deltas if d]) > 3, deltas
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
        assert not chunks[-1].choices and chunks[-1].usage == whole.usage
        assert all(c.usage is None for c in chunks[:-1])

    def choices(self):
        options = {"n": 3, "temperature": 1.0, "seed": 7}
        three = [c.message.content for c in self.chat(**options).choices]
        assert len(three) == 3 and len(set(three)) > 1, three
        assert three == [c.message.content for c in self.chat(**options).choices], "same seed, same texts"
        streamed = ["", "", ""]
        for chunk in self.chat(stream=True, **options):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        assert streamed == three
        assert len(self.complete(["one two three", "Berlin is"]).choices) == 2

    def logprobs(self):
        choice = self.chat(logprobs=True, top_logprobs=3).choices[0]
        tokens = choice.logprobs.content
        assert "".join(t.token for t in tokens) == choice.message.content
        assert bytes(b for t in tokens for b in t.bytes).decode() == choice.message.content
        for t in tokens:
            assert len(t.top_logprobs) == 3 and t.logprob <= 0
            assert t.top_logprobs[0].token == t.token, "greedy takes the likeliest"
        choice = self.complete("The capital of France is", logprobs=2).choices[0]
        assert "".join(choice.logprobs.tokens) == choice.text
        assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset) == 12
        assert all(t in top for t, top in zip(choice.logprobs.tokens, choice.logprobs.top_logprobs))

    def scores(self):
        """As lm-eval asks: what a text's tokens cost, nothing generated, or one token that it throws away."""
        def cost(end, most):
            choice = self.complete("The capital of France is" + end, echo=True, logprobs=1, max_tokens=most).choices[0]
            scored = choice.logprobs
            assert "".join(scored.tokens) == choice.text and scored.token_logprobs[0] is None
            assert len(scored.tokens) == len(scored.token_logprobs) == len(scored.top_logprobs)
            at = scored.tokens.index(end)
            return scored.token_logprobs[at], scored.token_logprobs[at] == max(scored.top_logprobs[at].values())

        for most in (0, 1):
            (paris, greedy), (berlin, _) = cost(" Paris", most), cost(" Berlin", most)
            assert greedy and berlin < paris - 2, (paris, berlin)
        scored = self.complete("The capital of France is Paris", max_tokens=1, extra_body={"prompt_logprobs": 2})
        entries = scored.choices[0].model_extra["prompt_logprobs"]
        best = min(entries[-1].values(), key=lambda e: e["rank"])
        assert entries[0] is None and best["decoded_token"] == " Paris", entries
        assert abs(best["logprob"] - paris) < 0.1

    def stops(self):
        text = self.complete("1, 2, 3, 4,", max_tokens=24).choices[0].text
        assert " 7" in text, text
        for stop in (" 7", ["never", " 7"]):
            cut = self.complete("1, 2, 3, 4,", max_tokens=24, stop=stop).choices[0]
            assert (cut.text, cut.finish_reason) == (text[: text.index(" 7")], "stop"), cut

    def parameters(self):
        ids = self.root.post("/tokenize", body={"prompt": " Berlin"}, cast_to=object)["tokens"]
        assert len(ids) == 1
        biased = self.complete("The capital is", logit_bias={str(ids[0]): 100}, max_tokens=3).choices[0].text
        assert biased == " Berlin" * 3, biased
        pinned = self.chat(extra_body={"dsla": {"rate": 0.5}})
        assert pinned.usage.model_extra["dsla"]["converted_layers"] == 15
        longer = self.chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Say yes."}]}],
                           max_tokens=40, extra_body={"min_tokens": 30})
        assert longer.usage.completion_tokens >= 30

    def tools(self):
        parameters = {"type": "object", "properties": {"a": {"type": "number"}}}
        function = {"name": "add", "description": "Adds.", "parameters": parameters}
        tools = [{"type": "function", "function": function}]
        choice = self.chat(tools=tools, tool_choice="auto").choices[0]
        assert choice.message.content or choice.message.tool_calls, choice
        e = raised(openai.BadRequestError, lambda: self.chat(tools=tools, tool_choice="required"))
        assert e.param == "tool_choice", e
        call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        answered = [*QUESTION, {"role": "assistant", "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "Paris"}]
        assert self.chat(messages=answered, tools=tools).choices[0].finish_reason in ("stop", "length", "tool_calls")

    def errors(self):
        e = raised(openai.BadRequestError, lambda: self.chat(temperature=-1))
        assert (e.param, e.status_code) == ("temperature", 400) and "got -1" in e.message, e
        e = raised(openai.BadRequestError, lambda: self.chat(max_tokens=10**6))
        assert e.code == "context_length_exceeded", e
        e = raised(openai.BadRequestError, lambda: self.chat(response_format={"type": "json_object"}))
        assert e.param == "response_format.type"
        raised(openai.NotFoundError, lambda: self.chat(model="gpt-5"))
        wrong = self.client.with_options(api_key="wrong")
        raised(openai.AuthenticationError, lambda: self.chat(client=wrong))

    def closing_cancels(self):
        stream = self.chat(stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
        for _, chunk in zip(range(3), stream):
            assert chunk.choices
        assert self.dsla()["load"]["running"] == 1
        stream.close()
        eventually("the request is gone", lambda: self.dsla()["load"]["running"] == 0)
        state = self.dsla()
        assert (state["counters"]["cancelled"], state["memory"]["kv_bytes"]) == (1, 0), state

    def many_at_once(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=self.url + "/v1", api_key=KEY, max_retries=0) as client:
                one = lambda i: self.chat(client=client, messages=[{"role": "user", "content": f"Say {i}."}], seed=i)
                together = await asyncio.gather(*(one(i) for i in range(6)))
                return [c.choices[0].message.content for c in together]

        alone = [self.chat(messages=[{"role": "user", "content": f"Say {i}."}], seed=i) for i in range(6)]
        assert asyncio.run(run()) == [c.choices[0].message.content for c in alone], "a batch changes no text"

    def metrics(self):
        # A step is counted after its events are out.
        eventually("all ended", lambda: self.dsla()["load"]["running"] == 0)
        page = self.root.get("/metrics", cast_to=str)
        families = {f.name: f for f in text_string_to_metric_families(page)}
        for name, kind in [("num_requests_running", "gauge"), ("generation_tokens", "counter"), ("folds", "counter"),
                           ("request_success", "counter"), ("time_to_first_token_seconds", "histogram")]:
            assert families["dsla:" + name].type == kind, name
        counted = sum(s.value for s in families["dsla:generation_tokens"].samples)
        assert counted == self.dsla()["counters"]["generated_tokens"] > 100


def queue(dsla, model):
    """A full queue, and what the client's own retries make of it."""
    with served(dsla, model, "--policy", "fixed:0", "--max-running", "1", "--max-queue", "1") as (url, _):
        checks = Checks(url, model)
        busy = [checks.chat(stream=True, max_tokens=40, extra_body={"ignore_eos": True}) for _ in range(2)]
        next(iter(busy[0]))
        eventually("one waits", lambda: checks.dsla()["load"]["waiting"] == 1)
        e = raised(openai.RateLimitError, lambda: checks.chat(max_tokens=2))
        assert e.code == "queue_full" and int(e.response.headers["retry-after"]) >= 1, e
        threads = [threading.Thread(target=lambda s=s: list(s)) for s in busy]
        [t.start() for t in threads]
        patient = checks.client.with_options(max_retries=600)
        assert checks.chat(client=patient, max_tokens=2).choices[0].message.content
        [t.join() for t in threads]


def drain(dsla, model):
    """SIGTERM: what runs ends, nothing new is taken, exit code 0."""
    with served(dsla, model, "--policy", "fixed:0.5", "--drain", "600") as (url, process):
        checks = Checks(url, model)
        stream = checks.chat(stream=True, max_tokens=60, extra_body={"ignore_eos": True},
                             stream_options={"include_usage": True})
        next(iter(stream))
        process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert rest[-1].usage.completion_tokens == 60 and rest[-1].usage.model_extra["dsla"]["rate"] == 0.5
        assert process.wait(timeout=300) == 0
        raised(openai.APIConnectionError, checks.chat)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsla", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    with served(args.dsla, args.model, "--policy", "fixed:0") as (url, _):
        checks = Checks(url, args.model)
        for check in [checks.models, checks.whole_and_streamed, checks.choices, checks.logprobs, checks.scores,
                      checks.stops, checks.parameters, checks.tools, checks.errors, checks.closing_cancels,
                      checks.many_at_once, checks.metrics]:
            start = time.monotonic()
            check()
            print(f"{check.__name__}: ok in {time.monotonic() - start:.1f} s", flush=True)
    for check in [queue, drain]:
        start = time.monotonic()
        check(args.dsla, args.model)
        print(f"{check.__name__}: ok in {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
