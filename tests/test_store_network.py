"""The store on S3 (a real server process) behind a real proxy that breaks requests: what is kept, and what is said."""

from __future__ import annotations

import http.client
import importlib.util
import math
import os
import pickle
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

import ftprobe
from ftprobe.api import Summary
from ftprobe.errors import StoreError
from ftprobe.store import Store
from ftprobe.store.patience import Patience
from ftprobe.store.remote import RemoteVolume
from ftprobe.study import parse_study

ID = "0" * 32
FILES = {"a.bin": b"first" * 1000, "deep/b.bin": b"second" * 1000, "empty": b""}
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG"
ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>as the test asked</Message></Error>'
ANSWERS = {"503": "SlowDown", "500": "InternalError", "429": "TooManyRequests", "403": "AccessDenied"}
PASSING = ("503", "500", "429", "reset", "cut", "lost", "slow", "trickle")
STORE = """
import pickle, sys
store = pickle.loads(bytes.fromhex(sys.argv[1]))
import pyarrow.fs

def publish(id, mark):
    with store.workdir() as folder:
        for name in ("a.bin", "deep/b.bin"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(mark.encode() * 5000)
        store.publish("probe", id, folder, {"mark": mark})

print("ready", flush=True)
sys.stdin.readline()
"""
PUBLISH = "for id in sys.argv[3:]: publish(id, sys.argv[2])"
FETCH = 'print(sum(len(path.read_bytes()) for path in store.fetch("probe", sys.argv[2]).glob("*.bin")))'

Fault = Callable[[str, str], str]  # method and path of a request -> what befalls it, "" for nothing


def healthy(method: str, path: str) -> str:
    return ""


