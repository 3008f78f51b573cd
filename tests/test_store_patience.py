"""Patience: what is asked again, for how long, and what is not."""

from __future__ import annotations

import errno
import pickle
import random
import time

import pytest

from ftprobe.errors import StoreError
from ftprobe.store.faults import passing
from ftprobe.store.patience import Patience


def refused() -> None:
    raise ConnectionRefusedError(errno.ECONNREFUSED, "no")


def test_one_request_that_never_succeeds_is_given_up_although_others_do() -> None:
    patience, attempts = Patience(0.3), 0

    def throttled() -> None:
        nonlocal attempts
        attempts += 1
        patience.ask(int, "elsewhere", "read")
        raise OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.")

    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot write here: AWS Error SLOW_DOWN .* \(tried \d+ times in \d+ s\)"):
        patience.ask(throttled, "here", "write")
    assert time.monotonic() - begun >= 0.3
    assert attempts >= 4


def test_after_an_outage_that_was_waited_for_each_request_is_tried_once_until_one_succeeds() -> None:
    patience, attempts = Patience(0.3), 0
    with pytest.raises(StoreError, match="Connection refused"):
        patience.ask(refused, "here", "read")
    with pytest.raises(StoreError, match="tried 1 times"):
        patience.ask(refused, "here", "read")
    patience.ask(int, "here", "read")
    patience.limit_s = 60.0

    def late() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            refused()
        return "answer"

    assert patience.ask(late, "here", "read") == "answer"


def test_what_another_process_waited_for_is_tried_once() -> None:
    patience = Patience(60.0)
    patience.suspect(time.monotonic() - 61.0)
    with pytest.raises(StoreError, match="tried 1 times"):
        patience.ask(refused, "here", "read")


def test_pauses_are_not_drawn_from_the_generator_that_training_uses() -> None:
    random.seed(0)
    before = random.getstate()
    with pytest.raises(StoreError):
        Patience(0.2).ask(refused, "here", "read")
    assert random.getstate() == before


def test_it_travels_without_the_clock_of_its_machine() -> None:
    patience = Patience(1.5)
    patience.suspect(time.monotonic() - 100.0)
    again = pickle.loads(pickle.dumps(patience))
    assert again.limit_s == 1.5
    with pytest.raises(StoreError, match=r"tried [2-9]"):
        again.ask(refused, "here", "read")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 28, Timeout was reached"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."), True),
        (OSError("AWS Error UNKNOWN (HTTP status 429) during HeadObject operation: No response body."), True),
        (OSError("AWS Error INTERNAL_FAILURE during CompleteMultipartUpload operation: "), True),
        (OSError("AWS Error REQUEST_TIMEOUT during PutObject operation: idle"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (TimeoutError(), True),
        (OSError("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation: No response body."), False),
        (OSError("AWS Error UNKNOWN (HTTP status 301) during HeadObject operation: No response body."), False),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), False),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation: gone"), False),
        (OSError("AWS Error INVALID_ACCESS_KEY_ID during PutObject operation: who?"), False),
        (OSError("AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject operation: no"), False),
        (OSError("AWS Error REQUEST_TIME_TOO_SKEWED during PutObject operation: set your clock"), False),
        (OSError("google::cloud::Status(PERMISSION_DENIED: no)"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (FileNotFoundError("gone"), False),
    ],
)
def test_only_what_may_pass_is_asked_again(error: OSError, again: bool) -> None:
    assert passing(error) is again
