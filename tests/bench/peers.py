"""What the benches compare with: proxies from Debian and PyPI, each in a folder of its own, and how they are started
and watched. Versions are pinned; docs/performance.md says which figures are of which."""

import http.client, json, os, pathlib, signal, socket, subprocess, sys, time, venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "target"
RHUMB = TARGET / "release/rhumb"
EXAMPLES = TARGET / "release/examples"
DEBIAN = TARGET / "bench-debian"
# Debian's own builds need their libraries beside them: installing the packages would start services.
DEBIAN_PACKAGES = ["nginx", "haproxy", "wrk", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1",
                   "libluajit-5.1-2", "libluajit-5.1-common"]
DEBIAN_LIBRARIES = {"LD_LIBRARY_PATH": str(DEBIAN / "usr/lib/x86_64-linux-gnu")}
# Dynamo without its own dependencies: one of them is a placeholder that would fetch from another registry.
DYNAMO = ["ai-dynamo==1.6.1", "ai-dynamo-runtime==1.6.1"]
DYNAMO_NEEDS = ["aiohttp", "kubernetes==32.0.1", "msgspec", "prometheus-client", "pyzmq", "redis<9", "tqdm",
                "transformers", "typing-extensions", "zstandard", "fastapi", "uvicorn", "uvloop", "pydantic<=2.13.5"]
PYPI = {
    "sglang-router": ["sglang-router==0.3.2"],
    "vllm-router": ["vllm-router==0.1.17"],
    "smg": ["smg==1.13.0"],
    "litellm": ["litellm[proxy]==1.99.4"],
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def build():
    """The release build of Rhumb, and of the workers and the client that the benches use."""
    for what in (["-p", "rhumb"], ["-p", "rhumb-chaos", "--examples"]):
        subprocess.run(["cargo", "build", "-q", "--release", *what], check=True, cwd=ROOT)


def debian():
    """The folder that holds Debian's nginx, haproxy and wrk."""
    if not (DEBIAN / "usr/bin/wrk").exists():
        say("unpacking nginx, haproxy and wrk from Debian")
        DEBIAN.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", *DEBIAN_PACKAGES], check=True, cwd=DEBIAN,
                       stdout=sys.stderr, stderr=subprocess.DEVNULL)
        for package in DEBIAN.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, DEBIAN], check=True)
    return DEBIAN


def pypi(name):
    """The programs of one package, installed at the first call."""
    folder = TARGET / f"bench-{name}"
    python = folder / "bin/python"
    mark = folder / "installed"
    if not mark.exists():
        say(f"installing {name} from PyPI")
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "-q"]
        if name == "dynamo":
            subprocess.run([*install, "--no-deps", *DYNAMO], check=True, stderr=subprocess.DEVNULL)
            subprocess.run([*install, *DYNAMO_NEEDS], check=True, stderr=subprocess.DEVNULL)
        else:
            subprocess.run([*install, *PYPI[name]], check=True, stderr=subprocess.DEVNULL)
        mark.touch()
    return folder / "bin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(what, holds, limit=60):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        try:
            if holds():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"not within {limit} s: {what}")


def get(address, path):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def status(address, path, body, headers={}):
    """Of the answer's head; the rest is not waited for."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
    status = connection.getresponse().status
    connection.close()
    return status


class Process:
    """A program and all that it starts, in a session of their own so that they can be told from others."""

    def __init__(self, command, log, environment={}, cwd=None):
        self.log = open(log, "ab")
        self.child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=self.log,
                                      stderr=self.log, start_new_session=True, cwd=cwd,
                                      env={**os.environ, **environment})

    def pids(self):
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if session(pid) == self.child.pid]

    def end(self):
        if self.child.poll() is None or self.pids():
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.child.wait()
        self.log.close()


def session(pid):
    try:
        return int(stat(pid)[3])
    except (OSError, IndexError):
        return None


def stat(pid):
    """Fields of /proc/PID/stat from the state on."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_seconds(pids):
    """User and system time, of threads that ended as well, by the clock that each process has."""
    total = 0.0
    for pid in pids:
        try:
            # CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it.
            total += time.clock_gettime((~pid) << 3 | 2)
        except OSError:
            pass
    return total


def resident_mb(pids):
    pages = 0
    for pid in pids:
        try:
            pages += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            pass
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Direct:
    """No proxy: the limit that stub and client set."""

    headers = {}

    def __init__(self, name, workers, folder, model):
        self.address, self.model = workers[0], model

    def pids(self):
        return []

    def end(self):
        pass


