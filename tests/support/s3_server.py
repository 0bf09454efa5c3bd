"""An S3 server in a process of its own (moto's), behind a proxy that counts, slows down and cuts connections."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fsspec

BLOCK = 64 * 1024
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Proxy:
    """A TCP proxy. sent, received: bytes from and to the client.

    cut_sent, cut_received: after how many more bytes all connections are cut, once. is_down: whether connections are
    cut at once. pause: seconds to wait before each block of 64 KiB.
    """

    server: tuple[str, int]
    sent: int = 0
    received: int = 0
    cuts: int = 0
    cut_sent: int | None = None
    cut_received: int | None = None
    is_down: bool = False
    pause: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    open: set[socket.socket] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def reset(self) -> None:
        """Count from 0, and let everything through."""
        with self.lock:
            self.sent = self.received = self.cuts = 0
            self.cut_sent = self.cut_received = None
            self.is_down, self.pause = False, 0.0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.is_down:
                client.close()
                continue
            server = socket.create_connection(self.server)
            with self.lock:
                self.open |= {client, server}
            for source, target, of in ((client, server, "sent"), (server, client, "received")):
                threading.Thread(target=self._forward, args=(source, target, of), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, of: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                time.sleep(self.pause)
                if self._is_cut(of, len(data)):
                    break
                target.sendall(data)
        self._close({source, target})

    def _is_cut(self, of: str, count: int) -> bool:
        with self.lock:
            setattr(self, of, getattr(self, of) + count)
            left = getattr(self, f"cut_{of}")
            if left is None or left > count:
                setattr(self, f"cut_{of}", left and left - count)
                return self.is_down
            setattr(self, f"cut_{of}", None)
            self.cuts += 1
            everything = set(self.open)
        self._close(everything)
        return True

    def _close(self, connections: set[socket.socket]) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        with self.lock:
            self.open -= connections


def s3() -> Any:
    """Return fsspec's file system of S3, without a cache of listings."""
    return fsspec.filesystem("s3", use_listings_cache=False)


@contextlib.contextmanager
def s3_server() -> Iterator[Proxy]:
    """Start the server and a proxy in front of it."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            assert process.poll() is None, "the S3 server has ended"
            time.sleep(0.05)
        proxy = Proxy(("127.0.0.1", port))
        yield proxy
        proxy.listener.close()
    finally:
        process.kill()
        process.wait()
