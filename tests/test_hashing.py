"""Ids and seeds: the same input gives the same answer everywhere, and different inputs different ones."""

from __future__ import annotations

import doctest
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftprobe import hashing
from ftprobe.hashing import canonical, content_id, derive_seed, file_digest

text = st.text(st.characters(exclude_categories=["Cs"]))
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(text, v, max_size=4), max_leaves=12)


@given(values)
def test_canonical_json_reads_back_as_the_value(value: object) -> None:
    assert json.loads(canonical(value)) == value


@given(st.dictionaries(text, values, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert content_id(value) == content_id(dict(reversed(value.items())))


@given(values, values)
def test_ids_differ_exactly_where_canonical_json_does(one: object, other: object) -> None:
    assert (content_id(one) == content_id(other)) == (canonical(one) == canonical(other))


def test_ids_are_frozen() -> None:
    """Another id for the same spec would orphan every artifact of every store."""
    spec = {"stage": "probe", "version": 1, "parents": ["é"], "strength": 1e-5, "init": None}
    data = '{"init":null,"parents":["é"],"stage":"probe","strength":1e-05,"version":1}'.encode()
    assert canonical(spec) == data
    assert content_id(spec) == hashlib.blake2b(data, digest_size=16).hexdigest() == "9fee98366e979ca68da7e4b5632698ca"


def test_ids_do_not_depend_on_the_process() -> None:
    code = "from ftprobe.hashing import *; print(content_id({'a': {'b': 1}}), derive_seed(0, 'split'))"
    shown = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert shown == {f"{content_id({'a': {'b': 1}})} {derive_seed(0, 'split')}\n"}


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"bytes", Path("x")])
def test_what_json_cannot_say_has_no_id(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        content_id({"a": value})


@pytest.mark.parametrize("data", [b"", b"x", b"spread over several reads" * 40_000])
def test_file_digests_are_those_of_the_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert file_digest(tmp_path / "file") == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_seeds_differ_by_study_purpose_and_thing() -> None:
    seeds = {
        derive_seed(seed, purpose, *thing)
        for seed in range(10)
        for purpose in ("data", "split", "head_init")
        for thing in [(), ("cola",), ("cola", 1), ("cola", "1"), ("rte",)]
    }
    assert len(seeds) == 10 * 3 * 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_fill_their_range() -> None:
    """A constant high or low part would make generators seeded with it alike."""
    seeds = [derive_seed(i, "split") for i in range(2000)]
    for bit in range(32):
        assert 0.45 < sum(seed >> bit & 1 for seed in seeds) / len(seeds) < 0.55


def test_the_examples_run() -> None:
    assert doctest.testmod(hashing).failed == 0
