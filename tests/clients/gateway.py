"""A gateway between client and edge that forwards half of a body and then nothing, as a radio link does."""

import http.client
import http.server
import threading
from urllib.parse import urlsplit


def start(endpoint: str) -> str:
    """Its base address. It lives as long as the process."""
    edge = urlsplit(endpoint).netloc

    class Gateway(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            upstream = http.client.HTTPConnection(edge, timeout=60)
            upstream.putrequest("POST", self.path)
            upstream.putheader("authorization", self.headers["authorization"])
            upstream.putheader("content-length", str(len(body)))
            upstream.endheaders()
            upstream.send(body[: len(body) // 2])
            self.relay(upstream.getresponse())
            upstream.close()

        def relay(self, answer):
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "date"):
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"

