"""Data sets at their pinned revisions on the Hugging Face hub; skipped where the hub is out of reach."""

from __future__ import annotations

import socket
from collections import Counter

import pytest

from ftprobe.tasks import locate

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module", autouse=True)
def reachable() -> None:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError as error:
        pytest.skip(f"needs huggingface.co ({error})")


@pytest.mark.parametrize("task", ["cola", "sst2", "rte", "trec_6", "trec_50"])
def test_the_hub_has_what_is_promised(task: str) -> None:
    source = locate(task, data={})
    data = source.read()
    assert Counter(s.split for s in data.corpus.sentences) == source.sizes
    assert len(set(data.labels.label_N)) == {"trec_6": 6, "trec_50": 50}.get(task, 2)
