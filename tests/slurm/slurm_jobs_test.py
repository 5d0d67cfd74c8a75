"""The job scripts of slurm/ under a real Slurm of two nodes: runs by srun and by mpirun, a warning
signal, a dead node, a stop on request, a chain of stages, bad options, a crash loop.

Every adapter that came out of an interrupted job must equal, byte for byte, that of a job that ran
through. What was done and what Slurm said stands in the transcript, a file that can be quoted.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster import Cluster, ClusterError

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))
import common  # noqa: E402

TEST_LIMIT_S = 780  # below CTest's, so that the test ends by itself and says why
JOB_LIMIT_S = 180   # of one stage of a job on a loaded machine; starts take seconds each
# Some seconds: what is done to a job after its first checkpoint must come before its last step, and
# this test looks at jobs about twice a second.
STEPS = 400
BAD_INPUT, STOPPED = 2, 75
FIELDS = ("JobState", "Reason", "Restarts", "ExitCode", "NodeList")

SITE = """\
VAX_LAUNCHER={launcher}
VAX_NODES=2
VAX_TASKS_PER_NODE=2
VAX_TIME=10:00
VAX_PROGRAM={program}
VAX_BIND=none
VAX_LOGS={work}/logs
VAX_CHECKPOINT_INTERVAL=10
# Both nodes are this host: the segments of Open MPI's shared memory would have one name.
export OMPI_MCA_btl=self,tcp
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
"""

STAGE = """\
[model]
path = {work}/base
dtype = fp32
[data]
template = plain
max_length = 28
"""

TRAINING = STAGE + """\
path = {work}/data.json
[train]
global_batch = 8
max_steps = {steps}
[output]
log_interval = 50
[runtime]
device = cpu
"""

EVALUATION = STAGE + """\
[eval]
alignment_path = {work}/data.json
harmful_path = {work}/harmful.jsonl
max_new_tokens = 4
"""


class Transcript:
    def __init__(self, path):
        self.file = path.open("w")
        self.start = time.monotonic()

    def line(self, text):
        entry = f"{time.monotonic() - self.start:7.1f} s  {text}"
        print(entry, flush=True)
        print(entry, file=self.file, flush=True)


def expect(statement, what):
    if not statement:
        raise AssertionError(what)


class Job:
    """A submitted job; writes every change of its state into the transcript."""

    def __init__(self, bench, number, name):
        self.bench, self.number, self.name, self.last = bench, number, name, None
        self.states = []

    def look(self):
        fields = self.bench.cluster.job(self.number)
        seen = {name: fields.get(name, "") for name in FIELDS}
        if seen != self.last:
            self.bench.transcript.line(f"    job {self.number} {self.name}: " + " ".join(
                f"{name}={value}" for name, value in seen.items()))
            self.states.append(seen["JobState"])
            self.last = seen
        return seen

    def wait(self, condition, what, limit_s=JOB_LIMIT_S):
        def holds():
            fields = self.look()
            over = fields["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
            if over and not condition(fields):
                raise AssertionError(f"job {self.number} {self.name} is {fields['JobState']} with "
                                     f"exit code {fields['ExitCode']}, expected {what}\n{self.log()}")
            return condition(fields)
        self.bench.cluster.wait_until(holds, limit_s, f"job {self.number}: {what}")

    def wait_for_state(self, state, exit_code=None, restarts=None):
        self.wait(lambda fields: fields["JobState"] == state, state)
        if exit_code is not None:
            expect(self.last["ExitCode"] == f"{exit_code}:0",
                   f"exit code {self.last['ExitCode']}, expected {exit_code}\n{self.log()}")
        if restarts is not None:
            expect(self.last["Restarts"] == str(restarts),
                   f"{self.last['Restarts']} restarts, expected {restarts}\n{self.log()}")

    def wait_for_checkpoint(self, output):
        """Early in the run, which goes on meanwhile: what follows must come before its last step."""
        self.wait(lambda _: any((output / "checkpoints").glob("step-??????")), "a checkpoint")

    def log(self):
        path = self.bench.work / "logs" / f"vaccine-{self.name}-{self.number}.log"
        return path.read_text() if path.exists() else "(no log)"


def events_of(output, name):
    """The steps of the events of that name, in the order of run.jsonl."""
    with contextlib.suppress(FileNotFoundError):
        lines = (output / "run.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event["step"] for event in events if event["event"] == name]
    return []


class Bench:
    """Model, data and settings in a directory of their own; the scripts run on the cluster."""

    def __init__(self, work, cluster, transcript, arguments):
        self.work, self.cluster, self.transcript = work, cluster, transcript
        self.scripts = arguments.source / "slurm"
        common.make_model(work / "base", 11, vocab_size=common.VOCAB_SIZE, num_key_value_heads=2)
        common.train_tokenizer(work / "base", common.VOCAB_SIZE)
        common.write_data(work / "data.json", 40, 13)
        (work / "harmful.jsonl").write_text(
            "".join(json.dumps({"instruction": word, "harmful_if": ["the"]}) + "\n"
                    for word in ("one", "two", "three", "four")))
        for launcher in ("srun", "mpirun"):
            self.write(f"site-{launcher}.conf", SITE, launcher=launcher,
                       program=arguments.vaccine.resolve())
        self.write("align.cfg", TRAINING)
        self.write("finetune.cfg", TRAINING)
        self.write("eval.cfg", EVALUATION)

    def write(self, name, text, **values):
        (self.work / name).write_text(text.format(work=self.work, steps=STEPS, **values))

    def script(self, name, *arguments):
        command = [str(part) for part in (self.scripts / name, *arguments)]
        shown = " ".join(command).replace(str(self.scripts), "slurm").replace(f"{self.work}/", "")
        self.transcript.line(f"$ {shown}")
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.work,
                              env=os.environ | self.cluster.environment)
        expect(done.returncode == 0, f"{shown}: exit code {done.returncode}: {done.stderr}")
        return [int(line) for line in done.stdout.split()]

    def align(self, launcher, output, *options):
        (number,) = self.script("submit.sh", "align", "--site", self.work / f"site-{launcher}.conf",
                                "--config", self.work / "align.cfg", "--output.dir", output, *options)
        return Job(self, number, "align")

    def chain(self, output, *options):
        files = [part for stage in ("align", "finetune", "eval")
                 for part in (f"--{stage}", self.work / f"{stage}.cfg")]
        numbers = self.script("chain.sh", "--site", self.work / "site-srun.conf",
                              "--output", output, *files, *options)
        return [Job(self, number, stage)
                for number, stage in zip(numbers, ("align", "finetune", "eval"), strict=True)]

    def slurm(self, *command):
        self.transcript.line(f"$ {' '.join(map(str, command))}")
        return self.cluster.command(*command)

    def expect_complete(self, job, output, resumed=True):
        """As if nothing had happened: each step once, and the uninterrupted run's adapter."""
        steps, resumes = events_of(output, "step"), events_of(output, "resume")
        expect(steps == list(range(1, STEPS + 1)), f"run.jsonl has the steps {steps}\n{job.log()}")
        expect(len(resumes) == (1 if resumed else 0), f"resumed at {resumes}\n{job.log()}")
        names = sorted(path.name for path in (output / "adapter").iterdir())
        expect(names == sorted(path.name for path in (self.reference / "adapter").iterdir()),
               f"the adapter has the files {names}")
        for name in names:
            expect((output / "adapter" / name).read_bytes() ==
                   (self.reference / "adapter" / name).read_bytes(),
                   f"{output}/adapter/{name} is not that of the uninterrupted run\n{job.log()}")
        after = f", resumed after {resumes[0]}" if resumed else ""
        self.transcript.line(f"    {output.name}: steps 1 to {STEPS} each once{after}, adapter equal")

    @property
    def reference(self):
        return self.work / "by-srun"


