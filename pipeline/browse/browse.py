"""`browse`: serve a gallery of images on this machine, or write it as one table."""

import os
import sys
import webbrowser

from rich.console import Console

from pipeline.browse.atlas import write_atlas
from pipeline.browse.findings import Findings
from pipeline.browse.gallery import open_gallery
from pipeline.browse.own_image import OwnImages
from pipeline.browse.server import BrowseServer
from pipeline.errors import WrongUse
from pipeline.runtime.device import resolve_device
from pipeline.runtime.distributed import use_all_cores
from pipeline.runtime.outputs import require_writable_file
from pipeline.settings.browse import BrowseConfig


def browse(config: BrowseConfig) -> None:
    """Run the `browse` command: serve the page until it is interrupted, or write the table of `export` and return.

    Raises WrongUse for a name of a table that does not end in .parquet and for a port that is taken, and as
    `open_gallery`.
    """
    if config.export:
        if config.export.suffix != ".parquet":
            raise WrongUse(f"{config.export}: name a file that ends in .parquet")
        require_writable_file(config.export)
    use_all_cores()
    resolve_device(config.device)
    with Console(stderr=True).status("reading embeddings"):
        gallery = open_gallery(config)
        findings = Findings(gallery, config.seed)
    if config.export:
        write_atlas(findings, config.export)
        return
    with BrowseServer(config.port, findings, OwnImages(gallery, config.weights)) as server:
        findings.start()
        print(f"{len(gallery.rows):,} images at {server.url} (Ctrl-C ends it)", flush=True)
        if not config.no_open and has_desktop():
            webbrowser.open(server.url)
        server.serve_forever()


def has_desktop() -> bool:
    """Whether a browser would open a window; without one, Python opens a text browser in this terminal."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY")
    )
