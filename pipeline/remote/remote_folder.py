"""A folder in an object store, through fsspec: calls are repeated while the connection breaks, errors are sentences."""

import errno
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import Callback

from pipeline.errors import PipelineError, WrongUse, first_line
from pipeline.settings.local_path import KINDS

TRIES = 6
FIRST_WAIT_S = 0.5  # doubled after each try
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs"), "adlfs"),
    "hf": "huggingface_hub",
}
CREDENTIALS = {
    **dict.fromkeys(("s3", "s3a"), "`aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    **dict.fromkeys(("gs", "gcs"), "`gcloud auth application-default login`"),
    "hf": "`hf auth login`, or set HF_TOKEN",
}
REFUSED = ("Forbidden", "Unauthorized", "Invalid Credentials")  # how gcsfs begins its messages
NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ProfileNotFound",
)
LASTING = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    TypeError,
    ValueError,
)
VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime", "created")

# botocore would try five times on its own account, and whoever is offline wait a minute
SETTINGS = {each: {"config_kwargs": {"retries": {"total_max_attempts": 1}}} for each in ("s3", "s3a")}

T = TypeVar("T")


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record of asyncio's log is not of a broken connection, which is an exception of the call as well."""
    error = record.exc_info[1] if record.exc_info else None
    return not type(error).__module__.startswith("aiohttp")


logging.getLogger("asyncio").addFilter(_is_news)


class Unreachable(PipelineError):
    """The connection broke, again and again."""


class Missing(WrongUse):
    """There is no such bucket, repository or file."""


class RemoteFolder:
    """The folder at a URL. tries: how often a call is made before it fails.

    Raises:
        WrongUse: the URL's kind is not known, or its package is not installed.
    All methods raise PipelineError: Unreachable after the last try, Missing and others at once.
    """

    def __init__(self, url: str, tries: int = TRIES) -> None:
        self.url, self.tries = url, tries
        scheme = url.split("://")[0]
        if scheme not in PACKAGES:
            raise WrongUse(f"{url} is of no known kind: a dataset or a cache may be at {KINDS}")
        try:
            # with a cache of listings, what was sent a moment ago would not be there
            self.fs, root = fsspec.url_to_fs(url, use_listings_cache=False, **SETTINGS.get(scheme, {}))
        except ImportError as error:
            package = PACKAGES[scheme]
            raise WrongUse(f"{url} needs the package {package}: run `pip install {package}`") from error
        except Exception as error:  # each of fsspec's file systems has errors of its own
            raise self._failure(error) from error
        self.root = str(root).rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small file, None if there is no such file."""
        try:
            return self._call(self.fs.cat_file, self._path(name))
        except Missing:
            return None

    def read_parts(self, name: str, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes from start to end of each part of a file, which are fetched at the same time."""
        starts, ends = zip(*parts, strict=True)
        paths = [self._path(name)] * len(parts)
        return list(self._call(self.fs.cat_ranges, paths, list(starts), list(ends), on_error="raise"))

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        self._call(self.fs.pipe_file, self._path(name), data)

    def send(self, name: str, file: Path, progress: Callable[[int], None]) -> None:
        """Write a file of this machine; progress(bytes) is called as it goes."""
        sent = 0

        class Counter(Callback):
            def relative_update(self, inc: int = 1) -> None:
                nonlocal sent
                sent += inc
                progress(inc)

        def once() -> None:
            nonlocal sent
            progress(-sent)  # of a try that failed
            sent = 0
            self.fs.put_file(str(file), self._path(name), callback=Counter())

        self._call(once)
        progress(file.stat().st_size - sent)  # not every file system counts

    def listing(self) -> dict[str, tuple[int, str]]:
        """Return size and version of every file below the folder, by relative name; {} if there is none."""
        found = self._call(self.fs.find, self.root, detail=True)
        start = f"{self.root}/"
        return {
            path.removeprefix(start): (info["size"], _version(info))
            for path, info in found.items()
            if path.startswith(start) and info["size"] is not None and not _is_placeholder(path, info)
        }

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _call(self, call: Callable[..., T], *arguments: Any, **settings: Any) -> T:
        """Call until it succeeds."""
        for attempt in range(self.tries):
            try:
                return call(*arguments, **settings)
            except Exception as error:  # each of fsspec's file systems has errors of its own
                if lasting(error) or attempt == self.tries - 1:
                    raise self._failure(error) from error
            time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1))
        raise AssertionError("no try was made")

    def _failure(self, error: Exception) -> PipelineError:
        """Return what is raised for an error that is not tried again."""
        if isinstance(error, FileNotFoundError):
            # the Hub says so of a repository, too, that the user may not read
            hidden = f", or log in by {CREDENTIALS['hf']}" if self.url.startswith("hf://") else ""
            return Missing(
                f"{self.url} cannot be used ({first_line(error)}): check the name; a bucket has to be created "
                f"first{hidden}"
            )
        if lasting(error):
            return PipelineError(f"{self.url} cannot be used: {self._reason(error)}")
        return Unreachable(
            f"{self.url} cannot be reached ({first_line(error)}): check the network and the endpoint (AWS_ENDPOINT_URL "
            "for S3 that is not Amazon's), and run the same command again, which goes on from here"
        )

    def _reason(self, error: Exception) -> str:
        advice = CREDENTIALS.get(self.url.split("://")[0], "the service's own tools")
        if type(error).__name__ in NO_CREDENTIALS:
            return f"no credentials were found; give them by {advice}"
        if is_refusal(error):
            return (
                f"access was refused ({first_line(error)}); check the name of the bucket, and that the credentials may "
                f"read, list and write there: give others by {advice}"
            )
        return first_line(error)


def is_refusal(error: Exception) -> bool:
    """Whether the service refused access; gcsfs says so in an OSError's text alone."""
    return isinstance(error, PermissionError) or (type(error) is OSError and str(error).startswith(REFUSED))


def lasting(error: Exception) -> bool:
    """Whether an error would come again at the next try."""
    return (
        is_refusal(error)
        or isinstance(error, LASTING)
        or type(error).__name__ in (*NO_CREDENTIALS, "ParamValidationError")
        or (isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ENOSPC))
    )


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in VERSIONS if info.get(key)), "")


def _is_placeholder(path: str, info: dict[str, Any]) -> bool:
    """Whether it is an empty object that stands for a folder, as S3's console makes them."""
    return path.endswith("/") or info.get("type") == "directory"
