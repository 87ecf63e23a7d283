"""curl, over each way in: what the README prints, and the edges of HTTP that SDKs do not reach."""

import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cases import case, equal, run_cases
from world import World, by_tls, eventually

WORLD = World(os.environ["RHUMB_CLIENTS_WORLD"])
README = Path(__file__).resolve().parents[2] / "README.md"
KEY = f"authorization: Bearer {WORLD.key}"
HEADED = "http_version response_code time_starttransfer time_total num_connects content_type".split()
# By name: where, and the options; and the HTTP version that this must give.
WAYS = {
    "h1": (WORLD.edge, ["--http1.1"], "1.1"),
    "h2c": (WORLD.edge, ["--http2-prior-knowledge"], "2"),
    "tls_h1": (by_tls(WORLD.edge), ["--http1.1", "--cacert", str(WORLD.authority)], "1.1"),
    "tls_h2": (by_tls(WORLD.edge), ["--http2", "--cacert", str(WORLD.authority)], "2"),
}

# A refusal must leave the connection good for another request. Not asked where curl 7.88, which Debian 12
# has, spoils the connection by itself, with every server: curl's issue 10634.
TIMES = {"h1": 2, "h2c": 1, "tls_h1": 2, "tls_h2": 2}


def curl(*arguments: str) -> tuple[str, list[dict]]:
    """The bodies, and for each transfer what curl says of it."""
    facts = "%{stderr}" + "\\t".join(f"%{{{name}}}" for name in HEADED) + "\\n"
    command = ["curl", "--silent", "--show-error", "--max-time", "30", "--write-out", facts, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"curl failed with {done.returncode}: {done.stderr}"
    return done.stdout, [dict(zip(HEADED, line.split("\t"))) for line in done.stderr.splitlines()]


def chat(way: str, **more) -> tuple[str, dict]:
    endpoint, options, version = WAYS[way]
    body = json.dumps(WORLD.chat("What is Rhumb?", **more))
    said, [facts] = curl(*options, "--no-buffer", "-H", KEY, "-d", body, f"{endpoint}/chat/completions")
    equal((facts["response_code"], facts["http_version"]), ("200", version))
    return said, facts


def whole_and_stream(way: str) -> None:
    said, facts = chat(way)
    equal(facts["content_type"], "application/json")
    text = json.loads(said)["choices"][0]["message"]["content"]
    said, facts = chat(way, stream=True)
    # As it is made, not in one piece at the end: 40 steps of 20 ms.
    assert float(facts["time_starttransfer"]) < float(facts["time_total"]) / 2, facts
    equal(text_of(said, facts), text)


def text_of(said: str, facts: dict) -> str:
    equal(facts["content_type"], "text/event-stream")
    *events, done, end = said.split("\n\n")
    equal((done, end), ("data: [DONE]", ""))
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@case
def whole_and_stream_by_h1():
    whole_and_stream("h1")


@case
def whole_and_stream_by_h2c():
    whole_and_stream("h2c")


@case
def whole_and_stream_by_tls_h1():
    whole_and_stream("tls_h1")


@case
def whole_and_stream_by_tls_h2():
    whole_and_stream("tls_h2")


@case
def comments_keep_a_stream_that_waits():
    taking = {"max_tokens": 600, "ignore_eos": True, "stream": True}
    slots = WORLD.slots()
    with ThreadPoolExecutor(slots + len(WAYS)) as together:
        # For 12 s; after 10 s the edge shows a client that waits that it is not forgotten.
        taken = [together.submit(chat, "h1", **taking) for _ in range(slots)]
        eventually("all slots are taken", 5, lambda: WORLD.running() == slots)
        waiting = {way: together.submit(chat, way, stream=True) for way in WAYS}
    for answer in taken:
        text_of(*answer.result())
    whole, _ = chat("h1")
    for way, answer in waiting.items():
        said, facts = answer.result()
        events, comments = re.subn("^: keep-alive\n\n", "", said, flags=re.MULTILINE)
        assert said.startswith(":") and comments <= float(facts["time_total"]) / 10, (way, facts, said[:500])
        equal(text_of(events, facts), json.loads(whole)["choices"][0]["message"]["content"])


@case
def unknown_paths_are_refused_cleanly():
    for way, (endpoint, options, version) in WAYS.items():
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"]:
            said, facts = curl(*options, "-X", method, *[f"{endpoint}/nowhere"] * TIMES[way])
            errors = said.replace("}}{", "}}\n{").splitlines()
            equal([code(error) for error in errors], ["unknown_url"] * TIMES[way])
            came_on_one_connection(facts, "404", way)
            equal({fact["http_version"] for fact in facts}, {version})


@case
def head_has_a_length_and_no_body():
    for way, (endpoint, options, _) in WAYS.items():
        for path, status in [("/nowhere", "404"), ("/models", "200"), ("/chat/completions", "405")]:
            said, facts = curl(*options, "--head", "-H", KEY, *[f"{endpoint}{path}"] * TIMES[way])
            came_on_one_connection(facts, status, way)
            lengths = re.findall(r"(?im)^content-length: (\d+)", said)
            assert len(lengths) == TIMES[way] and int(lengths[0]) > 0, said
            assert "{" not in said, said


def came_on_one_connection(facts: list[dict], status: str, way: str) -> None:
    equal([fact["response_code"] for fact in facts], [status] * TIMES[way])
    equal([fact["num_connects"] for fact in facts], ["1", "0"][: TIMES[way]])


@case
def wrong_method_is_told_the_right_one():
    for endpoint, options, _ in WAYS.values():
        for method, path, allowed in [
            ("OPTIONS", "/chat/completions", "POST"),
            ("GET", "/completions", "POST"),
            ("POST", "/models", "GET, HEAD"),
        ]:
            said, [facts] = curl(*options, "-X", method, "-i", "-H", KEY, f"{endpoint}{path}")
            equal(facts["response_code"], "405")
            equal(re.findall(r"(?im)^allow: (.*?)\r?$", said), [allowed])
            assert '"code":"method_not_allowed"' in said, said


@case
def early_refusal_reaches_whoever_still_sends():
    for way in ["h1", "tls_h1"]:
        for framed in ["expect:", "expect: 100-continue", "transfer-encoding: chunked"]:
            is_refused(way, framed, TOO_LARGE, "401", "invalid_api_key")
            is_refused(way, framed, TOO_LARGE, "413", "request_too_large", "-H", KEY)
    # curl 7.88 forgets most answers that a reset comes right after, so one try shows nothing.
    for way in ["h2c", "tls_h2"] * 10:
        for length in [100, 60_000, TOO_LARGE]:
            is_refused(way, "expect:", length, "401", "invalid_api_key")


TOO_LARGE = 33 << 20


def is_refused(way: str, framed: str, length: int, status: str, why: str, *more: str) -> None:
    endpoint, options, _ = WAYS[way]
    with tempfile.NamedTemporaryFile() as body:
        body.truncate(length)
        what = ["-H", framed, "--data-binary", f"@{body.name}", f"{endpoint}/chat/completions"]
        said, [facts] = curl(*options, *more, *what)
    equal((facts["response_code"], code(said)), (status, why))


def code(body: str) -> str:
    return json.loads(body)["error"]["code"]


@case
def readme_commands_run_as_printed():
    commands = re.findall(r"^curl .*?[^\\]$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(commands) >= 2, commands
    streams = 0
    for command in commands:
        host = WORLD.endpoint.split("/")[2].split(":")[0]
        command, replaced = re.subn(r"//127\.0\.\d\.\d:", f"//{host}:", command)
        equal(replaced, 1)
        keys = {"RHUMB_KEY": WORLD.key, "ACME_KEY": WORLD.key}
        shell = {"shell": True, "env": os.environ | keys, "timeout": 60}
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **shell).stdout
        if said.startswith("data: "):
            streams += 1
            assert said.endswith("data: [DONE]\n\n"), said[-200:]
        else:
            assert json.loads(said)["choices"][0]["message"]["content"], said
    assert 0 < streams < len(commands), f"{streams} streams in {len(commands)} commands"


run_cases()
