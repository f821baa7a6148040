"""A real Slurm cluster of two nodes on this host, in a folder of its own: munge, a controller, two nodes' daemons.

Nothing is written to /etc/slurm: tools and daemons find the cluster by SLURM_CONF.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PACKAGES = "apt-get install -y --no-install-recommends slurm-wlm munge"
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=5
SlurmctldTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=300
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=8 RealMemory=64000 Gres=gpu:h200:8 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=8 RealMemory=64000 Gres=gpu:h200:8 State=UNKNOWN
PartitionName=gpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
PartitionName=spare Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=requeue GraceTime=15
"""


def missing_tools() -> list[str]:
    """What of Slurm is not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [tool for tool in TOOLS if shutil.which(tool, path=path) is None]


class Cluster:
    """The running cluster; `environment` is what its tools need."""

    nodes = ("n1", "n2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(("controller", *self.nodes), _free_ports(3), strict=True))
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Boot it; returns when both nodes are idle."""
        self._write_configuration()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        own = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log"}
        options = [f"--{name}={self.folder / file}" for name, file in {**own, "seed-file": "munge.seed"}.items()]
        self._daemon("munged", "munged", "--force", "--foreground", *options)
        wait_until(lambda: (self.folder / "munge.sock").exists(), "munged listens")
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        wait_until(lambda: self.node_states() == {"n1": "idle", "n2": "idle"}, "both nodes are idle", 60)

    def start_controller(self) -> None:
        """Start the controller's daemon, which takes up the jobs that it had."""
        self._daemon("slurmctld", "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])

    def stop_controller(self) -> None:
        """End the controller's daemon; jobs run on."""
        _end(self._daemons.pop("slurmctld"), signal.SIGTERM)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"])

    def lose_node(self, node: str) -> None:
        """Kill a node's daemon and everything that runs on it, as a loss of power does."""
        _end(self._daemons.pop(node), signal.SIGKILL)
        self._kill_jobs(node)

    def node_states(self) -> dict[str, str]:
        """State of each node, as sinfo names it: idle, mixed, allocated, down."""
        lines = self.tool("sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%N %T").split("\n")
        return dict(line.split() for line in lines if line)

    def tool(self, *command: str) -> str:
        """What one of Slurm's tools says."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout

    def stop(self) -> list[int]:
        """End it and all its jobs; the ports that are still open afterwards."""
        for node in self.nodes:
            self._kill_jobs(node)
        for name in reversed(list(self._daemons)):
            _end(self._daemons.pop(name), signal.SIGTERM)
        # A step whose end nobody was there to hear goes on reporting it.
        for process in psutil.process_iter(["name", "open_files"]):
            opened = (file.path for file in process.info["open_files"] or ())
            if process.info["name"] == "slurmstepd" and any(path.startswith(f"{self.folder}/") for path in opened):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        return [port for port in self.ports.values() if _answers(port)]

    def _kill_jobs(self, node: str) -> None:
        found = list(self._of_jobs(node))
        # Those that watch over the others first: none lives to report what became of the rest.
        for process in sorted(found, key=lambda process: not process.name().startswith("slurmstepd")):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _of_jobs(self, node: str) -> Iterator[psutil.Process]:
        """What runs on a node: known by its environment, and the daemons above it, which hide theirs."""
        conf = self.environment["SLURM_CONF"]
        for process in psutil.process_iter(["environ"]):
            environment = process.info["environ"] or {}
            if environment.get("SLURM_CONF") == conf and environment.get("SLURMD_NODENAME") == node:
                parent = process.parent()
                if parent is not None and parent.name().startswith("slurmstepd"):
                    yield parent
                yield process

    def _daemon(self, name: str, *command: str) -> None:
        environment = {**os.environ, **self.environment, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def _write_configuration(self) -> None:
        values = {**self.ports, "host": socket.gethostname().split(".")[0], "folder": self.folder}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        devices = self.folder / "devices"
        devices.mkdir()
        for index in range(8):
            os.mknod(devices / f"nvidia{index}", 0o20666, os.makedev(1, 3))
        gres = f"NodeName=n[1-2] Name=gpu Type=h200 Count=8 File={devices}/nvidia[0-7]\n"
        (self.folder / "gres.conf").write_text(gres)
        (self.folder / "state").mkdir()


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A booted cluster; at the end it is stopped and its ports are found closed."""
    # Short: the path of a socket may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        still_open = cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    assert not still_open, f"ports {still_open} still answer after the cluster was stopped"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Return when `condition` holds. Raises TimeoutError that says `what` did not come about."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(daemon: subprocess.Popen[bytes], number: signal.Signals) -> None:
    daemon.send_signal(number)
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
