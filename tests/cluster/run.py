"""A study on a cluster of hosts: `ray up`, the same study over S3, over a shared folder and plainly, then `ray down`.

    python tests/cluster/run.py FOLDER       # needs root on Linux, sshd and rsync; writes facts.json and records there
    python tests/cluster/run.py --missing    # prints what it needs and does not find, and exits with 3
    python tests/cluster/run.py --hosts FOLDER    # only makes the hosts, and keeps them for ten minutes

The hosts are namespaces of this machine (see lab.py), the cluster file is docs/clusters/onprem.yaml with their
addresses and without the installation, the S3 server is moto's. facts.json says what was seen; test_hosts.py judges it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lab
import yaml

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
NAMES = ("head", "worker-1", "worker-2")
S3 = f"http://{lab.BRIDGE_IP}:5000"
STORES = {"s3": "s3://studies/hosts", "shared": str(lab.SHARED / "store")}
# Planted, to be looked for in everything that a run leaves behind.
SECRET_ID, SECRET = "FTPROBELABKEYID00001", "lab/secret/that/must/never/be/written+down"
PLACES = [REPO, Path(sys.prefix), Path(sys.base_prefix), *(Path(p) for p in sys.path if p.endswith("site-packages"))]


def main() -> None:
    """Everything, inside the lab."""
    if "--missing" in sys.argv:
        reason = lab.missing()
        print(reason)
        sys.exit(3 if reason else 0)
    out = Path(sys.argv[-1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["FTPROBE_LAB_KEEP"] = ":".join(map(str, [*PLACES, out]))
    lab.enter()
    _environment()
    _skeleton()
    hosts = lab.build(NAMES, keep=[p for p in PLACES if p != REPO], hide=[REPO])
    if "--hosts" in sys.argv:
        print("up", flush=True)
        time.sleep(600)
    token = _ray("get-auth-token", "--generate").strip()
    config = _cluster_file(hosts)
    plain = _plain(out)
    with _s3_server():
        facts = _study_on(config, hosts, token)
        facts["left"] = _left(hosts)
        if plain.wait():
            sys.exit("the plain run failed")
        for name, store in {**STORES, "plain": str(out / "plain")}.items():
            _ftprobe("records", HERE / "study.yaml", "--store", store, "--out", out / f"{name}.parquet")
    (out / "facts.json").write_text(json.dumps(facts, indent=1))
    print(f"seen in {time.perf_counter():.0f} s: {out}/facts.json")


def _study_on(config: Path, hosts: list[lab.Host], token: str) -> dict[str, Any]:
    """Bring the cluster up, run the study on both stores, look around, and take it down."""
    with _cluster(config):
        facts: dict[str, Any] = {"nodes": _nodes(config, len(hosts)), "refused": _refused(hosts[0])}
        facts["import"] = _on_head(config, "python -c 'import ftprobe; print(ftprobe.__file__)'")
        run = "ftprobe run study.yaml --address auto --offline --store"
        facts["said"] = {name: _on_head(config, f"{run} {store}") for name, store in STORES.items()}
        facts["secrets"] = _places_of([token, SECRET_ID, SECRET], hosts, facts["said"])
        facts["hosts"] = {name: _hosts_of(store) for name, store in STORES.items()}
        facts["status"] = _ftprobe("status", HERE / "study.yaml", "--store", STORES["s3"])
    return facts


def _environment() -> None:
    """The desk's own: as a user's laptop, with credentials in the usual file."""
    os.chdir(REPO)
    os.environ.update(
        PATH=f"{sys.prefix}/bin:{os.environ['PATH']}", PYTHONPATH=str(REPO), AWS_ENDPOINT_URL=S3,
        AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true", OMP_NUM_THREADS="1", RAY_AUTH_MODE="token",
        RAY_USAGE_STATS_ENABLED="0", COLUMNS="200",
    )  # fmt: skip
    _credentials(lab.HOME)


def _skeleton() -> None:
    """What a host's home holds before `ray up`: credentials, and where Python and the S3 server are."""
    _credentials(lab.LAB / "skeleton")
    (lab.LAB / "skeleton" / ".bashrc").write_text(
        f"export AWS_ENDPOINT_URL={S3} AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true\n"
        f"export PATH={sys.prefix}/bin:$PATH OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 COLUMNS=200\n"
    )


def _credentials(home: Path) -> None:
    (home / ".aws").mkdir(exist_ok=True)
    file = home / ".aws" / "credentials"
    file.write_text(f"[default]\naws_access_key_id = {SECRET_ID}\naws_secret_access_key = {SECRET}\n")
    file.chmod(0o600)


