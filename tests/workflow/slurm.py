"""A Slurm of one node on the loopback interface, for as long as a test needs it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PROGRAMS = (*DAEMONS, "sbatch", "srun")
SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
"""Stand in for GPUs, which Slurm accounts for by the files of their devices."""
CONFIGURATION = """\
ClusterName=m2mkd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
SlurmdParameters=config_overrides
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
MinJobAge=3600
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of Debian's packages slurm-wlm and munge that are not there."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Slurm:
    """Controller and node daemon, with a munge of their own; the system's configuration is not touched."""

    def __init__(self, cpus: int, gpus: int):
        # The path of a socket may have no more than 107 characters.
        self.root = Path(tempfile.mkdtemp(prefix="m2mkd-slurm-"))
        self.configuration = self.root / "slurm.conf"
        self.host = socket.gethostname().partition(".")[0]
        self.cpus, self.gpus = cpus, gpus
        self.daemons: list[subprocess.Popen] = []

    def within(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Variables with which Slurm's commands find this cluster, before and in a job."""
        return {**environment, "SLURM_CONF": str(self.configuration), "PATH": f"{self.root}/bin:{environment['PATH']}"}

    def __enter__(self) -> "Slurm":
        try:
            self._configure()
            self._start("munged", "--foreground", "--force", *self._munge_files())
            self._until((self.root / "munge").is_socket, "munged")
            self._start("slurmctld", "-D", "-f", str(self.configuration))
            self._start("slurmd", "-D", "-f", str(self.configuration))
            self._until(lambda: self.ask("sinfo", "-h", "-o", "%T", check=False).strip() == "idle", "the node")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if len(self.daemons) == len(DAEMONS):
            self.ask("scancel", "--user", _user(), check=False)
            deadline = time.monotonic() + 30
            while self.ask("squeue", "--noheader", check=False) and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.root)

    def ask(self, *command: str, check: bool = True) -> str:
        """What one of Slurm's commands prints."""
        return subprocess.run(command, env=self.within(os.environ), capture_output=True, text=True, check=check).stdout

    def jobs(self) -> list[dict[str, str]]:
        """All jobs so far as ``scontrol`` shows them, field by field."""
        shown = self.ask("scontrol", "--oneliner", "--details", "show", "jobs")
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in shown.splitlines() if "JobId=" in line]

    def _configure(self) -> None:
        for name in ("state", "spool"):
            (self.root / name).mkdir()
        key = self.root / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        (self.root / "gres.conf").write_text("".join(f"NodeName={self.host} Name=gpu File={device}\n" for device in DEVICES[: self.gpus]))
        # Snakemake takes every variable of Slurm's away before it starts a step.
        step = self.root / "bin" / "srun"
        step.parent.mkdir()
        step.write_text(f'#!/bin/sh\nSLURM_CONF={self.configuration} exec {shutil.which("srun")} "$@"\n')
        step.chmod(0o755)
        values = {"host": self.host, "user": _user(), "root": self.root, "cpus": self.cpus, "gpus": self.gpus}
        self.configuration.write_text(CONFIGURATION.format(controller=free_port(), daemon=free_port(), **values))

    def _munge_files(self) -> list[str]:
        files = {"key-file": "key", "socket": "munge", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
        return [f"--{option}={self.root / name}" for option, name in files.items()]

    def _start(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=SEARCHED)
        assert path is not None
        with (self.root / f"{program}.out").open("w") as output:
            self.daemons.append(subprocess.Popen([path, *arguments], env=self.within(os.environ), stdout=output, stderr=subprocess.STDOUT))

    def _until(self, ready, what: str, patience: float = 30) -> None:
        deadline = time.monotonic() + patience
        while not ready():
            ended = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(self.root.glob("*.[lo][ou][gt]")))
                raise RuntimeError(f"{what} did not come up; ended: {ended}\n{logs}")
            time.sleep(0.1)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
