"""A job server on loopback that answers what a test tells it to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JobServer:
    """Keeps what it was asked; answers from `answers`, by method and path."""

    def __init__(self, address, answers):
        self.address = address
        self.answers = answers
        self.asked = []


@contextmanager
def job_server(token, **answers) -> Iterator[JobServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            served.asked.append((self.command, self.path, body))
            if self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer(401, "Unauthorized")
            if self.path not in served.answers:
                return self.answer(404, f"Job {self.path} does not exist")
            return self.answer(*served.answers[self.path])

        do_POST = do_GET

        def answer(self, code, body):
            self.send_response(code)
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

        def log_message(self, format, *args):
            """Tests print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = JobServer(f"http://127.0.0.1:{server.server_port}", answers.pop("answers", {}))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
