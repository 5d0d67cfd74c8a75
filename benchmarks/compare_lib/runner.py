"""Runs one variant once, as processes of its own, and reads what it measured.

A run is a dictionary: step_s (the timed steps), seconds_per_step (their median; their mean where
batches differ), losses, tokens and label_tokens of every step, sequences of a step, peak_bytes
(largest resident size of one process, by the kernel's account) and, for the program, memory_bytes
(its own account). What does not end well raises RunFailed with the end of standard error.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from .variants import SEQUENCES
from .world import MAX_LENGTH

PACKAGE = Path(__file__).parent
LORA = {"r": 8, "alpha": 4, "dropout": 0.1}
# The rate is constant, so that the first update is not one with rate 0.
LR, WEIGHT_DECAY, CLIP, RHO, SEED = 1e-4, 0.1, 1.0, 2.0, 42
EXIT_CONFIGURATION = 2
TAIL_LINES = 12


class RunFailed(Exception):
    def __init__(self, message, is_refused=False):
        super().__init__(message)
        self.is_refused = is_refused  # the program rejects an option of the variant


def environment(threads, work):
    return os.environ | {
        "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1",
        # Later rounds find the code that the first one compiled.
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def run_processes(commands, env, directory, timeout_s):
    """Starts the commands together and waits for all. Returns the largest resident size of any
    process in bytes: of the commands themselves and of what they started and waited for."""
    processes = []
    for i, command in enumerate(commands):
        with (directory / f"stderr-{i}").open("wb") as stderr:
            processes.append(subprocess.Popen(
                [str(part) for part in command], env=env, stdin=subprocess.DEVNULL,
                stdout=stderr, stderr=stderr, start_new_session=True, cwd=PACKAGE.parent))
    timed_out = threading.Event()

    def end_all():
        timed_out.set()
        kill(processes)

    timer = threading.Timer(timeout_s, end_all)
    timer.start()
    try:
        return wait_for(processes, directory, timed_out, timeout_s)
    finally:
        timer.cancel()
        kill(processes)


def wait_for(processes, directory, timed_out, timeout_s):
    """A process that fails takes the others with it: they would wait for it forever."""
    peak_bytes, failure = 0, None
    waiting = dict(enumerate(processes))
    while waiting:
        for i, process in list(waiting.items()):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid == 0:
                continue
            del waiting[i]
            process.returncode = os.waitstatus_to_exitcode(status)
            peak_bytes = max(peak_bytes, usage.ru_maxrss * 1024)
            if process.returncode != 0 and failure is None:
                failure = i
                kill(waiting.values())
        time.sleep(0.01)
    if failure is not None:
        reason = (f"ended after {timeout_s} s" if timed_out.is_set()
                  else f"exit code {processes[failure].returncode}")
        raise RunFailed(f"{reason}: {tail(directory / f'stderr-{failure}')}",
                        processes[failure].returncode == EXIT_CONFIGURATION)
    return peak_bytes


def kill(processes):
    """Each with the session that it leads."""
    for process in processes:
        if process.returncode is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def tail(path):
    lines = path.read_text(errors="replace").replace("\r", "\n").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


class Runner:
    """Knows the world and the program; run() runs a variant."""

    def __init__(self, arguments, world, work):
        self.arguments, self.world, self.work = arguments, world, work
        self.choices = read_choices(arguments.vaccine)

    def missing_option(self, variant):
        """Why the program cannot run the variant, None if it can."""
        for key, value in variant.options:
            if value not in self.choices.get(key, ()):
                return (f"`{self.arguments.vaccine.name} align --help` does not list the value "
                        f"{value} for {key}")
        return None

    def run(self, variant):
        directory = self.work / "run"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        try:
            run = (self.run_program if variant.is_program else self.run_python)(variant, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        timed = run["step_s"][variant.warmup_steps:]
        average = statistics.median if variant.data == "even" else statistics.mean
        return run | {"step_s": timed, "seconds_per_step": average(timed),
                      "sequences": SEQUENCES * variant.ranks}

    def run_python(self, variant, directory):
        data, result = self.world.data[variant.data], directory / "result.json"
        job = {"model": str(self.world.model), "samples": str(data.samples),
               "pad_to": data.pad_to, "adapter": variant.adapter, "dtype": variant.dtype,
               "method": variant.method, "compile": variant.stack == "compile",
               "threads": variant.threads, "ranks": variant.ranks, "rows_per_rank": SEQUENCES,
               "steps": variant.total_steps(self.arguments.steps), "lora": LORA, "lr": LR,
               "weight_decay": WEIGHT_DECAY, "clip": CLIP, "rho": RHO, "seed": SEED,
               "rendezvous": str(directory / "rendezvous"), "result": str(result)}
        (directory / "job.json").write_text(json.dumps(job))
        commands = [[sys.executable, "-m", f"{PACKAGE.name}.python_stack", directory / "job.json",
                     rank]
                    for rank in range(variant.ranks)]
        self.processes(commands, variant, directory)
        return json.loads(result.read_text())

    def run_program(self, variant, directory):
        output = directory / "output"
        launcher = [self.arguments.mpiexec, "-n", variant.ranks, "--oversubscribe", "--bind-to",
                    "none"] if variant.ranks > 1 else []
        options = self.program_options(variant) | {"output.dir": output}
        flags = [part for key, value in options.items() for part in (f"--{key}", value)]
        peak_bytes = self.processes([[*launcher, self.arguments.vaccine, "align", *flags]],
                                    variant, directory)
        return read_run_log(output / "run.jsonl", variant) | {"peak_bytes": peak_bytes}

    def processes(self, commands, variant, directory):
        return run_processes(commands, environment(variant.threads, self.work), directory,
                             self.arguments.timeout)

    def program_options(self, variant):
        data = self.world.data[variant.data]
        return {
            "model.path": self.world.model, "model.dtype": variant.dtype,
            "adapter.type": variant.adapter, "adapter.r": LORA["r"],
            "adapter.alpha": LORA["alpha"], "adapter.dropout": LORA["dropout"],
            "data.path": data.path, "data.template": data.template, "data.shuffle": "false",
            "data.max_length": MAX_LENGTH, "train.method": variant.method,
            "train.global_batch": SEQUENCES * variant.ranks,
            "train.max_steps": variant.total_steps(self.arguments.steps), "train.lr": LR,
            "train.weight_decay": WEIGHT_DECAY, "train.clip": CLIP,
            "train.schedule": "constant", "train.warmup_ratio": 0, "train.seed": SEED,
            "vaccine.rho": RHO, "drift.samples": 1, "runtime.threads": variant.threads,
            "runtime.device": "cpu"} | dict(variant.options)


def read_choices(vaccine):
    """Option of `align` -> the values that its help lists, "(a | b)" at a line's end."""
    done = subprocess.run([str(vaccine), "align", "--help"], capture_output=True, text=True,
                          check=True)
    listed = re.findall(r"^ *--(\S+) .*\(([^()]*)\)$", done.stdout, re.MULTILINE)
    return {key: [value.strip() for value in values.split("|")] for key, values in listed}


def read_run_log(path, variant):
    events = [json.loads(line) for line in path.read_text().splitlines()]
    start = next(event for event in events if event["event"] == "start")
    if start["world_size"] != variant.ranks:
        raise RunFailed(f"{start['world_size']} ranks took part, expected {variant.ranks}")
    steps = [event for event in events if event["event"] == "step"]
    return {"step_s": [step["step_s"] for step in steps],
            "losses": [step["loss"] for step in steps],
            "tokens": [step["tokens"] for step in steps],
            "label_tokens": [step["label_tokens"] for step in steps],
            "memory_bytes": steps[-1]["memory_bytes"]}
