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


GLUE = ("cola", "sst2", "rte", "mrpc", "qqp", "stsb", "mnli", "qnli")


@pytest.mark.parametrize("task", [*GLUE, "trec_6", "trec_50", "squad", "squad_v2", "text"])
def test_the_hub_has_what_is_promised(task: str) -> None:
    source = locate(task, data={})
    data = source.read()
    assert Counter(s.split for s in data.corpus.sentences) == source.sizes
    if source.task.classes:
        assert len(set(data.labels.label_N)) == {"trec_6": 6, "trec_50": 50, "mnli": 3}.get(task, 2)
