"""A real Slurm of two nodes on this host: its own munged, slurmctld and two slurmd in a directory of
its own, on free ports, without systemd, cgroups or anything of the system's own Slurm or munge.

Everything that belongs to it carries SLURM_CONF=<directory>/slurm.conf in its environment (daemons,
step managers, batch scripts, tasks), and that is how it is found and ended, also when the test died
without a word: a guard process waits for the end of a pipe that only the test holds open.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2")
NODE_CPUS = 4         # claimed, whatever the host has
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "scontrol", "scancel", "sinfo", "squeue", "mpirun")
START_LIMIT_S = 60
SLURMD_TIMEOUT_S = 6  # without an answer for so long a node is down

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={directory}/munge.socket
CredType=cred/munge
MpiDefault=pmix
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,defer
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool.%n
TmpFS={directory}/tmp.%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd.%n.log
SwitchType=switch/none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={slurmd_timeout}
KillWait=3
MinJobAge=600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class ClusterError(Exception):
    """Slurm cannot be started, or did not do what was waited for."""


def find_program(name):
    """Debian keeps the daemons in a folder that is not in every user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def processes_of(config, node=None):
    """Ids of the processes of the cluster with that configuration file, or of one of its nodes."""
    marks = [f"SLURM_CONF={config}".encode()]
    if node:
        marks.append(f"SLURMD_NODENAME={node}".encode())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0")
            if all(mark in variables for mark in marks):
                found.append(int(entry.name))
    return found


def end_processes(config, limit_s=10):
    """Ends all processes of that cluster; returns those that are still there."""
    deadline = time.monotonic() + limit_s
    while (left := processes_of(config)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    return left


class Cluster:
    """`with Cluster(directory) as cluster:`; directory must be short: it holds munged's socket."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.config = self.directory / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.config)}
        self.daemons = {}
        self.guard = None

    def __enter__(self):
        missing = [name for name in DAEMONS + COMMANDS if not find_program(name)]
        if missing:
            raise ClusterError(f"{', '.join(missing)} not found: scripts/setup.sh --tests installs "
                               "slurm-wlm, munge and libpmix-dev on Debian")
        self._write_files()
        # Sessions of their own: a terminal's Ctrl-C reaches the test only, which then ends them.
        self.guard = subprocess.Popen([sys.executable, __file__, str(self.config)],
                                      stdin=subprocess.PIPE, start_new_session=True)
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Closing the pipe makes the guard end everything that is still there."""
        with contextlib.suppress(ClusterError):
            self.clear()
        for name in ("slurmd n1", "slurmd n2", "slurmctld", "munged"):
            self._stop(name)
        self.guard.stdin.close()
        if self.guard.wait(timeout=30) != 0:
            raise ClusterError(f"processes of {self.config} could not be ended")

    def _write_files(self):
        for name in ("state", "log", *(f"{kind}.{node}" for kind in ("spool", "tmp")
                                       for node in NODES)):
            (self.directory / name).mkdir()
        key = self.directory / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        (self.directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.config.write_text(CONFIG.format(
            host=socket.gethostname().split(".")[0], ports=free_ports(3), user=os.getuid(),
            directory=self.directory, cpus=NODE_CPUS, slurmd_timeout=SLURMD_TIMEOUT_S))

    def _start_all(self):
        at = self.directory
        self._start("munged", "munged", "--foreground", "--force", f"--socket={at}/munge.socket",
                    f"--key-file={at}/munge.key", f"--seed-file={at}/munge.seed",
                    f"--pid-file={at}/munge.pid")
        self.wait_until((at / "munge.socket").exists, START_LIMIT_S, "munged's socket")
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        self.wait_until(lambda: self.node_states() == ["idle", "idle"], START_LIMIT_S,
                        "two idle nodes")

    def _start(self, name, program, *arguments):
        with (self.directory / "log" / f"{name.replace(' ', '.')}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [find_program(program), *arguments], env=os.environ | self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _stop(self, name):
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_node(self, node):
        # -c: sockets of step managers that were killed would be in the way of the next ones.
        self._start(f"slurmd {node}", "slurmd", "-D", "-c", "-N", node)

    def kill_node(self, node):
        """As if its power failed: daemon, step managers, batch script and tasks, none is asked."""
        self.daemons[f"slurmd {node}"].kill()
        self.daemons.pop(f"slurmd {node}").wait()
        tasks = processes_of(self.config, node)
        managers = {manager for task in tasks for manager in step_manager(task)}
        # The managers first: they would report the end of their tasks.
        for process in (*managers, *tasks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.wait_until(lambda: not processes_of(self.config, node), 10, f"the end of {node}")

    def command(self, program, *arguments, limit_s=90):
        """Output of a Slurm command; ClusterError if it fails. slurmctld may take half a minute to
        answer while a node is dead."""
        command = [program, *map(str, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False,
                                  timeout=limit_s, env=os.environ | self.environment)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{' '.join(command)}: no answer in {limit_s} s") from None
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: exit code {done.returncode}: "
                               f"{done.stderr.strip()}")
        return done.stdout.strip()

    def clear(self):
        """Cancels all jobs and waits for their end."""
        self.command("scancel", "--user", os.getuid(), limit_s=10)
        self.wait_until(lambda: not self.command("squeue", "--noheader"), 15, "the jobs' end")

    def node_states(self):
        try:
            return self.command("sinfo", "--noheader", "--Node", "--format=%t").split()
        except ClusterError:
            return []  # slurmctld does not answer yet

    def job(self, number):
        """The fields of `scontrol show job`."""
        text = self.command("scontrol", "--oneliner", "show", "job", number)
        return dict(part.split("=", 1) for part in text.split() if "=" in part)

    def wait_until(self, condition, limit_s, what):
        deadline = time.monotonic() + limit_s
        while not condition():
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    raise ClusterError(f"{name} ended with {daemon.returncode}: {self._tail(name)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {limit_s} s in vain for {what}")
            time.sleep(0.1)

    def _tail(self, name):
        return (self.directory / "log" / f"{name.replace(' ', '.')}.out").read_text()[-600:]


def step_manager(process):
    """The slurmstepd above a process, if any: it does not carry the node's name itself."""
    with contextlib.suppress(OSError):
        while process > 1:
            status = dict(line.split(":\t", 1) for line in
                          Path(f"/proc/{process}/status").read_text().splitlines() if ":\t" in line)
            if status["Name"].startswith("slurmstepd"):
                return [process]
            process = int(status["PPid"])
    return []


if __name__ == "__main__":
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    sys.stdin.read()
    sys.exit(1 if end_processes(sys.argv[1]) else 0)
