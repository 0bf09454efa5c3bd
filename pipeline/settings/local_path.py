"""Paths as users write them: ~ is the home folder, and a URL is refused."""

import os
import re
from pathlib import Path

from pipeline.errors import WrongUse

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(text: str) -> Path:
    """Return a path on this machine. Raises WrongUse for a URL, which would be taken as a folder such as s3:/."""
    if URL.match(text):
        raise WrongUse(
            f"{text} is a URL, and only local paths can be used: copy or mount it, and give that path"
        )
    return Path(os.path.expanduser(text))
