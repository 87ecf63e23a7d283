"""h2load: many streams at once on few connections of HTTP/2, in clear and by TLS."""

import json
import os
import re
import subprocess
import tempfile

from cases import case, equal, run_cases
from world import World, by_tls, eventually

WORLD = World(os.environ["RHUMB_CLIENTS_WORLD"])
IN_CLEAR = (WORLD.edge, "h2c")
# h2load looks at no certificate; curl does.
BY_TLS = (by_tls(WORLD.edge), "h2")


def load(way, path: str, requests: int, clients: int, streams: int, body: dict | None = None) -> None:
    """All of them must be answered with 2xx, and the edge must have counted just these."""
    endpoint, protocol = way
    options = ["-n", requests, "-c", clients, "-m", streams, "-H", f"authorization: Bearer {WORLD.key}"]
    before, refused = WORLD.requests(), WORLD.metric("rhumb_edge_requests_total", 'outcome="refused"')
    with tempfile.NamedTemporaryFile("w") as file:
        if body:
            json.dump(body, file)
            file.flush()
            options += ["-d", file.name, "-H", "content-type: application/json"]
        command = ["h2load", "--no-tls-proto=h2c", *map(str, options), endpoint + path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    said = done.stdout
    equal(done.returncode, 0)
    equal(set(re.findall(r"(?m)^Application protocol: (\S+)", said)), {protocol})
    counts = re.search(r"(?m)^requests: (.*)$", said)[1]
    all_began = f"{requests} total, {requests} started, {requests} done"
    equal(counts, f"{all_began}, {requests} succeeded, 0 failed, 0 errored, 0 timeout")
    equal(re.search(r"(?m)^status codes: (.*)$", said)[1], f"{requests} 2xx, 0 3xx, 0 4xx, 0 5xx")
    eventually("the edge has counted them", 2, lambda: WORLD.requests() >= before + requests)
    equal(WORLD.requests(), before + requests)
    equal(WORLD.metric("rhumb_edge_requests_total", 'outcome="refused"'), refused)


def short_chat(**more) -> dict:
    return WORLD.chat("Hello", max_tokens=4, ignore_eos=True, **more)


@case
def model_lists_by_h2c():
    load(IN_CLEAR, "/models", requests=2000, clients=8, streams=16)


@case
def model_lists_by_tls_h2():
    load(BY_TLS, "/models", requests=2000, clients=8, streams=16)


@case
def chats_by_h2c():
    load(IN_CLEAR, "/chat/completions", requests=100, clients=4, streams=4, body=short_chat())


@case
def chats_by_tls_h2():
    load(BY_TLS, "/chat/completions", requests=100, clients=4, streams=4, body=short_chat())


@case
def streams_by_h2c():
    load(IN_CLEAR, "/chat/completions", requests=100, clients=4, streams=8, body=short_chat(stream=True))


@case
def streams_by_tls_h2():
    load(BY_TLS, "/chat/completions", requests=100, clients=4, streams=8, body=short_chat(stream=True))


run_cases()
