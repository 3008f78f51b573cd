"""The cluster files: Ray's own code accepts them, and what they promise of spending and of safety is in them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("jsonschema", reason="needs ray[default]: pip install 'ftprobe[cluster]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

REPO = Path(__file__).resolve().parent.parent
CLUSTERS = REPO / "docs" / "clusters"
LAUNCHED = {"aws": REPO / "cluster.yaml", "gcp": CLUSTERS / "gcp.yaml", "local": CLUSTERS / "onprem.yaml"}
CLOUDS = ("aws", "gcp")
OTHERS = (CLUSTERS / "slurm.sbatch", CLUSTERS / "rayjob.yaml", CLUSTERS / "Dockerfile", REPO / "docs" / "cluster.md")
SECRETS = {
    "an AWS access key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "an AWS secret": r"(?i)aws_?secret_?access_?key['\"]?\s*[=:]\s*['\"]?[A-Za-z0-9/+]{40}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a token": r"(?i)\b(RAY_AUTH_TOKEN|HF_TOKEN|auth_token|password)['\"]?\s*[=:]\s*['\"]?[A-Za-z0-9_]{16,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a long hexadecimal string": r"\b[0-9a-f]{64}\b",
}


def document(kind: str) -> dict[str, Any]:
    return dict(yaml.safe_load(LAUNCHED[kind].read_text()))


def commands(kind: str, which: str) -> str:
    return "\n".join(document(kind)[which])


@pytest.mark.parametrize("kind", LAUNCHED)
def test_ray_accepts_it(kind: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(document(kind))
    validate_config(prepared)
    assert prepared["cluster_name"] == "ftprobe"
    assert prepared["available_node_types"][prepared["head_node_type"]].get("max_workers", 0) >= 0
    assert prepared["head_start_ray_commands"] == document(kind)["head_start_ray_commands"]


def test_ray_refuses_what_the_schema_does_not_know() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    broken = {**document("aws"), "max_worker": 3}
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("kind", LAUNCHED)
def test_the_head_runs_no_trial(kind: str) -> None:
    start = document(kind)["head_start_ray_commands"][-1]
    assert "--num-cpus=0 --num-gpus=0" in start
    if kind in CLOUDS:
        head = document(kind)["available_node_types"]["head"]
        assert head["resources"]["CPU"] == 0
        assert "InstanceMarketOptions" not in head["node_config"], "a head that is taken away ends the run"
        assert "scheduling" not in head["node_config"]


@pytest.mark.parametrize("kind", LAUNCHED)
def test_the_dashboard_listens_on_localhost_only(kind: str) -> None:
    start = document(kind)["head_start_ray_commands"][-1]
    assert re.findall(r"--dashboard-host[= ](\S+)", start) == ["127.0.0.1"]
    assert "--dashboard-host" not in commands(kind, "worker_start_ray_commands")


@pytest.mark.parametrize("kind", LAUNCHED)
def test_every_node_starts_ray_with_its_token(kind: str) -> None:
    for which in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in document(kind)[which] if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command.split("ray start")[0] for command in starts)
    assert document(kind)["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    setup = commands(kind, "setup_commands")
    assert "chmod 600 ~/.ray/auth_token" in setup
    assert re.search(r"export [^\n]*RAY_AUTH_MODE=token", setup), "`ray exec` and the driver must know the mode too"


@pytest.mark.parametrize("kind", LAUNCHED)
def test_nodes_get_the_pinned_project_and_the_files_it_needs(kind: str) -> None:
    mounts = document(kind)["file_mounts"]
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    packages = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]
    needed = {"ftprobe", *packages["package-dir"].values(), "pyproject.toml", "constraints.txt", project["readme"]}
    assert needed | set(project["license-files"]) <= {mounts.get(f"~/ftprobe/{name}") for name in mounts.values()}
    assert all((REPO / source).exists() for source in mounts.values() if not source.startswith("~"))
    install = next(c for c in document(kind)["setup_commands"] if "-e ~/ftprobe" in c)
    assert "-c ~/ftprobe/constraints.txt" in install
    (extras,) = re.findall(r"~/ftprobe'?\[([a-z,]+)\]", install)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "cluster" in extras
    setup = commands(kind, "setup_commands")
    assert "--torch-backend=auto" in setup or ("nvidia-smi" in setup and "whl/cpu" in setup), "CUDA or CPU by node"


def test_a_pinned_torch_is_the_one_of_the_constraints() -> None:
    (pinned,) = re.findall(r"^torch==(\S+)$", (REPO / "constraints.txt").read_text(), re.M)
    for path in (LAUNCHED["local"], CLUSTERS / "Dockerfile"):
        assert re.findall(r"torch==(\d[\d.]+\d)", path.read_text()) == [pinned], path


@pytest.mark.parametrize("kind", CLOUDS)
def test_workers_are_spot_come_on_demand_and_go_when_idle(kind: str) -> None:
    cluster = document(kind)
    workers = {name: t for name, t in cluster["available_node_types"].items() if name != "head"}
    assert set(workers) == {"gpu", "cpu"}
    assert workers["gpu"]["resources"]["GPU"] >= 1
    assert "GPU" not in workers["cpu"]["resources"]
    for worker in workers.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= cluster["max_workers"]
        node = worker["node_config"]
        spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot or node.get("scheduling", {}).get("provisioningModel") == "SPOT"
    assert 0 < cluster["idle_timeout_minutes"] <= 10
    assert cluster["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("kind", CLOUDS)
def test_spot_workers_watch_for_the_notice_and_the_head_does_not(kind: str) -> None:
    *_, start, watch = document(kind)["worker_start_ray_commands"]
    assert "ray start" in start, "the watch looks for the node that it started"
    assert re.fullmatch(r"RAY_AUTH_MODE=token setsid (ftprobe spot-watch) > \S+ 2>&1 < /dev/null &", watch)
    assert "spot-watch" not in commands(kind, "head_start_ray_commands")
    asked = subprocess.run(
        [sys.executable, "-m", "ftprobe.cli", "spot-watch", "--help"], capture_output=True, text=True, check=True
    )
    assert "notice" in asked.stdout


def test_aws_nodes_reach_s3_by_their_role() -> None:
    for name, node_type in document("aws")["available_node_types"].items():
        node = node_type["node_config"]
        assert node["IamInstanceProfile"]["Name"] == ("ftprobe-head" if name == "head" else "ftprobe-worker")
        assert node["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(device["Ebs"]["Encrypted"] for device in node["BlockDeviceMappings"])


@pytest.mark.parametrize("path", [*LAUNCHED.values(), *OTHERS], ids=lambda path: path.name)
def test_no_secret_is_in_it(path: Path) -> None:
    text = path.read_text()
    for what, pattern in SECRETS.items():
        found = re.search(pattern, text)
        assert found is None, f"{path.name} holds {what}: {found and found[0]}"
    for kind in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "trust_remote_code: true"):
        assert kind not in text


@pytest.mark.parametrize(
    "line",
    [
        "aws_secret_access_key = abcdefghijABCDEFGHIJ0123456789/+abcdefgh",
        "key: AKIAABCDEFGHIJKLMNOP",
        "- export RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_the_search_for_secrets_finds_planted_ones(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in SECRETS.values())


def test_the_batch_script_is_bash_and_starts_one_ray_a_node() -> None:
    script = CLUSTERS / "slurm.sbatch"
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n")
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", text, re.M))
    assert directives["ntasks-per-node"] == "1"
    assert int(directives["nodes"]) > 1
    assert "set -euo pipefail" in text
    assert "RAY_AUTH_MODE=token" in text.split("srun")[0]
    assert re.search(r"ray symmetric-run --address .* --min-nodes \"\$SLURM_JOB_NUM_NODES\"", text)
    assert "-- ftprobe run " in text


def test_symmetric_run_takes_the_script_s_options() -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    line = (CLUSTERS / "slurm.sbatch").read_text().split("ray symmetric-run ")[1].split(" -- ")[0]
    options = line.replace("\\\n", " ").replace('"', "").split()
    kept = curate_and_validate_ray_start_args(options)
    assert [option.split("=")[0] for option in kept] == ["--num-cpus", "--num-gpus"]


def test_the_ray_job_has_what_kuberay_requires() -> None:
    job = yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("ftprobe run ")
    assert "--address auto" in spec["entrypoint"]
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (ray,) = re.findall(r"^ray==(\S+)$", (REPO / "constraints.txt").read_text(), re.M)
    assert cluster["rayVersion"] == ray
    assert cluster["enableInTreeAutoscaling"] is True
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["serviceType"] == "ClusterIP"
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"gpu", "cpu"}
    for group in [head, *groups.values()]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == "REGISTRY/ftprobe:0.1.0"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in groups.values())
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_the_image_has_every_file_that_the_cluster_file_syncs() -> None:
    copied = " ".join(re.findall(r"^COPY --chown=ray (.*)$", (CLUSTERS / "Dockerfile").read_text(), re.M)).split()
    synced = [source for source in document("aws")["file_mounts"].values() if not source.startswith("~")]
    assert set(synced) <= set(copied)


def test_s3_takes_the_lifecycle_rule_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto", reason="needs moto: pip install 'ftprobe[dev]'")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    text = (REPO / "docs" / "cluster.md").read_text()
    (rules,) = re.findall(r"--lifecycle-configuration '(\{.*?\})'", text, re.S)
    with moto.mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="studies")
        s3.put_bucket_lifecycle_configuration(Bucket="studies", LifecycleConfiguration=json.loads(rules))
        (rule,) = s3.get_bucket_lifecycle_configuration(Bucket="studies")["Rules"]
    assert (rule["Status"], rule["AbortIncompleteMultipartUpload"]) == ("Enabled", {"DaysAfterInitiation": 2})
    assert "Expiration" not in rule, "nothing that is finished may go"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """cluster.yaml as `ray up` completes it, in an account that moto simulates, which has no images to look up."""
    moto = pytest.importorskip("moto", reason="needs moto: pip install 'ftprobe[dev]'")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    (tmp_path / ".ssh").mkdir()
    from ray.autoscaler._private.aws import config as aws_config
    from ray.autoscaler._private.aws.utils import resource_cache
    from ray.autoscaler._private.util import prepare_config

    with moto.mock_aws():
        resource_cache.cache_clear()
        prepared = copy.deepcopy(prepare_config(document("aws")))
        for node_type in prepared["available_node_types"].values():
            node_type["node_config"]["ImageId"] = "ami-12c6146b"
        yield aws_config.bootstrap_aws(prepared)
        resource_cache.cache_clear()


def test_on_a_simulated_account_the_workers_are_spot_instances_with_the_bucket_s_role(aws: dict[str, Any]) -> None:
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    iam = boto3.client("iam")
    for name in ("ftprobe-head", "ftprobe-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    provider = AWSNodeProvider(aws["provider"], aws["cluster_name"])
    for kind, node_type in aws["available_node_types"].items():
        provider.create_node(node_type["node_config"], {"ray-user-node-type": kind}, 1)
    ec2 = boto3.client("ec2", region_name=aws["provider"]["region"])
    found = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    by_kind = {next(t["Value"] for t in i["Tags"] if t["Key"] == "ray-user-node-type"): i for i in found}
    assert {kind: i["InstanceType"] for kind, i in by_kind.items()} == {
        "head": "m7i.xlarge", "gpu": "g6.2xlarge", "cpu": "c7i.2xlarge",
    }  # fmt: skip
    assert {kind: i.get("InstanceLifecycle") for kind, i in by_kind.items()} == {
        "head": None, "gpu": "spot", "cpu": "spot",
    }  # fmt: skip
    profiles = {kind: i["IamInstanceProfile"]["Arn"].rpartition("/")[2] for kind, i in by_kind.items()}
    assert profiles == {"head": "ftprobe-head", "gpu": "ftprobe-worker", "cpu": "ftprobe-worker"}
