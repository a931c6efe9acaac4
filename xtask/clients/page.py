"""The page at `/` in headless Chromium: its numbers move while requests run, and the console has no errors.

    page.py --url http://127.0.0.1:8080 --model NAME --key KEY --chromium /usr/bin/chromium
"""

import argparse
import json
import threading
import time
import urllib.request

from playwright.sync_api import sync_playwright


def generate(url, model, key, tokens):
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), headers)
    assert json.load(urllib.request.urlopen(request))["usage"]["completion_tokens"] == tokens


def eventually(what, so):
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end, f"not in 60 s: {what}"
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["url", "model", "key", "chromium"]:
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors, asked = [], []
        page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("request", lambda r: asked.append(r.url))
        page.goto(args.url + "/")
        # It asks for the key, which the browser reports: that one line is meant.
        page.wait_for_selector("#key", state="visible")
        eventually("the refusal is shown", lambda: "got no valid key" in page.inner_text("#state"))
        assert errors and all("401" in e for e in errors), errors
        page.fill("#secret", args.key)
        page.press("#secret", "Enter")
        page.wait_for_selector("#key", state="hidden")
        errors.clear()
        eventually("the model's name", lambda: page.inner_text("#model") == args.model)
        assert page.inner_text("#state") == "", page.inner_text("#state")
        now = lambda chart: [float(x.replace(",", "")) if x != "–" else None
                             for x in page.locator(f"#{chart}-now b").all_inner_texts()]
        assert now("load") == [0, 0] and now("memory") == [0, 0], (now("load"), now("memory"))
        threads = [threading.Thread(target=generate, args=(args.url, args.model, args.key, 120)) for _ in range(2)]
        [t.start() for t in threads]
        eventually("two running", lambda: now("load")[0] == 2)
        eventually("memory", lambda: now("memory")[0] > 0)
        # Of the last 20 seconds: look while they run.
        eventually("latency", lambda: now("ttft")[0] and now("tpot")[0])
        eventually("tokens per second", lambda: now("speed")[1] > 0)
        eventually("rows of sequences", lambda: page.locator("#sequences tr").count() == 2)
        first = page.locator("#sequences tr").first.inner_text()
        eventually("they grow", lambda: page.locator("#sequences tr").first.inner_text() != first)
        [t.join() for t in threads]
        eventually("idle again", lambda: now("load") == [0, 0] and now("memory") == [0, 0])
        assert "2 requests served" in page.inner_text("#about"), page.inner_text("#about")
        drawn = "all => all.filter(p => p.getAttribute('d').includes('L')).length"
        curves = page.locator("svg path").evaluate_all(drawn)
        assert curves >= 8, curves
        assert not errors, errors
        assert all(url.startswith(args.url) for url in asked), asked
        browser.close()
    print(f"the page: {len(asked)} requests, {curves} curves, no errors")


if __name__ == "__main__":
    main()
