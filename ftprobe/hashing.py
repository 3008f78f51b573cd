"""Identity: canonical JSON, content ids, and seeds derived from what they are for.

Nothing here reads a clock or a global generator: the same input gives the same id and the same seed everywhere.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: object) -> bytes:
    """Canonical JSON of `value`: sorted keys, no spaces, UTF-8, no NaN.

    >>> canonical({"b": 1, "a": (2, 3)})
    b'{"a":[2,3],"b":1}'
    """
    return _CANONICAL.encode(value).encode()


def content_id(value: object) -> str:
    """32 hexadecimal digits: blake2b-128 of the canonical JSON of `value`."""
    return hashlib.blake2b(canonical(value), digest_size=16).hexdigest()


def file_digest(path: str | Path) -> str:
    """blake2b-128 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def derive_seed(seed: int, purpose: str, *identity: object) -> int:
    """A seed in [0, 2**32) for one purpose and one thing (METHODS 0: data, head_init, ft_order, dropout, split,
    probe_init, probe_order, control, mask, sample, resample).

    >>> derive_seed(0, "split", "cola") == derive_seed(0, "split", "cola") != derive_seed(0, "split", "rte")
    True
    """
    digest = hashlib.blake2b(canonical([seed, purpose, *identity]), digest_size=4).digest()
    return int.from_bytes(digest, "big")