class Peer:
    """One proxy in front of workers that speak OpenAI over plain HTTP/1.1."""

    headers = {}

    def __init__(self, name, workers, folder, model):
        self.address = f"127.0.0.1:{free_port()}"
        self.port = self.address.rsplit(":", 1)[1]
        self.workers, self.folder, self.model = workers, folder / name, model
        self.folder.mkdir(parents=True, exist_ok=True)
        command, environment = getattr(self, "command_" + name.replace("-", "_"))()
        self.process = Process(command, self.folder / "log", environment, cwd=self.folder)
        self.pids, self.end = self.process.pids, self.process.end

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name

    def command_nginx(self):
        servers = " ".join(f"server {worker};" for worker in self.workers)
        return nginx(self.folder, f"""
            upstream workers {{ {servers} keepalive 256; keepalive_requests 1000000000; }}
            server {{ listen {self.address} reuseport backlog=16384; location / {{
                proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection "";
                proxy_buffering off; client_body_buffer_size 256k; client_max_body_size 32m; }} }}""")

    def command_haproxy(self):
        servers = "\n ".join(f"server w{n} {worker}" for n, worker in enumerate(self.workers))
        config = self.write("haproxy.cfg", f"""global
 nbthread 2
 maxconn 4000
defaults
 mode http
 timeout connect 5s
 timeout client 120s
 timeout server 120s
 option http-no-delay
 http-reuse always
frontend f
 bind {self.address}
 default_backend b
backend b
 balance roundrobin
 {servers}
""")
        return [debian() / "usr/sbin/haproxy", "-f", config], DEBIAN_LIBRARIES

    def router(self, program, *more):
        urls = [f"http://{worker}" for worker in self.workers]
        return [*program, "--worker-urls", *urls, "--host", "127.0.0.1", "--port", self.port, "--policy", "round_robin",
                "--prometheus-port", free_port(), *more], {}

    def command_sglang_router(self):
        return self.router([pypi("sglang-router") / "sglang-router", "launch"], "--log-level", "warn")

    def command_vllm_router(self):
        return self.router([pypi("vllm-router") / "vllm-router"], "--log-level", "warning")

    def command_smg(self):
        return self.router([pypi("smg") / "smg", "launch"], "--log-level", "warn")

    def command_litellm(self):
        """Retries, and another group of the last worker to fall back to, also in mid-stream."""
        group = lambda name, worker: {"model_name": name, "litellm_params": {
            "model": f"openai/{self.model}", "api_base": f"http://{worker}/v1", "api_key": "none"}}
        config = self.write("config.yaml", json.dumps({
            "model_list": [group(self.model, worker) for worker in self.workers]
                          + [group("fallback", self.workers[-1])],
            "router_settings": {"num_retries": 2, "fallbacks": [{self.model: ["fallback"]}]}}))
        # Without the first it would fetch prices when it starts.
        environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        return [pypi("litellm") / "litellm", "--config", config, "--host", "127.0.0.1", "--port", self.port,
                "--num_workers", "1", "--telemetry", "False"], environment


def nginx(folder, http):
    """Command and environment of an nginx that serves this."""
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};"
                         for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""daemon off; worker_processes 2; worker_rlimit_nofile 65536;
        pid {folder}/nginx.pid; error_log {folder}/error.log crit;
        events {{ worker_connections 8192; }}
        http {{ access_log off; keepalive_requests 1000000000; {temporary} {http} }}""")
    return [debian() / "usr/sbin/nginx", "-e", folder / "error.log", "-c", folder / "nginx.conf", "-p", folder], {}


class Sandbox:
    """Our own processes, all features on."""

    def __init__(self, data, *arguments, environment={}):
        self.data = data
        up = [RHUMB, "up", "--detach", "--json", "--data", data, "--subnet", "auto", *arguments]
        self.facts = json.loads(subprocess.run(up, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                               env={**os.environ, **environment}).stdout)
        self.edge = self.facts["regions"][0]["edge"].split("//")[1].split("/")[0]
        self.headers = {"authorization": f"Bearer {self.facts['api_key']}"}

    def run(self, *arguments):
        done = subprocess.run([RHUMB, *map(str, arguments), "--data", self.data], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"rhumb {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    def pid(self, role, region=None):
        region = region or self.facts["regions"][0]["name"]
        [pid] = [p["pid"] for p in json.loads(self.run("sandbox", "ps", "--json")) if (p["role"], p["region"]) == (role, region)]
        return pid

    def again(self, role, region=None):
        """The process of this role, killed and started anew."""
        os.kill(self.pid(role, region), signal.SIGKILL)
        region = region or self.facts["regions"][0]["name"]
        eventually("it is seen as dead", lambda: all((p["role"], p["region"]) != (role, region) for p in
                                                     json.loads(self.run("sandbox", "ps", "--json"))))
        self.run("sandbox", "start", role, region)

    def end(self):
        subprocess.run([RHUMB, "down", "--data", self.data], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def streams(address, model, headers, count, at_once, limit, spread, bodies, path="/v1/chat/completions"):
    """What became of so many streams, one dictionary each."""
    plan = {"address": address, "path": path, "headers": headers, "streams": count, "at_once": at_once,
            "limit_s": limit, "spread_s": spread, "bodies": [{"model": model, **body} for body in bodies]}
    done = subprocess.run([EXAMPLES / "sse-client"], input=json.dumps(plan), stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def table(head, rows):
    """Markdown."""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    wide = [max(len(row[n]) for row in rows) for n in range(len(head))]
    line = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, wide)) + " |"
    return "\n".join([line(rows[0]), "|" + "|".join("-" * (width + 2) for width in wide) + "|", *map(line, rows[1:])])
