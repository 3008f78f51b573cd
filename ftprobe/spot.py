"""Spot: watch for the cloud's notice that this machine is about to be taken away, and have Ray drain its node.

The notice is that of AWS ("Spot Instance interruption notices", read by IMDSv2) or of Google Cloud ("Spot VMs",
`instance/preempted`). What follows from it is Ray's and the sweep's: nothing new starts on a node that is being
drained, and trials that run there leave a checkpoint. The watch imports no ray: it is to cost its machine nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import psutil

EVERY_S = 2.0  # AWS gives two minutes, Google Cloud half a minute
AWS_LEFT_S, GOOGLE_LEFT_S = 120.0, 30.0
_ANSWER_S = 2.0
_ATTEMPTS = 3
_AT = "169.254.169.254"
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the address is this machine's own


class Service(Protocol):
    """A cloud's metadata service."""

    name: str

    def left_s(self) -> float | None:
        """Seconds until this machine goes, None while nothing is said; OSError if it does not answer."""


class Aws:
    """That of EC2; `AWS_EC2_METADATA_SERVICE_ENDPOINT` names another address, as for AWS's own libraries."""

    name = "AWS"

    def __init__(self) -> None:
        self.url = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{_AT}").rstrip("/")
        self._token = ""

    def left_s(self) -> float | None:
        """Seconds until the instance goes."""
        if not self._token:
            life = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
            self._token = _ask(f"{self.url}/latest/api/token", life, method="PUT")
        try:
            said = _ask(f"{self.url}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            self._token = ""  # it may have expired
            raise
        return min(AWS_LEFT_S, max(0.0, _time_of(said) - time.time()))


class GoogleCloud:
    """That of Compute Engine; `GCE_METADATA_HOST` names another host, as for Google's own libraries."""

    name = "Google Cloud"

    def __init__(self) -> None:
        self.url = f"http://{os.environ.get('GCE_METADATA_HOST', _AT)}"

    def left_s(self) -> float | None:
        """Seconds until the instance goes."""
        said = _ask(f"{self.url}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}).strip()
        if said not in ("TRUE", "FALSE"):
            raise OSError("not the metadata service of Google Cloud")
        return GOOGLE_LEFT_S if said == "TRUE" else None


class Raylet(NamedTuple):
    """Ray's process on this machine, the id of its node, and the address of its head."""

    process: psutil.Process
    node: str
    head: str


def watch(say: Callable[[str], None], node: str | None = None) -> None:
    """Wait for a notice and have the node drained; ends then, when Ray has left, or where there is nothing to watch.

    Parameters
    ----------
    say : callable
        Takes a line for the log.
    node : str, optional
        Ray's id of the node, where this machine runs several.
    """
    service, raylet = _service(), _raylet(node)
    if service is None:
        say("neither AWS nor Google Cloud answers here: no notice to watch for")
        return
    if raylet is None:
        say("no node of Ray runs on this machine: nothing to watch for")
        return
    say(f"watching for {service.name}'s notice, for node {raylet.node}")
    while raylet.process.is_running():
        left = _left_s(service)
        if left is not None and _drained(raylet, service, left, say):
            return
        time.sleep(EVERY_S)
    say("Ray has left this machine")


def _left_s(service: Service) -> float | None:
    try:
        return service.left_s()
    except OSError:
        return None  # it answers again, or the machine is gone


def _drained(raylet: Raylet, service: Service, left_s: float, say: Callable[[str], None]) -> bool:
    why = f"{service.name} takes this machine away in {left_s:.0f} s"
    # fmt: off
    drain = [
        sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", raylet.head, "--node-id", raylet.node,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", why,
        "--deadline-remaining-seconds", str(int(left_s)),
    ]
    # fmt: on
    done = subprocess.run(drain, capture_output=True, text=True, check=False)
    failed = done.returncode != 0
    said = (done.stderr or done.stdout).strip().splitlines()[-1:]
    say(f"{why}; " + (f"Ray could not be told: {''.join(said)}" if failed else f"Ray drains node {raylet.node}"))
    return not failed


def _service() -> Service | None:
    for _ in range(_ATTEMPTS):
        for service in (Aws(), GoogleCloud()):
            try:
                service.left_s()
            except OSError:
                continue
            return service
    return None


def _raylet(node: str | None) -> Raylet | None:
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or [""]
        flags = dict(part[2:].split("=", 1) for part in command if part.startswith("--") and "=" in part)
        if os.path.basename(command[0]) == "raylet" and node in (None, flags.get("node_id")):
            return Raylet(process, flags["node_id"], flags["gcs-address"])
    return None


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    with _opener.open(request, timeout=_ANSWER_S) as answer:
        return str(answer.read().decode(errors="replace"))


def _time_of(notice: str) -> float:
    """When the instance goes, of `{"action": "terminate", "time": "2026-01-01T08:22:00Z"}`."""
    try:
        return datetime.fromisoformat(json.loads(notice)["time"]).astimezone(UTC).timestamp()
    except (ValueError, TypeError, KeyError):
        return time.time() + AWS_LEFT_S
