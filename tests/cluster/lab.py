"""A lab: hosts made of namespaces on one machine, each with its own network, processes, host name, disk and sshd.

`enter` re-runs a script inside namespaces of its own, where `build` makes hosts and joins them by a bridge. The kernel
removes all of it, processes, interfaces and mounts, when the script ends in whatever way: nothing is left to clean up.

Inside, `/tmp` and `/run` are new and empty but for what is kept in sight, `LAB` is the lab's disk and `SHARED` a folder
that every host sees. A host's `/tmp`, `/run`, `/dev/shm` and home are its own, and it does not see the repository.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LAB = Path("/mnt")
SHARED = LAB / "shared"
KEY = LAB / "keys" / "id_ed25519"
HOME = LAB / "home"  # the desk's, in the lab; a host mounts its own there
BRIDGE_IP = "10.77.0.1"
NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
TOOLS = {
    "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2",
    "/usr/sbin/sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync",
}  # fmt: skip
_INSIDE = "FTPROBE_LAB"

_HOST = """
set -e
trap '' HUP
until ip link show eth0 > /dev/null 2>&1; do sleep 0.1; done
hostname $NAME
ip link set lo up
ip addr add $IP/24 dev eth0
ip link set eth0 up
ip route add default via 10.77.0.1
mount -t tmpfs host $HOME
mount -t tmpfs shm /dev/shm
for i in ${!KEEP[@]}; do mkdir -p /mnt/keep/$i; mount --bind ${KEEP[i]} /mnt/keep/$i; done
mount -t tmpfs tmp /tmp
for folder in ${HIDE[@]}; do test ! -d $folder || mount -t tmpfs none $folder; done
for i in ${!KEEP[@]}; do mkdir -p ${KEEP[i]}; mount --bind /mnt/keep/$i ${KEEP[i]}; done
mount -t tmpfs run /run
mkdir -p /run/sshd $HOME/.ssh $HOME/.ray
cp -r /mnt/skeleton/. $HOME/
cp /mnt/keys/id_ed25519.pub $HOME/.ssh/authorized_keys
chmod -R go= $HOME
/usr/sbin/sshd -D -E /tmp/sshd.log -f /mnt/keys/sshd_config &
touch /mnt/up/$NAME
wait
"""


class Host(NamedTuple):
    """A host that is up: its name, address, and the process whose namespaces are its own."""

    name: str
    ip: str
    process: subprocess.Popen[bytes]


def missing() -> str:
    """Why no lab can be built here, or an empty string."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for namespaces"
    absent = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if absent:
        return f"needs {', '.join(sorted(absent))}: apt-get install {' '.join(sorted(absent))}"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "sh", "-c", "ip link add trial type bridge && mount -t tmpfs x /mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


def enter() -> None:
    """Return inside the lab's namespaces: the first call runs this script there anew, and exits with its code.

    If this process dies in whatever way, so does all that runs in the lab.
    """
    if os.environ.get(_INSIDE):
        _furnish()
        return
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, sys.executable, *sys.argv]
    sys.exit(subprocess.run(command, env={**os.environ, _INSIDE: "1"}, check=False).returncode)


def build(names: Sequence[str], *, keep: Sequence[Path], hide: Sequence[Path]) -> list[Host]:
    """Hosts with these names, at 10.77.0.11 and on, with sshd running.

    Parameters
    ----------
    keep : paths
        What a host must see though it lies below `/tmp` or a hidden folder: the Python environment.
    hide : paths
        What a host must not see: the repository.
    """
    _keys()
    hosts = [_start(name, f"10.77.0.{11 + i}", keep, hide) for i, name in enumerate(names)]
    for i, host in enumerate(hosts):
        _plug(host, f"veth{i}")
    for host in hosts:
        _await(lambda host=host: (LAB / "up" / host.name).exists() and _answers(host.ip), f"sshd of {host.name}", host)
    return hosts


