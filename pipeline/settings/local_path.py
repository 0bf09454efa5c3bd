"""Paths as users write them: ~ is the home folder, and a URL is the folder that it is copied to, or refused."""

import os
import re
from pathlib import Path

from cache.user_folder import URL, copy_of
from pipeline.errors import WrongUse

# others of fsspec cannot list folders, need no copy, cannot be used by several threads, or have passwords in their URLs
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "hf")
SECRET = re.compile(r"[\w+.-]+://[^/@]*:[^@]*@")  # scheme://user:password@, which may have a slash
KINDS = f"{'://, '.join(SCHEMES[:-1])}:// or {SCHEMES[-1]}://"  # in words


def local_path(text: str, *, url: bool = False) -> Path:
    """Return a path on this machine. url: it may be a URL, for which the folder of its copy is returned.

    Nothing is copied yet. Raises WrongUse for another URL, which would be taken as a folder such as s3:/.
    """
    found = URL.match(text)
    if not found:
        return Path(os.path.expanduser(text))
    if SECRET.match(text):
        raise WrongUse(
            f"this {found['scheme']}:// URL holds a password, which runs and stores would record: leave it out, and "
            "give it to the service's own tools, see docs/how-to/remote-stores.md"
        )
    if not url or found["scheme"].lower() not in SCHEMES:
        raise WrongUse(
            f"{text} is a URL, and only local paths can be used here: copy or mount it, and give that path"
            + (f" (a dataset or a cache may be at {KINDS})" if url else "")
        )
    try:
        return copy_of(text)
    except ValueError as error:
        raise WrongUse(f"{error}: expected for example {found['scheme']}://bucket/name") from error