def broken(method: str, path: str) -> str:
    return "reset"


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a server, as `fault` lets it."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.fault: Fault = healthy
        self.requests: list[tuple[str, str]] = []
        self.injected: list[str] = []
        self.sent_bytes = 0

    def handle_error(self, request: object, address: object) -> None:
        """Clients that hang up are expected here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def relay(self) -> None:
        data = self.body()
        self.server.requests.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path)
        if fault:
            self.server.injected.append(fault)
        if fault == "slow":
            time.sleep(0.2)
        if fault == "reset":
            self.hang_up()
        elif fault in ANSWERS:
            self.answer(int(fault), {}, ERROR.format(ANSWERS[fault]).encode())
        else:
            self.answer(*self.ask(data), fault=fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = relay

    def body(self) -> bytes:
        """A request's body; of one in chunks, the chunks as they came."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while True:
            line = self.rfile.readline()
            size = int(line, 16)
            data += line + self.rfile.read(size + 2)
            if not size:
                return data

    def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "expect":
                upstream.putheader(name, value)
        upstream.endheaders(data)
        response = upstream.getresponse()
        body = response.read()
        upstream.close()
        return response.status, dict(response.getheaders()), body

    def answer(self, status: int, headers: dict[str, str], body: bytes, fault: str = "") -> None:
        if fault == "lost":
            self.hang_up()
            return
        self.send_response_only(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
        kept = {k: v for k, v in headers.items() if k not in ("Content-Length", "Connection", "Transfer-Encoding")}
        for name, value in {**kept, "Content-Length": length or "0"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.server.sent_bytes += len(body)
            end = len(body) // 2 if fault == "cut" else len(body)
            step = end // 5 + 1 if fault == "trickle" else end + 1
            for start in range(0, end, step):
                time.sleep(0.02 if start else 0.0)
                self.wfile.write(body[start : min(start + step, end)])
        if fault == "cut":
            self.hang_up()

    def hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


@pytest.fixture(scope="module")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An S3 server in a process of its own."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto[server]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with open(tmp_path_factory.mktemp("s3") / "log", "wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def proxy(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A way to that server, and a cache of the test's own."""
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    running = Proxy(s3_port)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def url(proxy: Proxy, tmp_path: Path) -> str:
    """A folder in a bucket of the test's own."""
    bucket = f"b{abs(hash(tmp_path)):x}"
    connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream)
    connection.request("PUT", f"/{bucket}")
    assert connection.getresponse().status == 200
    connection.close()
    return s3_url(bucket, proxy.server_address[1])


def s3_url(bucket: str, port: int) -> str:
    secret = SECRET.replace("/", "%2F")
    options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    return f"s3://{KEY}:{secret}@{bucket}/folder?{options}"


def volume(store: Store) -> RemoteVolume:
    assert isinstance(store.volume, RemoteVolume)
    return store.volume


def publish(store: Store, id: str = ID, files: dict[str, bytes] = FILES, **manifest: object) -> None:
    with store.workdir() as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        store.publish("probe", id, folder, manifest)


def contents(folder: Path, names: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def started(store: Store, script: str, *arguments: str) -> subprocess.Popen[str]:
    """A child that has the store and waits for the word."""
    command = [sys.executable, "-c", STORE + script, pickle.dumps(store).hex(), *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def marks(store: Store) -> dict[str, str]:
    """The mark of every artifact that exists, each file of which must bear it."""
    found = {}
    for stage, id in store.existing(store.artifacts()):
        folder, mark = store.fetch(stage, id), store.manifest(stage, id)["mark"]
        for name in ("a.bin", "deep/b.bin"):
            assert (folder / name).read_bytes() == mark.encode() * 5000
        found[id] = mark
    return found


def test_s3_holds_what_is_published_until_it_is_removed(url: str) -> None:
    store = Store.open(url)
    publish(store, name="bert/cola")
    again = pickle.loads(pickle.dumps(store))
    assert again.manifest("probe", ID)["name"] == "bert/cola"
    assert contents(again.fetch("probe", ID)) == FILES
    assert again.existing([("probe", ID), ("probe", "1" * 32)]) == {("probe", ID)}
    store.record_failure("t", {"error": "boom"})
    store.write_log("t", "text")
    store.save_study("s", {"n": 1})
    assert again.failures() == {"t": {"error": "boom"}}
    assert again.studies() == {"s": {"n": 1}}
    store.clear_failure("t")
    store.remove("probe", ID)
    assert not again.exists("probe", ID)
    assert again.failures() == {}


def test_listings_of_more_than_a_thousand_keys_are_whole(url: str) -> None:
    store = Store.open(url)
    held = {("probe", f"{i:032x}") for i in range(1_010)}
    empty = b'{"files": {}}'
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: volume(store).write(f"artifacts/probe/{key[1]}/manifest.json", empty), held))
    assert set(store.artifacts()) == held
    late = {("probe", f"{i:032x}") for i in range(970, 1_010)}
    assert store.existing(late | {("probe", "f" * 32)}) == late


def test_faults_of_the_network_are_not_seen(proxy: Proxy, url: str) -> None:
    chance, lock = random.Random(0), threading.Lock()

    def fault(method: str, path: str) -> str:
        with lock:
            return chance.choice(PASSING) if chance.random() < 0.3 else ""

    store = Store.open(url)
    proxy.fault = fault
    for i in range(8):
        publish(store, f"{i:032x}", {"x.bin": bytes([i]) * 100_000, "y.bin": b"y"}, i=i)
    for i in range(8):
        assert (store.fetch("probe", f"{i:032x}") / "x.bin").read_bytes() == bytes([i]) * 100_000
    assert len(store.existing(store.artifacts())) == 8
    assert set(proxy.injected) == set(PASSING)
    assert len(proxy.injected) > 30


def test_large_files_travel_in_parts_through_faults(proxy: Proxy, url: str) -> None:
    chance, lock = random.Random(1), threading.Lock()

    def fault(method: str, path: str) -> str:
        with lock:
            return chance.choice(PASSING) if chance.random() < 0.2 else ""

    store, data = Store.open(url), random.Random(0).randbytes(24_000_000)
    proxy.fault = fault
    publish(store, ID, {"x.bin": data})
    assert (store.fetch("probe", ID) / "x.bin").read_bytes() == data
    assert sum(method == "PUT" and "partNumber" in path for method, path in proxy.requests) >= 3
    assert sum(method == "GET" and path.partition("?")[0].endswith("x.bin") for method, path in proxy.requests) >= 3
    assert proxy.injected


def test_an_outage_is_waited_out(
    proxy: Proxy, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftprobe.store.patience._TELL_AFTER_S", 1.0)
    store = Store.open(url)
    begun = 0.0

    def fault(method: str, path: str) -> str:
        return "reset" if "artifacts" in path and time.monotonic() - begun < 5.0 else ""

    begun, proxy.fault = time.monotonic(), fault
    publish(store)
    assert time.monotonic() - begun >= 5.0
    assert contents(store.fetch("probe", ID)) == FILES
    (told,) = caplog.messages
    assert told.startswith(f"no answer about {store.url}/artifacts/probe/{ID}")
    assert SECRET not in told


def test_a_longer_outage_is_said_once_and_leaves_nothing_half(proxy: Proxy, url: str) -> None:
    store = Store.open(url)
    publish(store, "1" * 32)
    volume(store).patience = Patience(1.0)
    uploads = 0

    def fault(method: str, path: str) -> str:
        nonlocal uploads
        uploads += method == "PUT"
        return "reset" if uploads > 1 else ""

    proxy.fault = fault
    with pytest.raises(
        StoreError, match=r"cannot publish s3://b.*/folder/artifacts.* \(tried .* times in .* s\); check"
    ) as said:
        publish(store)
    assert not {KEY, SECRET, "wJalr"} & set(str(said.value).replace("/", " ").split())
    assert "\n" not in str(said.value)
    begun, requests = time.monotonic(), len(proxy.requests)
    with pytest.raises(StoreError, match=r"cannot write .*/failures/t\.json.*tried 1 times"):
        store.record_failure("t", {})
    assert len(proxy.requests) - requests <= 4, "an outage that was waited for is not waited for again"
    assert time.monotonic() - begun < 10
    proxy.fault = healthy
    assert store.existing([("probe", ID), ("probe", "1" * 32)]) == {("probe", "1" * 32)}
    publish(store)
    assert contents(store.fetch("probe", ID)) == FILES


def test_a_manifest_whose_answer_was_lost_has_its_files(proxy: Proxy, url: str) -> None:
    """The writer cannot know; had it cleaned up, readers would see an artifact without files."""
    store = Store.open(url)
    volume(store).patience = Patience(0.5)
    arrived = False

    def fault(method: str, path: str) -> str:
        nonlocal arrived
        if arrived:
            return "reset"
        arrived = method == "PUT" and path.partition("?")[0].endswith("manifest.json")
        return "lost" if arrived else ""

    proxy.fault = fault
    with pytest.raises(StoreError, match=r"cannot write .*manifest\.json"):
        publish(store)
    proxy.fault = healthy
    assert store.exists("probe", ID)
    assert contents(store.fetch("probe", ID)) == FILES


def test_what_repeating_cannot_help_is_said_at_once(proxy: Proxy, url: str) -> None:
    store = Store.open(url)
    proxy.fault = lambda method, path: "403"
    before = len(proxy.requests)
    with pytest.raises(
        StoreError, match=r"cannot write s3://.*/studies/s\.json: .*ACCESS_DENIED.*; check .*credentials"
    ):
        store.save_study("s", {})
    assert len(proxy.requests) == before + 1
    proxy.fault = healthy
    with pytest.raises(StoreError, match=r"s3://none/folder/tmp/.*NO_SUCH_BUCKET"):
        Store.open(s3_url("none", proxy.server_address[1]))


def test_a_server_that_is_not_there_is_said_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path))
    monkeypatch.setattr("ftprobe.store.remote._OPENING_LIMIT_S", 0.5)
    with pytest.raises(StoreError, match=r"cannot write s3://bucket/folder/tmp/.*Could not connect.*tried") as said:
        Store.open(s3_url("bucket", 1))
    assert SECRET not in str(said.value)


def test_a_writer_killed_before_each_of_its_requests_leaves_nothing_half_visible(proxy: Proxy, url: str) -> None:
    store = Store.open(url)
    children: dict[str, subprocess.Popen[str]] = {}
    counts: dict[str, int] = {}

    def fault(method: str, path: str) -> str:
        (id,) = re.findall(r"step\d\d", path)[:1]
        counts[id] = counts.get(id, 0) + 1
        if counts[id] == int(id[-2:]):
            children[id].send_signal(signal.SIGKILL)
            children[id].wait()
            return "reset"
        return ""

    def attempt(step: int) -> int:
        child = children[f"step{step:02d}"] = started(store, PUBLISH, "K", f"step{step:02d}")
        go(child)
        child.communicate(timeout=60)
        return child.returncode

    proxy.fault = fault
    assert attempt(99) == 0
    n_requests = counts["step99"]
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(attempt, range(1, n_requests + 1))) == {-signal.SIGKILL}
    proxy.fault = healthy
    seen = marks(store)
    assert 1 < len(seen) < n_requests
    for step in range(1, n_requests + 1):
        publish(store, f"step{step:02d}", {"a.bin": b"S" * 5000, "deep/b.bin": b"S" * 5000}, mark="S")
    assert marks(store) == {id: "K" if id in seen else "S" for id in children}


