"""The page's server: what it answers, and whom and what it refuses."""

import http.client
import io
import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cache.user_folder import copy_of
from pipeline.browse.findings import Findings
from pipeline.browse.gallery import Gallery
from pipeline.browse.own_image import OwnImages
from pipeline.browse.requests import LARGEST_UPLOAD, Refused, address, page_files
from pipeline.browse.server import BrowseServer
from pipeline.browse.thumbnails import TILE, TILES_PER_LINE
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.decode import UnreadableImage
from tests.support.browsed import served

IMAGES = 48


@pytest.fixture(scope="module")
def server(gallery: Gallery) -> Iterator[BrowseServer]:
    with served(gallery) as running:
        yield running


def ask(
    server: BrowseServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Return an answer's code, content and headers; {own} in a path is the start of the pictures' addresses."""
    path = path.replace("{own}", f"/{server.gallery.token}")
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def test_it_listens_on_this_machine_alone(server: BrowseServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.family == socket.AF_INET


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_its_own_names_are_answered(server: BrowseServer, name: str) -> None:
    assert ask(server, "/state", Host=f"{name}:{server.server_address[1]}")[0] == 200


@pytest.mark.parametrize("path", ["/", "/state", "{own}/image/0", "{own}/sheet?images=0", "/map/0"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}", "localhost:1", ""],
)
def test_a_foreign_host_is_refused(server: BrowseServer, host: str, path: str) -> None:
    code, content, _ = ask(server, path, Host=host.format(port=server.server_address[1]))
    assert code == 403
    assert content.startswith(b"this page answers only to http://127.0.0.1:")


def test_a_request_without_a_host_is_refused(server: BrowseServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as connection:
        connection.sendall(b"GET /state HTTP/1.1\r\n\r\n")
        assert b" 403 " in connection.recv(100)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
    ],
)
def test_a_foreign_origin_is_refused(server: BrowseServer, method: str, origin: str) -> None:
    path = "/state" if method == "GET" else "/nearest"
    code, content, _ = ask(server, path, method, b"", Origin=origin.format(port=server.server_address[1]))
    assert code == 403
    assert content == b"this page answers only to itself, not to other sites"


@pytest.mark.parametrize(
    "path",
    [
        *("/../cli.py", "/%2e%2e/cli.py", "/page/../server.py", "//etc/passwd", "/etc/passwd", "/server.py"),
        *(
            "{own}/image/0/../../etc/passwd",
            "{own}/../cli.py",
            "{own}/image/..",
            "{own}/image/-1",
            "{own}/image/01",
            "{own}/image/0.jpg",
            "{own}/image/",
            "{own}/image",
            "{own}",
            "{own}/",
            "{own}/page.css",
            "{own}/state",
            "{own}{own}/image/0",
        ),
        *(
            "/image/0",
            "/thumbnail/0",
            "/sheet?images=0",
            "/0123456789abcdef/image/0",
            "/0123456789abcdef/sheet?images=0",
            "{own}/image/48",
            "{own}/thumbnail/999999999",
            "{own}/image/1e1",
            "/about/48",
            "/map/2",
            "/furthest/2",
        ),
        *("/nearest", "/index.html/", "/__init__.py", "/page.css%00"),
    ],
)
def test_only_numbers_and_its_own_files_have_an_address(server: BrowseServer, path: str) -> None:
    code, content, _ = ask(server, path)
    assert code == 404
    assert b"there is nothing" in content


def test_a_target_that_is_not_an_address_is_refused() -> None:
    with pytest.raises(Refused, match="there is nothing at this address"):
        address("http://[x/", "token")


@pytest.mark.parametrize(
    "images", ["", "images=", "images=48", "images=-1", "images=1,,2", "images=a", "x=1"]
)
def test_a_sheet_of_other_than_numbers_is_refused(server: BrowseServer, images: str) -> None:
    assert ask(server, f"{{own}}/sheet?{images}")[0] == 400
    assert ask(server, "{own}/sheet?images=" + ",".join(["1"] * 65))[0] == 400


def test_every_answer_forbids_other_sites(server: BrowseServer) -> None:
    for path in ("/", "{own}/image/0", "/nothing"):
        headers = ask(server, path)[2]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "http" not in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


def test_the_page_names_no_other_host() -> None:
    for name, (_, content) in page_files().items():
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, name
        assert "https:" not in text, name


def test_other_methods_are_refused(server: BrowseServer) -> None:
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert ask(server, "/state", method)[0] == 501


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(server: BrowseServer) -> None:
    code, content, headers = ask(server, "/nearest", "POST", None, Content_Length=str(LARGEST_UPLOAD + 2**20))
    assert code == 413
    assert content == b"this file has 21 MB; an image may have up to 20 MB"
    assert headers["Connection"] == "close"


def test_an_upload_needs_its_size(server: BrowseServer) -> None:
    assert ask(server, "/nearest", "POST", None, Transfer_Encoding="chunked")[0] == 411
    assert ask(server, "/nearest", "POST", None, Content_Length="-1")[0] == 411


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_what_is_no_image_is_a_sentence(server: BrowseServer, data: bytes) -> None:
    code, content, _ = ask(server, "/nearest", "POST", data)
    assert code == 422
    assert content.startswith(b"this file cannot be shown: ")
    assert b"Traceback" not in content


def test_an_image_of_ones_own_gets_neighbours_and_a_side_without_a_backbone_says_why(
    server: BrowseServer,
) -> None:
    own = server.gallery.images.source.read(int(server.gallery.rows[20]))
    code, content, _ = ask(server, "/nearest", "POST", own, Origin=server.url)
    assert code == 200
    teacher, student = json.loads(content)
    assert "planted" in teacher["why"]
    assert student["found"][0] == [20, 1.0], "the image itself"
    assert student["found"][1:] == [[i, c] for i, c in server.gallery.neighbours(20)[1][:11]]


def test_points_and_labels_are_typed_arrays(server: BrowseServer) -> None:
    points = np.frombuffer(ask(server, "/map/0")[1], "<f4").reshape(-1, 2)
    assert points.shape == (IMAGES, 2)
    assert np.abs(points).max() == pytest.approx(1)
    labels = np.frombuffer(ask(server, "/labels")[1], "<i4")
    assert np.bincount(labels).tolist() == [12] * 4


def test_neighbours_are_the_nearest_others_on_each_side(server: BrowseServer) -> None:
    about = json.loads(ask(server, "/about/0")[1])
    assert about["row"] == 0
    assert len(about["found"]) == 2
    assert {index for index, _ in about["found"][0][:11]} == set(range(1, 12)), (
        "the other eleven of its class"
    )
    for near in about["found"]:
        assert len(near) == 12
        assert 0 not in [index for index, _ in near]
        assert [cosine for _, cosine in near] == sorted((cosine for _, cosine in near), reverse=True)


def test_images_are_served_by_number(server: BrowseServer) -> None:
    for path, size in (("{own}/image/5", (32, 24)), ("{own}/thumbnail/5", (24, 24))):
        code, content, headers = ask(server, path)
        assert (code, headers["Content-Type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(content)).size == size
    sheet = Image.open(io.BytesIO(ask(server, "{own}/sheet?images=" + ",".join(map(str, range(9))))[1]))
    assert sheet.size == (TILES_PER_LINE * TILE, 2 * TILE)


def test_a_port_that_is_taken_is_a_sentence(server: BrowseServer) -> None:
    findings = Findings(server.gallery, seed=0)
    with pytest.raises(WrongUse, match=r"^port \d+ is taken: choose another --port, or 0 for any free one$"):
        BrowseServer(server.server_address[1], findings, OwnImages(server.gallery))


def test_an_image_that_has_gone_is_a_sentence_and_a_gray_tile(gallery: Gallery) -> None:
    file = gallery.images.data / "val" / gallery.name(3)
    away = file.rename(file.with_name("away"))
    try:
        with served(gallery, works=False) as server:
            code, content, _ = ask(server, "{own}/image/3")
            assert code == 422
            assert content.startswith(b"row 3, ")
            sheet = Image.open(io.BytesIO(ask(server, "{own}/sheet?images=3")[1]))
            assert sheet.getpixel((TILE // 2, TILE // 2)) == pytest.approx((128, 128, 128), abs=3)
    finally:
        away.rename(file)


def test_pictures_of_another_gallery_have_other_addresses(server: BrowseServer, gallery: Gallery) -> None:
    """They are kept by the browser, and the next gallery may be served on the same port."""
    kept = ask(server, "{own}/thumbnail/5")[2]["Cache-Control"]
    assert "max-age" in kept
    assert ask(server, "/gallery")[2]["Cache-Control"] == "no-store"
    assert json.loads(ask(server, "/gallery")[1])["token"] == gallery.token
    for other in (
        Gallery(gallery.images, gallery.rows[1:], gallery.sides, gallery.embeddings),
        Gallery(
            replace(gallery.images, identity=gallery.images.identity | {"images": "other"}),
            *(gallery.rows, gallery.sides, gallery.embeddings),
        ),
    ):
        assert other.token != gallery.token
        assert ask(server, f"/{other.token}/thumbnail/5")[0] == 404
    again = Gallery(gallery.images, gallery.rows.copy(), gallery.sides, gallery.embeddings)
    assert again.token == gallery.token, "kept pictures are of use after a restart"


def test_an_unexpected_error_is_a_sentence_and_a_line(
    server: BrowseServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(Gallery, "neighbours", fail)
    code, content, headers = ask(server, "/about/0")
    assert (code, headers["Content-Type"]) == (500, "text/plain; charset=utf-8")
    assert content == b"this request failed for a reason that the terminal of `browse` shows"
    assert capsys.readouterr().err == "warning: a request failed: ZeroDivisionError('no such luck')\n"
    assert ask(server, "/state")[0] == 200


def test_a_local_copy_is_shown_as_its_url(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> None:
        raise PipelineError(f"{copy_of('s3://b/a/cache.zarr')} is damaged")

    copied = copy_of("s3://b/a/data")
    copied.parent.mkdir(parents=True)
    copied.symlink_to(gallery.images.folder.resolve())
    images = replace(gallery.images, folder=copied)
    with served(Gallery(images, gallery.rows, gallery.sides, gallery.embeddings), works=False) as server:
        assert json.loads(ask(server, "/gallery")[1])["dataset"] == "s3://b/a/data"
        monkeypatch.setattr("pipeline.browse.own_image.open_teacher_of_cache", fail)
        own = gallery.images.source.read(0)
        assert (
            json.loads(ask(server, "/nearest", "POST", own)[1])[0]["why"] == "s3://b/a/cache.zarr is damaged"
        )
        monkeypatch.setattr(Gallery, "neighbours", fail)
        assert ask(server, "/about/0")[:2] == (422, b"s3://b/a/cache.zarr is damaged")


def test_one_upload_at_a_time_is_decoded(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    own_images = OwnImages(gallery)

    def noted(data: bytes) -> None:
        assert own_images._lock.locked()
        raise UnreadableImage("enough")

    monkeypatch.setattr("pipeline.browse.own_image.decode", noted)
    with pytest.raises(PipelineError, match="enough"):
        own_images.neighbours(b"")
