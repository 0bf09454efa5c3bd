"""What the page may ask for, and from whom: the rules that keep other sites and other files out."""

import re
from pathlib import Path
from urllib.parse import urlsplit

FILES = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
LARGEST_UPLOAD = 20 * 2**20  # bytes
# Nothing is loaded from elsewhere, and no other site may show the page or its images.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PICTURES = ("/thumbnail", "/image", "/sheet")
NUMBERED = re.compile(r"/(thumbnail|image|about|map|furthest)/(0|[1-9][0-9]{0,8})")


class Refused(Exception):
    """A request that is not answered. The message is one sentence for whoever sent it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def page_files() -> dict[str, tuple[str, bytes]]:
    """Return the page's own files by their address: (type, content). No other file is ever opened for a request."""
    files = {
        f"/{file.name}": (KINDS[file.suffix], file.read_bytes()) for file in FILES.iterdir() if file.is_file()
    }
    return files | {"/": files["/index.html"]}


def require_own_host(host: str | None, origin: str | None, port: int) -> None:
    """Raise Refused unless a request was sent to this machine's own address, and by the page itself.

    A foreign Host is a name that someone else made to point here (DNS rebinding). A foreign Origin is another site's
    script. A page of another site can still send requests without an Origin, such as an image's, but never reads the
    answer.
    """
    own = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    own |= {name.rpartition(":")[0] for name in own} if port == 80 else set()
    if (host or "").lower() not in own:
        raise Refused(403, f"this page answers only to http://127.0.0.1:{port} and http://localhost:{port}")
    if origin is not None and origin.lower() != f"http://{(host or '').lower()}":
        raise Refused(403, "this page answers only to itself, not to other sites")


def address(target: str, token: str) -> tuple[str, int | None, str]:
    """Return the path of a request's target, the number at its end if it is of a numbered kind, and the query.

    Pictures have their gallery's token before the path, and nothing else has one: a browser keeps pictures, and must
    not show them for another gallery on the same port. Raises Refused for a picture of another gallery.
    """
    try:
        parts = urlsplit(target)
    except ValueError as error:
        raise Refused(404, "there is nothing at this address") from error
    path = parts.path.removeprefix(f"/{token}")
    found = NUMBERED.fullmatch(path)
    kind = f"/{found[1]}" if found else path
    if (kind in PICTURES) != (path != parts.path):
        raise Refused(404, "there is nothing at this address")
    return kind, int(found[2]) if found else None, parts.query


def indices(query: str, images: int, most: int) -> list[int]:
    """Return the images that a sheet is asked for as images=1,2,3. Raises Refused for anything else."""
    found = re.fullmatch(r"images=((?:[0-9]{1,9},)*[0-9]{1,9})", query)
    numbers = [int(part) for part in found[1].split(",")] if found else []
    if not numbers or len(numbers) > most or max(numbers) >= images:
        raise Refused(400, f"expected images= and 1 to {most} numbers below {images}, separated by commas")
    return numbers


def upload_size(length: str | None) -> int:
    """Return the size of an upload from its Content-Length. Raises Refused if it is missing or too large."""
    if not length or not re.fullmatch(r"[0-9]{1,18}", length):
        raise Refused(411, "send the image with its Content-Length")
    if int(length) > LARGEST_UPLOAD:
        megabytes = LARGEST_UPLOAD // 2**20
        raise Refused(
            413, f"this file has {int(length) / 2**20:.0f} MB; an image may have up to {megabytes} MB"
        )
    return int(length)