def runs_by_srun(bench):
    job = bench.align("srun", bench.reference)
    job.wait_for_state("COMPLETED", exit_code=0, restarts=0)
    bench.expect_complete(job, bench.reference, resumed=False)


def runs_by_mpirun(bench):
    output = bench.work / "by-mpirun"
    job = bench.align("mpirun", output)
    job.wait_for_state("COMPLETED", exit_code=0, restarts=0)
    bench.expect_complete(job, output, resumed=False)


def expect_requeued(bench, job):
    job.wait(lambda fields: int(fields["Restarts"]) == 1, "one restart")
    expect("requeueing job" in job.log(), f"the script did not requeue the job\n{job.log()}")


def chain_goes_on_after_a_warning(bench):
    """USR1 to the ranks of the first stage, as Slurm sends it before the time limit."""
    output = bench.work / "chain"
    align, finetune, evaluation = bench.chain(output)
    align.wait_for_checkpoint(output / "align")
    bench.slurm("scancel", "--signal=USR1", align.number)
    expect_requeued(bench, align)
    expect(finetune.look()["JobState"] == "PENDING", "finetune did not wait for the requeued job")
    align.wait_for_state("COMPLETED", exit_code=0, restarts=1)
    bench.expect_complete(align, output / "align")
    finetune.wait_for_state("COMPLETED", exit_code=0, restarts=0)
    evaluation.wait_for_state("COMPLETED", exit_code=0, restarts=0)
    merged = f"--adapter.merge {output}/align/adapter,{output}/finetune/adapter"
    expect(merged in evaluation.log(), f"eval does not merge both\n{evaluation.log()}")
    scores = json.loads((output / "eval" / "eval.json").read_text())
    expect(scores["alignment_loss"] > 0, f"eval.json: {scores}")
    bench.transcript.line(f"    eval.json: alignment_loss {scores['alignment_loss']:.4f}, "
                          f"harmful_score {scores['harmful_score']}")


def warning_reaches_the_ranks_of_mpirun(bench):
    output = bench.work / "warned-mpirun"
    job = bench.align("mpirun", output)
    job.wait_for_checkpoint(output)
    bench.slurm("scancel", "--signal=USR1", "--batch", job.number)
    expect_requeued(bench, job)
    job.wait_for_state("COMPLETED", exit_code=0, restarts=1)
    bench.expect_complete(job, output)


