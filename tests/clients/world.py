"""A sandbox with one region: what its clients see of it, and how it is broken under them."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

RHUMB = os.environ.get("RHUMB", "target/debug/rhumb")


class World:
    """One that runs."""

    def __init__(self, data: str):
        self.data = data
        self.facts = json.loads(Path(data, "facts.json").read_text())
        [self.region] = self.facts["regions"]
        self.name = self.region["name"]
        self.key = self.facts["api_key"]
        self.model = self.facts["model"]
        # As clients have it, and the one edge behind it.
        self.endpoint = self.facts["endpoint"]
        self.edge = self.region["edge"]
        self.authority = Path(data, "ca", "ca.pem")

    def rhumb(self, *arguments: str) -> str:
        command = [RHUMB, *arguments, "--data", self.data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        # `status` exits by how the sandbox is; what it says is on its standard output.
        if done.returncode != 0 and arguments[0] != "status":
            raise AssertionError(f"rhumb {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def status(self) -> dict:
        return json.loads(self.rhumb("status", "--json"))

    def running(self) -> int:
        """Requests that hold a slot of an engine."""
        return self.status()["regions"][0]["running"]

    def queued(self) -> int:
        return self.status()["regions"][0]["queued"]

    def slots(self) -> int:
        return 8 * self.status()["regions"][0]["replicas"]

    def pids(self, role: str) -> list[int]:
        processes = json.loads(self.rhumb("sandbox", "ps", "--json"))
        return [process["pid"] for process in processes if process["role"] == role]

    def signal(self, role: str, what: signal.Signals) -> None:
        pids = self.pids(role)
        assert pids, f"no {role} runs"
        for pid in pids:
            os.kill(pid, what)

    def kill(self, role: str) -> None:
        self.signal(role, signal.SIGKILL)

    def start(self, role: str) -> None:
        self.rhumb("sandbox", "start", role, self.name)

    def until_healthy(self) -> None:
        eventually("the sandbox is healthy", 30, lambda: self.status()["healthy"])
        # The edge has seen it too, and the endpoint leads to the edge.
        eventually("the endpoint answers", 10, self.has_answer)
        serves = lambda: self.metric("rhumb_edge_nodes_serving") == 1
        eventually("the edge knows a node that serves", 10, serves)

    def has_answer(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint + "/models", timeout=5).close()
        except urllib.error.HTTPError:
            # An answer too: it was asked without a key.
            return True
        except OSError:
            return False
        return True

    def metric(self, name: str, label: str = "") -> float:
        """A metric of the edge, summed over its labels that contain `label`."""
        with urllib.request.urlopen(self.region["admin"] + "/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        pattern = re.compile(rf"{name}(\{{[^}}]*\}})? ")
        found = [line for line in lines if pattern.match(line) and label in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def requests(self) -> int:
        """How many requests the edge has ended, in whatever way."""
        return int(self.metric("rhumb_edge_requests_total"))

    def chat(self, content: str, **more) -> dict:
        """A chat with one user message, always the same answer to it."""
        message = {"role": "user", "content": content}
        return {"model": self.model, "messages": [message], "temperature": 0, **more}

    def long_chat(self, tokens: int, **more) -> dict:
        """One that lasts: 20 ms for each token."""
        return self.chat("What is Rhumb?", max_tokens=tokens, extra_body={"ignore_eos": True}, **more)


def by_tls(endpoint: str) -> str:
    return endpoint.replace("http:", "https:").replace(":8080", ":8443")


def up(data: str) -> World:
    """Starts a world in an empty folder. Whoever called it must take it down."""
    options = ["--detach", "--json", "--subnet", "auto", "--regions", "us-east", "--step-time", "20ms"]
    command = [RHUMB, "up", *options, "--data", data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"no world: {done.stderr}")
    Path(data, "facts.json").write_text(done.stdout)
    return World(data)


def eventually(what: str, seconds: float, is_so) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)
