"""A real Slurm of one node on this machine, for tests: munge, MariaDB, slurmdbd, slurmctld and slurmd under one folder.

    python tools/slurm_one_node.py start FOLDER     prints the lines of the environment that clients need
    python tools/slurm_one_node.py stop FOLDER

Needs root and Debian's packages slurm-wlm, munge, slurmdbd and mariadb-server; it installs nothing. Its daemons listen
on ports of their own and on 127.0.0.1 or sockets only. Cluster `kit`, account `kit`, partition `batch`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = {
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "mariadb": "mariadb-client",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "sacctmgr": "slurm-client",
}
WAIT_S = 60.0


def missing() -> str | None:
    """What keeps this machine from running it, in one line; None where nothing does."""
    if os.geteuid() != 0:
        return "the daemons of Slurm need root"
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    packages = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    return f"Debian packages are missing: apt-get install {' '.join(packages)}" if packages else None


def start(folder: Path) -> dict[str, str]:
    """Starts the daemons and waits until the node is idle; returns the clients' environment.

    Raises:
        SystemExit: something is missing or did not start; says what its log ends with.
    """
    reason = missing()
    if reason:
        raise SystemExit(f"error: {reason}")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "pids").exists():
        raise SystemExit(f"error: {folder} has a Slurm already; stop it first")
    for name in ("state", "spool", "db", "munge", "log"):
        (folder / name).mkdir(mode=0o755, exist_ok=True)
    ports = _free_ports(3)
    try:
        _start_munge(folder)
        _start_database(folder)
        _write_configuration(folder, ports)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        _start_slurm(folder)
    except BaseException:
        stop(folder)
        raise
    return {"SLURM_CONF": str(folder / "slurm.conf")}


def stop(folder: Path) -> None:
    """Ends what `start` has started, last first; does nothing where nothing runs."""
    file = folder / "pids"
    if not file.exists():
        return
    if (folder / "slurm.conf").exists():  # jobs first: their processes are not children of the daemons' sessions
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        _succeeds(["scancel", "--user=root"])
        until = time.monotonic() + 20
        while _output(["squeue", "-h"]).strip() and time.monotonic() < until:
            time.sleep(0.2)
    pids = [int(line.split()[0]) for line in reversed(file.read_text().splitlines())]
    for pid in pids:
        _end(pid)
    file.unlink()


def _end(pid: int) -> None:
    for sign, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            return
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:  # started by another process
                if not Path(f"/proc/{pid}").exists():
                    return
            time.sleep(0.05)


def _daemon(folder: Path, name: str, *command: str) -> None:
    """Starts a program in the foreground of its own session, and notes its process."""
    with open(folder / "log" / f"{name}.out", "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    with open(folder / "pids", "a") as file:
        file.write(f"{process.pid} {name}\n")


def _start_munge(folder: Path) -> None:
    place = folder / "munge"
    place.chmod(0o755)
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    options = {
        "key-file": key,
        "socket": folder / "munge.sock",
        "pid-file": place / "munged.pid",
        "log-file": place / "munged.log",
        "seed-file": place / "munged.seed",
    }
    _daemon(
        folder, "munged", "munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in options.items())
    )
    _wait(folder, "munged", lambda: (folder / "munge.sock").exists())


def _start_database(folder: Path) -> None:
    data = folder / "db"
    shutil.chown(data, "mysql", "mysql")
    for parent in (folder, *folder.parents):
        if parent != Path("/") and not os.stat(parent).st_mode & 0o001:
            raise SystemExit(f"error: the user mysql can't enter {parent}; choose a folder that all can enter")
    install = ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db"]
    _call(install, folder, "mariadb-install-db")
    sock = folder / "db" / "mysql.sock"
    _daemon(
        folder,
        "mariadbd",
        "mariadbd",
        "--no-defaults",
        "--user=mysql",
        f"--datadir={data}",
        f"--socket={sock}",
        "--skip-networking",
        f"--pid-file={data}/mariadbd.pid",
        "--innodb-buffer-pool-size=32M",
    )
    client = ["mariadb", "--no-defaults", f"--socket={sock}", "-uroot"]
    _wait(folder, "mariadbd", lambda: _succeeds([*client, "-e", "select 1"]))
    sql = "create database slurm_acct_db; create user 'slurm'@'localhost' identified by 'slurm'; "
    _call([*client, "-e", sql + "grant all on slurm_acct_db.* to 'slurm'@'localhost';"], folder, "mariadb")


def _write_configuration(folder: Path, ports: list[int]) -> None:
    host = socket.gethostname().split(".")[0]
    controller, daemon, database = ports
    sock = folder / "munge.sock"
    cores = len(os.sched_getaffinity(0))
    (folder / "slurm.conf").write_text(f"""\
ClusterName=kit
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={sock}
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
InactiveLimit=0
KillWait=5
MinJobAge=600
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database}
AccountingStoragePass={sock}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=batch Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")
    conf = folder / "slurmdbd.conf"
    conf.touch(mode=0o600)
    conf.write_text(f"""\
AuthType=auth/munge
AuthInfo=socket={sock}
DbdHost=localhost
DbdPort={database}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
""")


def _start_slurm(folder: Path) -> None:
    os.environ["MYSQL_UNIX_PORT"] = str(folder / "db" / "mysql.sock")  # how slurmdbd finds this database
    _daemon(folder, "slurmdbd", "slurmdbd", "-D")
    _wait(folder, "slurmdbd", lambda: _succeeds(["sacctmgr", "-n", "list", "cluster"]))
    for what in (
        ["add", "cluster", "kit"],
        ["add", "account", "kit", "Cluster=kit"],
        ["add", "user", "root", "Account=kit"],
    ):
        _call(["sacctmgr", "-i", *what], folder, "sacctmgr")
    _daemon(folder, "slurmctld", "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
    _daemon(folder, "slurmd", "slurmd", "-D", "-f", str(folder / "slurm.conf"))
    _wait(folder, "slurmctld", lambda: "idle" in _output(["sinfo", "-h", "-o", "%T"]))


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports


def _call(command: list[str], folder: Path, name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (folder / "log" / f"{name}.out").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise SystemExit(f"error: {name} failed: {' '.join((done.stderr or done.stdout).split())[-300:]}")


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except subprocess.TimeoutExpired:
        return ""


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _wait(folder: Path, name: str, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if ready():
            return
        time.sleep(0.2)
    logs = [folder / "log" / f"{name}.log", folder / "log" / f"{name}.out", folder / "munge" / "munged.log"]
    tail = next((path.read_text()[-400:] for path in logs if path.exists() and path.stat().st_size), "")
    raise SystemExit(f"error: {name} was not ready after {WAIT_S:.0f} s: {' '.join(tail.split())}")


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("folder", type=Path, help="where its data, sockets and logs are; all users can enter it")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.action == "stop":
        stop(folder)
        return 0
    for name, value in start(folder).items():
        print(f"export {name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
