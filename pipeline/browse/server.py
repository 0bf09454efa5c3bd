"""The page's server: on 127.0.0.1 alone, read-only, and only for the page itself."""

import errno
import json
import sys
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from cache.errors import StoreError
from cache.user_folder import as_typed
from pipeline.browse.findings import Findings
from pipeline.browse.own_image import OwnImages
from pipeline.browse.requests import (
    HEADERS,
    Refused,
    address,
    indices,
    page_files,
    require_own_host,
    upload_size,
)
from pipeline.browse.thumbnails import MOST_TILES, Thumbnails
from pipeline.errors import PipelineError, WrongUse

JSON, BYTES, JPEG = "application/json", "application/octet-stream", "image/jpeg"
FOREVER = "private, max-age=3600"  # of pictures, whose addresses name the gallery
Answer = tuple[str, bytes]


class BrowseServer(ThreadingHTTPServer):
    """Serves one gallery. Raises WrongUse if the port is taken or may not be used."""

    daemon_threads = True

    def __init__(self, port: int, findings: Findings, own_images: OwnImages) -> None:
        self.findings, self.own_images = findings, own_images
        self.gallery = findings.gallery
        self.thumbnails = Thumbnails(self.gallery)
        self.files = page_files()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is taken" if taken else f"cannot be used ({error.strerror or error})"
            raise WrongUse(f"port {port} {why}: choose another --port, or 0 for any free one") from error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection early is no error; anything else is, in one line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"warning: a request failed: {error!r}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: BrowseServer
    protocol_version = "HTTP/1.1"  # keeps connections open: the page asks for many small images
    server_version, sys_version = "anchorage", ""
    timeout = 60

    def do_GET(self) -> None:
        self.answer(self.get)

    def do_POST(self) -> None:
        self.answer(self.post)

    def answer(self, make: Any) -> None:
        """Send what `make` returns, or one sentence about why there is nothing."""
        try:
            host, origin = self.headers.get("Host"), self.headers.get("Origin")
            require_own_host(host, origin, self.server.server_address[1])
            kind, content = make()
            code = 200
        except Refused as refused:
            code, kind, content = refused.code, "text/plain; charset=utf-8", str(refused).encode()
        except (PipelineError, StoreError) as error:
            code, kind = 422, "text/plain; charset=utf-8"
            content = as_typed(error).encode("utf-8", "backslashreplace")
        except (ConnectionError, TimeoutError):  # the browser is gone
            raise
        except Exception as error:
            print(f"warning: a request failed: {as_typed(repr(error))}", file=sys.stderr)
            code, kind = 500, "text/plain; charset=utf-8"
            content = b"this request failed for a reason that the terminal of `browse` shows"
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", FOREVER if kind == JPEG else "no-store")
        if code != 200 and self.command == "POST":  # its body may not have been read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def get(self) -> Answer:
        """Answer a GET. Raises Refused for an address that the page does not have."""
        path, number, query = address(self.path, self.server.gallery.token)
        server, findings = self.server, self.server.findings
        if number is not None:
            return self.numbered(path, number)
        if path in server.files:
            return server.files[path]
        if path == "/sheet":
            return JPEG, server.thumbnails.sheet(indices(query, len(server.gallery.rows), MOST_TILES))
        if path == "/gallery":
            return as_json(self.about_gallery())
        if path == "/state":
            return as_json(findings.state())
        if path == "/labels":
            return as_bytes(server.gallery.labels, np.int32)
        if path == "/clusters" and findings.clusters is not None:
            return as_json([asdict(cluster) for cluster in findings.clusters])
        if path == "/cluster-of" and findings.cluster_of is not None:
            return as_bytes(findings.cluster_of, np.int32)
        raise Refused(404, "there is nothing at this address")

    def numbered(self, path: str, number: int) -> Answer:
        """Answer for one image or one side, by its number."""
        server, findings = self.server, self.server.findings
        of_side = path in ("/map", "/furthest")
        if number >= len(server.gallery.sides if of_side else server.gallery.rows):
            raise Refused(404, "there is nothing of this number")
        if path == "/map":
            points = findings.maps[number]
            if points is None:
                raise Refused(404, "this map is not drawn yet")
            return as_bytes(points, np.float32)
        if path == "/furthest":
            furthest = findings.furthest[number]
            return as_json(asdict(furthest) if furthest else None)
        if path == "/about":
            return as_json(self.about_image(number))
        thumbnails = server.thumbnails
        return JPEG, thumbnails.image(number) if path == "/image" else thumbnails.thumbnail(number)

    def post(self) -> Answer:
        """Answer with the neighbours of the image that is sent; nothing is written to disk."""
        if self.path != "/nearest":
            raise Refused(404, "there is nothing at this address")
        data = self.rfile.read(upload_size(self.headers.get("Content-Length")))
        return as_json(self.server.own_images.neighbours(data))

    def about_gallery(self) -> dict[str, Any]:
        gallery = self.server.gallery
        return {
            "token": gallery.token,
            "dataset": as_typed(gallery.images.folder),
            "split": gallery.images.name,
            "images": len(gallery.rows),
            "of": gallery.images.rows,
            "labelled": gallery.has_labels,
            "classes": list(gallery.images.classes),
            "sides": [
                {"name": side.name, "role": side.role, "teacher": side.teacher} for side in gallery.sides
            ],
        }

    def about_image(self, index: int) -> dict[str, Any]:
        gallery = self.server.gallery
        return {
            "row": int(gallery.rows[index]),
            "name": gallery.name(index),
            "found": gallery.neighbours(index),
        }

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing: the terminal shows the address."""


def as_json(value: Any) -> Answer:
    return JSON, json.dumps(value).encode()


def as_bytes(values: Any, dtype: Any) -> Answer:
    """Return an array as little-endian bytes, which the page reads as a typed array."""
    return BYTES, np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