def test_two_writers_of_one_id_are_harmless(url: str) -> None:
    store, ids = Store.open(url), [f"{i:032x}" for i in range(8)]
    children = [started(store, PUBLISH, mark, *ids) for mark in "AB"]
    for child in children:
        go(child)
    for child in children:
        child.communicate(timeout=60)
    assert [child.returncode for child in children] == [0, 0]
    found = marks(store)
    assert set(found) == set(ids)
    assert set(found.values()) <= {"A", "B"}


def test_processes_of_one_machine_download_once(proxy: Proxy, url: str) -> None:
    store = Store.open(url)
    n_bytes = 9_000_000
    publish(store, ID, {f"{i}.bin": os.urandom(n_bytes) for i in range(2)})
    children = [started(store, FETCH, ID) for _ in range(4)]
    before = proxy.sent_bytes
    for child in children:
        go(child)
    assert [child.communicate(timeout=60)[0] for child in children] == [f"{2 * n_bytes}\n"] * 4
    assert 2 * n_bytes <= proxy.sent_bytes - before < 2 * n_bytes + 50_000


def test_a_killed_download_is_taken_over(proxy: Proxy, url: str, tmp_path: Path) -> None:
    store = Store.open(url)
    publish(store, ID, {"0.bin": b"x" * 1_000_000})
    first, second = (started(store, FETCH, ID) for _ in range(2))
    asked = threading.Event()

    def fault(method: str, path: str) -> str:
        if method == "GET" and path.partition("?")[0].endswith("0.bin") and not asked.is_set():
            asked.set()
            first.wait()
            return "reset"
        return ""

    proxy.fault = fault
    go(first)
    assert asked.wait(30)
    go(second)
    time.sleep(0.3)
    assert second.poll() is None
    first.kill()
    assert second.communicate(timeout=60)[0] == "1000000\n"
    first.communicate()