def run_on(host: Host, command: str) -> str:
    """What a shell command prints in the host's namespaces, outside of ssh."""
    inside = _children(host.process.pid)[0]
    argv = ["nsenter", "--target", str(inside), "--net", "--pid", "--mount", "--uts", "--ipc", "bash", "-c", command]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def run_here(command: str) -> None:
    """Run a shell command in the lab, and raise where it fails."""
    subprocess.run(["bash", "-ec", command], check=True)


def below_cover(paths: Sequence[Path], covers: Sequence[Path]) -> list[Path]:
    """The paths that mounting over the covers would hide, outermost first."""
    return sorted({p for p in paths if any(p.is_relative_to(cover) for cover in covers) and p not in covers})


def _furnish() -> None:
    """The lab's own disk, `/tmp`, network and home."""
    keep = below_cover([Path(p) for p in os.environ["FTPROBE_LAB_KEEP"].split(":")], [Path("/tmp"), Path("/run")])
    run_here("mount -t tmpfs lab /mnt")
    for folder in ("keep-lab", "keep", "shared", "keys", "up", "skeleton", "home"):
        (LAB / folder).mkdir()
    for i, path in enumerate(keep):
        run_here(f"mkdir {LAB}/keep-lab/{i} && mount --bind {path} {LAB}/keep-lab/{i}")
    run_here("mount -t tmpfs tmp /tmp && mount -t tmpfs run /run")
    for i, path in enumerate(keep):
        run_here(f"mkdir -p {path} && mount --bind {LAB}/keep-lab/{i} {path}")
    run_here("hostname desk && ip link set lo up && ip link add hosts type bridge && ip link set hosts up")
    run_here(f"ip addr add {BRIDGE_IP}/24 dev hosts")
    (LAB / "passwd").write_text(
        f"root:x:0:0:root:{HOME}:/bin/bash\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    run_here(f"mount --bind {LAB}/passwd /etc/passwd")
    os.environ["HOME"] = str(HOME)


def _keys() -> None:
    KEY.parent.mkdir(exist_ok=True)
    run_here(f"ssh-keygen -q -t ed25519 -N '' -f {KEY} && ssh-keygen -q -t ed25519 -N '' -f {KEY.parent}/host")
    (KEY.parent / "sshd_config").write_text(
        f"HostKey {KEY.parent}/host\nPermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\n"
        "PidFile none\nPrintLastLog no\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
    )


def _start(name: str, ip: str, keep: Sequence[Path], hide: Sequence[Path]) -> Host:
    shown = below_cover(keep, [Path("/tmp"), Path("/run"), *hide])
    lists = f"KEEP=({' '.join(map(str, shown))})\nHIDE=({' '.join(map(str, hide))})\n"
    argv = ["unshare", *NAMESPACES, "bash", "-c", f"NAME={name}\nIP={ip}\n{lists}{_HOST}"]
    clean = {"HOME": str(HOME), "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    return Host(name, ip, subprocess.Popen(argv, env=clean, stdin=subprocess.DEVNULL))


def _plug(host: Host, cable: str) -> None:
    """A veth pair from the bridge to the host's own network namespace."""
    own = os.readlink("/proc/self/ns/net")
    _await(lambda: os.readlink(f"/proc/{host.process.pid}/ns/net") != own, "a network namespace", host)
    run_here(f"ip link add {cable} type veth peer name eth0 netns {host.process.pid}")
    run_here(f"ip link set {cable} master hosts && ip link set {cable} up")


def _await(ready: object, what: str, host: Host) -> None:
    until = time.monotonic() + 30
    while not ready():  # type: ignore[operator]
        if time.monotonic() > until or host.process.poll() is not None:
            raise RuntimeError(f"{host.name}: {what} did not come up")
        time.sleep(0.05)


def _answers(ip: str) -> bool:
    try:
        with socket.create_connection((ip, 22), timeout=1):
            return True
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
