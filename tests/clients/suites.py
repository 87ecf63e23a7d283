"""Gives each suite a world of its own, runs them, and prints which case holds with which client."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import gateway
import install
import world as worlds

HERE = Path(__file__).resolve().parent
# Far above what a suite takes; one that hangs is a failure, not a build that never ends.
SUITE_SECONDS_MAX = 240
ENDED_BY = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@dataclass
class Suite:
    client: str
    # The command, once what it needs is installed; raises `install.Skipped`.
    command: Callable[[], list[str]]
    skipped: str | None = None
    # By case: seconds, and why it failed.
    outcomes: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    # Why the suite as a whole came to nothing.
    failure: str | None = None

    def run(self, wanted: list[str]) -> None:
        try:
            command = self.command() + wanted
        except install.Skipped as reason:
            self.skipped = str(reason)
            return
        except Exception as error:
            self.failure = str(error)
            return
        data = tempfile.mkdtemp(prefix="rhumb-clients-")
        try:
            self.run_in(worlds.up(data), command)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            down(data)

    def run_in(self, world: worlds.World, command: list[str]) -> None:
        environment = os.environ | {
            "RHUMB_CLIENTS_WORLD": world.data,
            "RHUMB_CLIENTS_GATEWAY": gateway.start(world.endpoint),
            "NODE_EXTRA_CA_CERTS": str(world.authority),
            # Loopback is behind no proxy, whatever this machine needs for the rest.
            "NO_PROXY": "*",
            "no_proxy": "*",
        }
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            PROCESSES.append(process)
            if ENDING.is_set():
                process.kill()
            limit = threading.Timer(SUITE_SECONDS_MAX, process.kill)
            limit.start()
            complete = False
            for line in process.stdout:
                told = json.loads(line)
                complete |= "complete" in told
                if "case" in told:
                    self.outcomes[told["case"]] = (told["seconds"], told["why"])
            process.wait()
            limit.cancel()
            PROCESSES.remove(process)
            if not complete or process.returncode != 0:
                errors.seek(0)
                self.failure = f"ended early with {process.returncode}: {errors.read()[-2000:]}"


def python(script: str) -> Callable[[], list[str]]:
    return lambda: [str(install.python_sdk()), str(HERE / script)]


def node() -> list[str]:
    node, modules = install.node_sdk()
    # An ES module finds its packages beside itself only.
    for script in ["sdk.mjs", "world.mjs"]:
        shutil.copy(HERE / script, modules)
    return [str(node), str(modules / "sdk.mjs")]


def tool(name: str, script: str) -> Callable[[], list[str]]:
    def command():
        if not shutil.which(name):
            raise install.Skipped("it is missing and could not be installed")
        return [sys.executable, str(HERE / script)]

    return command


def down(data: str) -> None:
    stopped = subprocess.run([worlds.RHUMB, "down", "--data", data], capture_output=True, text=True)
    if stopped.returncode:
        # Without its folder nobody could stop it by hand either.
        print(f"the sandbox on {data} does not stop: {stopped.stderr}", file=sys.stderr)
        return
    shutil.rmtree(data, ignore_errors=True)


def print_table(suites: list[Suite]) -> None:
    cases = list(dict.fromkeys(case for suite in suites for case in suite.outcomes))
    width = max(map(len, cases), default=0)
    print_row = lambda name, cells: print(f"{name:{width}}", *(f"{cell:>10}" for cell in cells))
    print_row("", [suite.client for suite in suites])
    for case in cases:
        print_row(case, [cell(suite, case) for suite in suites])


def cell(suite: Suite, case: str) -> str:
    if case not in suite.outcomes:
        return ""
    seconds, why = suite.outcomes[case]
    return "FAILED" if why else f"ok {seconds:.1f} s"


def main() -> int:
    # What `finally` does must also happen when the run is ended from outside.
    for ended in ENDED_BY:
        signal.signal(ended, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    sdks = [Suite("python", python("sdk.py")), Suite("node", node)]
    tools = [Suite("curl", tool("curl", "curl.py")), Suite("h2load", tool("h2load", "h2load.py"))]
    wanted = sys.argv[1:]
    with ThreadPoolExecutor(len(sdks)) as together:
        try:
            # Not by both suites at once, as Node comes with the environment of Python. Each says what came of it.
            with contextlib.suppress(Exception):
                install.node_sdk()
            for running in [together.submit(suite.run, wanted) for suite in sdks]:
                running.result()
            # After them, so that load and latency do not disturb each other.
            for suite in tools:
                together.submit(suite.run, wanted).result()
        finally:
            # Each suite takes its world down once its process has ended. Who insists must wait for that.
            for ended in ENDED_BY:
                signal.signal(ended, signal.SIG_IGN)
            ENDING.set()
            for process in list(PROCESSES):
                process.kill()
    suites = sdks + tools
    print_table(suites)
    held, failures = 0, []
    for suite in suites:
        if suite.skipped:
            print(f"SKIPPED {suite.client}: {suite.skipped}")
        if suite.failure:
            failures.append(f"{suite.client}: {suite.failure}")
        for case, (_, why) in suite.outcomes.items():
            if why:
                failures.append(f"{suite.client}: {case}: {why}")
            else:
                held += 1
    for failure in failures:
        print(f"\nFAILED {failure}", file=sys.stderr)
    if not any(suite.outcomes or suite.skipped or suite.failure for suite in suites):
        print(f"no case's name contains {wanted[0]!r}", file=sys.stderr)
        return 2
    print(f"{held} hold, {len(failures)} failed, in {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


ENDING = threading.Event()
# Those that run now.
PROCESSES: list[subprocess.Popen] = []

if __name__ == "__main__":
    sys.exit(main())