@pytest.mark.parametrize(
    "url",
    [
        f"s3://{KEY}:{SECRET.replace('/', '%2F')}@/folder",
        f"s3://{KEY}:{SECRET.replace('/', '%2F')}@bucket/folder?secret_key={SECRET}",
        f"s3://{KEY}:{SECRET.replace('/', '%2F')}@bucket/folder?endpoint_override=h&scheme=nonsense",
        f"gs://{KEY}:{SECRET.replace('/', '%2F')}@bucket/folder?token={SECRET}&unknown=1",
        f"nowhere://{KEY}:{SECRET.replace('/', '%2F')}@host/folder?token={SECRET}",
        f"nowhere://{KEY}:{SECRET}@host/folder",
        f"s3://{KEY}:{SECRET}@bucket/folder",
    ],
)
def test_no_message_shows_credentials(url: str) -> None:
    with pytest.raises(StoreError) as said:
        Store.open(url)
    text = "".join(traceback.format_exception(said.value))
    shown = text[text.rindex("StoreError: ") :]
    for secret in (KEY, SECRET, SECRET.replace("/", "%2F"), SECRET.rpartition("/")[2]):
        assert secret not in shown
    assert said.value.__cause__ is None


def test_a_filesystem_that_can_only_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path))
    with pytest.raises(
        StoreError, match=r"cannot write http://127\.0\.0\.1:1/x: its filesystem cannot do that"
    ) as said:
        Store.open(f"http://{KEY}:{SECRET.replace('/', '%2F')}@127.0.0.1:1/x")
    assert KEY not in str(said.value)


