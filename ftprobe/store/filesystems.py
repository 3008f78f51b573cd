"""Filesystems of URLs, opened by pyarrow or fsspec, and what of a URL may be shown: neither credentials nor options."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from ftprobe.errors import StoreError

_GS_RETRY_S = 60
_CONNECT_S, _SILENCE_S = 5.0, 10.0  # AWS's defaults of 1 and 3 s end requests that a busy server would have answered
_S3_TEXTS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
_S3_FLAGS = ("allow_bucket_creation", "allow_bucket_deletion", "force_virtual_addressing")
_SHORTEST_SECRET = 4
_BUCKETS = ("s3", "gs", "gcs")
# Also of a secret whose "/" was not written as %2F, which ends the host's part of the URL
_CREDENTIALS = re.compile(r"://([^/?#]*|[^/?#:]+:[^?#]*)@")


def shown(url: str) -> str:
    """The URL without its query and its credentials, which end up in terminals and logs otherwise.

    >>> shown("s3://key:secret@bucket/folder/?endpoint_override=localhost:9000")
    's3://bucket/folder'
    """
    parts = urlsplit(_CREDENTIALS.sub("://", url, count=1))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def filesystem_at(url: str) -> tuple[Any, str]:
    """The `pyarrow.fs.FileSystem` of a URL, and the path there.

    Raises
    ------
    StoreError
        Nobody knows the scheme, an option is wrong, or the server that says where a bucket lies does not answer.
    """
    import pyarrow

    parts = urlsplit(url)
    if parts.scheme in _BUCKETS and not parts.netloc.rpartition("@")[2]:
        scheme = parts.scheme
        raise StoreError(f"cannot open the store {shown(url)}: it names no bucket; give {scheme}://bucket/folder")
    if parts.scheme in _BUCKETS and ":" in parts.netloc.rpartition("@")[2]:
        what = "a ':' in its bucket; a '/' in a secret is written %2F"
        raise StoreError(f"cannot open the store {shown(url)}: {what}, or leave the secret to AWS_SECRET_ACCESS_KEY")
    try:
        return _s3(url) if parts.scheme == "s3" else _other(url)
    except (OSError, ValueError, ImportError, pyarrow.ArrowException) as error:
        reason = _without_secrets((str(error) or type(error).__name__).splitlines()[0], url)
        raise StoreError(
            f"cannot open the store {shown(url)}: {reason}; give a folder, s3://bucket/folder, gs://bucket/folder, "
            "or a URL whose fsspec package is installed"
        ) from None


def _s3(url: str) -> tuple[Any, str]:
    """Opened here and not by pyarrow's own reading of the URL, which leaves no way to set timeouts."""
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    parts = urlsplit(url)
    bucket = parts.netloc.rpartition("@")[2]
    options: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _S3_TEXTS + _S3_FLAGS:
            raise ValueError(f"unknown option {name}; one of: {', '.join(_S3_TEXTS + _S3_FLAGS)}")
        options[name] = value if name in _S3_TEXTS else value.lower() in ("true", "1")
    if parts.username:
        options.update(access_key=unquote(parts.username), secret_key=unquote(parts.password or ""))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in options:
        options["endpoint_override"] = endpoint
    if "endpoint_override" not in options and "region" not in options:
        options["region"] = resolve_s3_region(bucket)
    filesystem = S3FileSystem(
        connect_timeout=_CONNECT_S,
        request_timeout=_SILENCE_S,
        background_writes=False,  # those queue a file in memory as fast as the disk gives it
        allow_delayed_open=True,  # a small object is one request
        **options,
    )
    return filesystem, f"{bucket}{unquote(parts.path)}"


def _other(url: str) -> tuple[Any, str]:
    import pyarrow
    from pyarrow.fs import FileSystem

    parts = urlsplit(url)
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:  # 15 minutes by default
        query = "&".join(filter(None, (parts.query, f"retry_limit_seconds={_GS_RETRY_S}")))
        url = urlunsplit(parts._replace(query=query))
    try:
        filesystem, root = FileSystem.from_uri(url)
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        return _fsspec(url)
    return filesystem, root


def _fsspec(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    opened, root = url_to_fs(url)
    return PyFileSystem(FSSpecHandler(opened)), root


def _without_secrets(text: str, url: str) -> str:
    text = text.replace(url, shown(url))
    found = _CREDENTIALS.search(url)
    credentials = found[1] if found else ""
    for secret in (credentials, *re.split("[:/]", credentials), urlsplit(url).query):
        for form in (secret, unquote(secret)):
            text = text.replace(form, "***") if len(form) >= _SHORTEST_SECRET else text
    return text