def _cluster_file(hosts: list[lab.Host]) -> Path:
    """The documented on-prem file for these hosts: project, token and start commands are its own."""
    document = yaml.safe_load((REPO / "docs" / "clusters" / "onprem.yaml").read_text())
    document["provider"].update(head_ip=hosts[0].ip, worker_ips=[host.ip for host in hosts[1:]])
    document["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.KEY)}
    document["file_mounts"]["~/study.yaml"] = str(HERE / "study.yaml")
    installs = [c for c in document["setup_commands"] if "pip install" in c or "-m venv" in c]
    document["setup_commands"] = [c for c in document["setup_commands"] if c not in installs]
    document["setup_commands"].append("echo 'export PYTHONPATH=~/ftprobe' >> ~/.bashrc")
    document["head_start_ray_commands"][-1] += " --object-store-memory=100000000"
    document["worker_start_ray_commands"][-1] += " --object-store-memory=100000000 --num-cpus=1"
    path = lab.LAB / "cluster.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=1000))
    return path


@contextmanager
def _cluster(config: Path) -> Iterator[None]:
    _ray("up", "--yes", "--no-config-cache", str(config))
    yield
    _ray("down", "--yes", str(config))


@contextmanager
def _s3_server() -> Iterator[None]:
    argv = [sys.executable, "-m", "moto.server", "-H", lab.BRIDGE_IP, "-p", "5000"]
    with open(lab.LAB / "s3.log", "wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log)
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(f"{S3}/studies", method="PUT"), timeout=10).close()
            break
        except OSError:
            if time.monotonic() > until or server.poll() is not None:
                raise
            time.sleep(0.2)
    yield
    server.terminate()


def _plain(out: Path) -> subprocess.Popen[str]:
    """The same study in one process on a local folder, meanwhile."""
    argv = ["run", HERE / "study.yaml", "--inline", "--threads", "1", "--offline", "--store", out / "plain", "-q"]
    return subprocess.Popen([sys.executable, "-m", "ftprobe.cli", *map(str, argv)], text=True)


_NODES = """
import json, time, ray
ray.init(address='auto', log_to_driver=False, logging_level='ERROR')
until = time.time() + 300
while len([n for n in ray.nodes() if n['Alive']]) < WANTED and time.time() < until:
    time.sleep(1)
print(json.dumps({n['NodeManagerHostname']: n['Resources'] for n in ray.nodes() if n['Alive']}))
"""


def _nodes(config: Path, wanted: int) -> dict[str, dict[str, float]]:
    """The nodes' resources once all have come."""
    said = _on_head(config, f'python -c "{_NODES.replace("WANTED", str(wanted))}"')
    (answer,) = [line for line in said.splitlines() if line.startswith("{")]
    return dict(json.loads(answer))


def _refused(head: lab.Host) -> dict[str, str]:
    """What clients without the token, or away from the head, are told."""
    argv = ["run", str(HERE / "study.yaml"), "--address", f"{head.ip}:6379", "--store", str(lab.LAB / "refused")]
    client = [sys.executable, "-m", "ftprobe.cli", *argv]
    ask = "curl -sS -o /dev/null -m 10 -w '%{http_code}'"
    url = "http://127.0.0.1:8265/api/jobs/"
    bearer = f'-H "Authorization: Bearer $(cat {lab.HOME}/.ray/auth_token)"'
    return {
        "no token": _tried(client, RAY_AUTH_MODE="disabled"),
        "wrong token": _tried(client, RAY_AUTH_TOKEN="0" * 64),
        "dashboard without token": lab.run_on(head, f"{ask} {url}"),
        "dashboard with token": lab.run_on(head, f"{ask} {bearer} {url}"),
        "dashboard from outside": _tried(["curl", "-sS", "-m", "10", f"http://{head.ip}:8265/"]),
    }


def _tried(argv: list[str], **environment: str) -> str:
    done = subprocess.run(
        argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    return f"exit {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"


def _hosts_of(store: str) -> list[str]:
    """The host of every trial, from the manifests."""
    sys.path.insert(0, str(REPO))
    from ftprobe.store import Store

    opened = Store.open(store)
    trials = [(stage, id) for stage, id in opened.artifacts() if stage in ("finetune", "activations", "probe")]
    return [str(opened.manifest(*trial)["host"]) for trial in trials]


def _places_of(secrets: list[str], hosts: list[lab.Host], said: dict[str, str]) -> list[str]:
    """Where any of the secrets is: in an object or file of the stores, what was printed, or a log of Ray."""
    from pyarrow.fs import FileSelector, S3FileSystem

    wanted = [secret.encode() for secret in secrets]
    s3 = S3FileSystem(endpoint_override=S3, region="us-east-1")
    objects = [i.path for i in s3.get_file_info(FileSelector("studies", recursive=True)) if i.is_file]
    with ThreadPoolExecutor(16) as pool:
        contents = dict(zip(objects, pool.map(lambda path: s3.open_input_stream(path).read(), objects), strict=True))
    found = [f"s3 {path}" for path, data in contents.items() if any(w in data for w in wanted)]
    files = [p for p in (lab.SHARED / "store").rglob("*") if p.is_file()]
    found += [str(path) for path in files if any(map(path.read_bytes().__contains__, wanted))]
    found += [f"printed by the run over {name}" for name, text in said.items() if any(s in text for s in secrets)]
    for host in hosts:
        patterns = " ".join(f"-e '{secret}'" for secret in secrets)
        found += [
            f"{host.name} {line}"
            for line in lab.run_on(host, f"grep -rlF {patterns} /tmp/ray/session_latest/logs").splitlines()
        ]
    if len(objects) < 20 or len(files) < 20:
        raise RuntimeError(f"too few files to look into: {len(objects)} objects, {len(files)} files")
    return found


def _left(hosts: list[lab.Host]) -> dict[str, str]:
    """Ray's processes after `ray down`: a worker's end once they have missed the head for a minute."""
    left = dict.fromkeys((host.name for host in hosts), "")
    until = time.monotonic() + 120
    while time.monotonic() < until:
        left = {host.name: lab.run_on(host, "pgrep -ax 'raylet|gcs_server'") for host in hosts}
        if not any(left.values()):
            break
        time.sleep(2)
    return left


def _on_head(config: Path, command: str) -> str:
    return _ray("exec", str(config), command)


def _ray(*argv: str) -> str:
    return _checked(["ray", *argv])


def _ftprobe(*argv: object) -> str:
    return _checked([sys.executable, "-m", "ftprobe.cli", *map(str, argv)])


def _checked(argv: list[str]) -> str:
    begun = time.monotonic()
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"[{time.monotonic() - begun:.0f} s] {' '.join(argv)[:150]}", flush=True)
    if done.returncode:
        print(done.stdout)
        sys.exit(f"exit {done.returncode}: {' '.join(argv)}")
    return done.stdout


if __name__ == "__main__":
    main()