def test_options_of_a_url_are_checked() -> None:
    with pytest.raises(StoreError, match=r"cannot open the store s3://bucket: unknown option regoin; one of: region, "):
        Store.open("s3://bucket?regoin=x")


def test_the_endpoint_may_come_from_the_environment(proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = url.rpartition("@")[2].partition("/")[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    store = Store.open(f"s3://{bucket}/folder")
    publish(store)
    assert Store.open(url).exists("probe", ID)
    assert SECRET.encode() not in pickle.dumps(store)


def test_a_google_bucket_opens_without_asking_for_it() -> None:
    """Only that: there is no server here that speaks its protocol."""
    opened = RemoteVolume.at("gs://anonymous@bucket/folder")
    assert (opened.filesystem.type_name, opened.base, opened.url) == ("gcs", "bucket/folder", "gs://bucket/folder")


@pytest.mark.slow
def test_a_study_outlives_an_outage_and_ends_clearly_in_a_longer_one(
    proxy: Proxy, url: str, minilm: str, tmp_path: Path
) -> None:
    """The command again makes what is missing, nothing twice, and the records are those of an undisturbed run."""
    study = parse_study(
        {
            "name": "network",
            "models": {"minilm": {"checkpoint": minilm}},
            "probe": [
                {
                    "task": ["word_order@grammar", "acceptability@grammar"],
                    "pooling": ["cls", "mean"],
                    "train_items": 60,
                    "dev_items": 20,
                    "test_items": 20,
                    "probe": {"kind": "linear", "strength": [1.0e-2]},
                }
            ],
        }
    )
    away = {"activations": 2.0, "probe": math.inf}  # seconds without an answer once a first one has been published
    since: dict[str, float] = {}

    def fault(method: str, path: str) -> str:
        now = time.monotonic()
        if any(now - begun < away[stage] for stage, begun in since.items()):
            return "reset"
        for stage in away:
            if method == "PUT" and f"/artifacts/{stage}/" in path and path.partition("?")[0].endswith("manifest.json"):
                since.setdefault(stage, now)
        return ""

    def run(store: Store) -> Summary:
        return ftprobe.run(study, store=store, offline=True, inline=True, device="cpu", threads=1)

    store = Store.open(url)
    volume(store).patience = Patience(4.0)
    proxy.fault = fault
    try:
        said = run(store).stopped
    except StoreError as error:  # it went away between two packs
        said = str(error)
    proxy.fault = healthy
    assert set(since) == set(away)
    assert re.search(r"cannot .* s3://b.*/folder/.* \(tried \d+ times in \d+ s\); check", said)
    assert store.failures() == {}
    before = {stage: [i for s, i in store.artifacts() if s == stage] for stage in ("activations", "probe")}
    assert (len(before["activations"]), len(before["probe"])) == (4, 1)
    again = run(store)
    assert again.counts["activations"] == {"reused": 4}
    assert again.counts["probe"] == {"reused": 1, "done": 3}
    assert run(Store.open(tmp_path / "undisturbed")).started == 8
    tables = [ftprobe.records(study, store=place).collect() for place in (store, tmp_path / "undisturbed")]
    assert tables[0].height > 50
    assert_frame_equal(*(table.sort(table.columns) for table in tables), check_exact=True)