def dead_node(bench):
    """The node of the batch script, so that nobody but Slurm can requeue the job."""
    output = bench.work / "dead-node"
    job = bench.align("srun", output)
    job.wait_for_checkpoint(output)
    node = bench.cluster.job(job.number)["BatchHost"]
    bench.transcript.line(f"$ kill -KILL (slurmd, slurmstepd, batch script and ranks of {node})")
    bench.cluster.kill_node(node)
    job.wait(lambda fields: int(fields["Restarts"]) == 1, "one restart", limit_s=120)
    states = bench.cluster.command("sinfo", "--noheader", "--Node", "--format=%N=%T")
    bench.transcript.line(f"    nodes: {' '.join(states.split())}")
    expect("down" in states, f"no node is down: {states}")
    bench.transcript.line(f"$ slurmd -N {node}")
    bench.cluster.start_node(node)
    job.wait_for_state("COMPLETED", exit_code=0, restarts=1)
    bench.expect_complete(job, output)


def stop_file(bench):
    output = bench.work / "stopped"
    job = bench.align("srun", output)
    job.wait_for_checkpoint(output)
    bench.transcript.line("$ touch stopped/stop")
    (output / "stop").touch()
    job.wait_for_state("FAILED", exit_code=STOPPED, restarts=0)
    expect("not requeued" in job.log(), f"the log does not say so\n{job.log()}")
    again = bench.align("srun", output)
    again.wait_for_state("COMPLETED", exit_code=0, restarts=0)
    bench.expect_complete(again, output)


def bad_option_ends_the_chain(bench):
    align, finetune, evaluation = bench.chain(bench.work / "bad", "--model.nonsense", "1")
    align.wait_for_state("FAILED", exit_code=BAD_INPUT, restarts=0)
    expect("model.nonsense" in align.log() and "not requeued" in align.log() and
           "are cancelled" in align.log(), f"the log does not say so\n{align.log()}")
    for job in (finetune, evaluation):
        job.wait_for_state("CANCELLED")
        expect(job.log() == "(no log)", f"{job.name} was started\n{job.log()}")


def slow_ranks_keep_the_exit_code(bench):
    """srun kills the ranks that are still there when one has failed, and would report that."""
    bench.write("site-slow.conf", SITE + "VAX_PREFIX=(bash -c 'sleep $PMIX_RANK; exit 2')\n",
                launcher="srun", program="/bin/true")
    job = bench.align("slow", bench.work / "slow")
    job.wait_for_state("FAILED", exit_code=BAD_INPUT, restarts=0)


def crash_loop_ends(bench):
    """Every start loses a rank before the first checkpoint."""
    bench.write("site-crash.conf", SITE + "VAX_PREFIX=(bash -c 'exit 3')\n", launcher="srun",
                program="/bin/true")
    job = bench.align("crash", bench.work / "crash")
    job.wait_for_state("FAILED", exit_code=3, restarts=1)
    expect("no checkpoint newer than step 0 after 2 starts" in job.log(), job.log())


SCENARIOS = (runs_by_srun, runs_by_mpirun, bad_option_ends_the_chain,
             slow_ranks_keep_the_exit_code, crash_loop_ends, chain_goes_on_after_a_warning,
             warning_reaches_the_ranks_of_mpirun, stop_file, dead_node)


def run_scenarios(bench, chosen):
    """Names of those that failed; nothing of a scenario is left in the queue for the next."""
    failed = []
    for scenario in chosen:
        bench.transcript.line(f"== {scenario.__name__}")
        try:
            scenario(bench)
            bench.transcript.line("   ok")
        except (AssertionError, ClusterError, OSError, ValueError) as error:
            failed.append(scenario.__name__)
            bench.transcript.line(f"   FAILED {type(error).__name__}: {error}")
        bench.cluster.clear()
    return failed


def stop_on_signal(number, _frame):
    reason = f"its own limit of {TEST_LIMIT_S} s" if number == signal.SIGALRM else f"signal {number}"
    sys.exit(f"FAILED: ended by {reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vaccine", required=True, type=Path)
    parser.add_argument("--source", required=True, type=Path, help="the repository")
    parser.add_argument("--transcript", required=True, type=Path)
    parser.add_argument("--only", nargs="*", help="names of scenarios; the first run always")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, stop_on_signal)
    signal.alarm(TEST_LIMIT_S)
    chosen = [s for s in SCENARIOS if s is runs_by_srun or not arguments.only
              or s.__name__ in arguments.only]
    transcript = Transcript(arguments.transcript)
    work = Path(tempfile.mkdtemp(prefix="vax-slurm."))  # short: paths of sockets are limited
    try:
        (work / "slurm").mkdir()
        with Cluster(work / "slurm") as cluster:
            transcript.line("$ sinfo\n" + cluster.command("sinfo"))
            failed = run_scenarios(Bench(work, cluster, transcript, arguments), chosen)
    except ClusterError as error:
        sys.exit(f"FAILED: no Slurm here: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    transcript.line(f"{len(chosen) - len(failed)} of {len(chosen)} scenarios passed")
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    main()
