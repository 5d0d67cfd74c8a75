"""A job under mpiexec for tests that do something to its ranks: which process is which rank, what
the job printed, how long it took to end. Whatever happens, nothing of it outlives the test."""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

POLL_S = 0.02


def children_of(pid):
    """Process ids of all descendants of `pid` that live."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; the parent is the second field after.
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        own = [child for child, its_parent in parents.items() if its_parent == parent]
        found += own
        waiting += own
    return found


def rank_of(pid):
    """The rank that Open MPI has given the process; None for any other process."""
    with contextlib.suppress(OSError):
        match = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)\0",
                          Path(f"/proc/{pid}/environ").read_bytes())
        return int(match[1]) if match else None
    return None


def is_stopped(pid):
    """By a signal, with all of its threads."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def wait_for(condition, timeout_s, what):
    """The first value of `condition()` that is true."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(POLL_S)
    return value


class Job:
    """A context: starts on entry, and ends every process of the job on exit."""

    def __init__(self, launcher, num_ranks, command, environment=None):
        self.num_ranks = num_ranks
        self.command = [str(part) for part in [*launcher, num_ranks, *command]]
        self.environment = os.environ | (environment or {})

    def __enter__(self):
        self.output_file = tempfile.TemporaryFile("w+", errors="replace")
        # Its own session: a signal to the test's group does not reach it half-way.
        self.process = subprocess.Popen(self.command, stdout=self.output_file,
                                        stderr=subprocess.STDOUT, env=self.environment,
                                        start_new_session=True)
        return self

    def __exit__(self, *_):
        # Ranks have process groups of their own, and a stopped one hears nothing but SIGKILL.
        if self.process.poll() is None:
            for pid in [*children_of(self.process.pid), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.output_file.close()

    def output(self):
        self.output_file.flush()
        return Path(f"/proc/self/fd/{self.output_file.fileno()}").read_text(errors="replace")

    def rank_pids(self, timeout_s=60):
        """Process id of each rank, once all of them run."""
        def found():
            pids = {rank_of(pid): pid for pid in children_of(self.process.pid)}
            return [pids[rank] for rank in range(self.num_ranks)] if all(
                rank in pids for rank in range(self.num_ranks)) else None
        return wait_for(found, timeout_s, "all ranks run")

    @contextlib.contextmanager
    def paused(self, timeout_s=60):
        """No thread of a rank runs inside; signals sent meanwhile arrive at the end."""
        pids = self.rank_pids(timeout_s)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: all(is_stopped(pid) for pid in pids), timeout_s, "all ranks stand")
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def finish(self, timeout_s):
        """(exit code, seconds from this call to the end of the job)."""
        begin = time.monotonic()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job did not end within {timeout_s} s; it printed:\n"
                                 f"{self.output()}") from None
        return self.process.returncode, time.monotonic() - begin


def launcher_arguments(description):
    """A parser for tests that start programs under mpiexec; see launcher_of()."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--mpiexec", required=True)
    parser.add_argument("--numproc-flag", required=True)
    return parser


def launcher_of(arguments):
    return [arguments.mpiexec, "--oversubscribe", arguments.numproc_flag]
