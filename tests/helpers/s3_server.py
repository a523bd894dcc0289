"""A local S3 server over HTTP, with a proxy that injects failures.

The server is moto's. The proxy also serialises conditional writes, which moto does not guarantee.
"""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import boto3
from moto.server import ThreadedMotoServer

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>'


@dataclass
class Fault:
    """A failure of the next ``times`` requests of a method whose address contains ``part``.

    ``answer``: S3 responds with an error, with ``status`` and ``code``. ``slow``: it waits for ``seconds`` first.
    ``lost``: the request is executed, but the response is lost. ``cut``: the connection ends in the middle of the body,
    of the request or, for GET, of the response.
    """

    kind: Literal["answer", "slow", "lost", "cut"]
    method: str
    part: str = ""
    times: int = 1
    status: int = 500
    code: str = "InternalError"
    seconds: float = 0.0


class S3Server:
    """Address of the proxy, its received requests and its pending failures."""

    def __init__(self, moto: tuple[str, int]) -> None:
        self.moto = moto
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str]] = []
        """Method, address and range of bytes."""
        self.conditional_write = threading.Lock()
        self._choice = threading.Lock()
        self.url = ""
        address = f"http://{moto[0]}:{moto[1]}"
        session = boto3.session.Session("nobody", "secret", region_name="us-east-1")
        self.client: Any = session.client("s3", endpoint_url=address)
        """Client without the proxy, to inspect the bucket."""

    def seen(self, method: str, part: str = "") -> int:
        """Number of different requests of a method with ``part`` in their address.

        A repeated request counts once: on a busy machine a connection may break, and the client tries again.
        """
        return len({request for request in self.requests if request[0] == method and part in request[1]})

    def fault_for(self, method: str, path: str, byte_range: str) -> Fault | None:
        with self._choice:
            self.requests.append((method, path, byte_range))
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.part in path:
                    fault.times -= 1
                    return fault
        return None


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # so that it answers `Expect: 100-continue`
    s3: S3Server

    def _pass_on(self) -> None:
        fault = self.s3.fault_for(self.command, self.path, self.headers.get("Range", ""))
        length = int(self.headers.get("Content-Length") or 0)
        self.close_connection = True
        if fault and fault.kind == "cut" and self.command != "GET":
            self.rfile.read(length // 2)
            return
        body = self.rfile.read(length)
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
        if fault and fault.kind == "answer":
            no_body = self.command == "HEAD"
            self._answer(fault.status, {}, b"" if no_body else ERROR.format(code=fault.code).encode())
            return
        status, headers, content = self._forward(body)
        if fault and fault.kind == "lost":
            return
        half = fault is not None and fault.kind == "cut"
        self._answer(status, headers, content, len(content) // 2 if half else len(content))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.s3.moto, timeout=60)
        conditional = "If-Match" in self.headers or "If-None-Match" in self.headers
        try:
            with self.s3.conditional_write if conditional and self.command == "PUT" else threading.Lock():
                headers = {name: value for name, value in self.headers.items() if name != "Expect"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                return answer.status, dict(answer.getheaders()), content
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(content)), **headers, "Connection": "close"}.items():
            if name.lower() not in ("transfer-encoding",):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:sent])

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Ignore errors of clients whose connection was cut."""


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Run moto's server with the proxy for the duration of the block."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    s3 = S3Server(moto.get_host_and_port())
    proxy = _Server(("127.0.0.1", 0), type("_ProxyOfThis", (_Proxy,), {"s3": s3}))
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    s3.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    try:
        yield s3
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        moto.stop()
