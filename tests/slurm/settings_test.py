"""The job scripts without Slurm: settings that are missing or malformed, how the scripts read the
program's options and the newest checkpoint, and the sbatch command that submit.sh composes."""

import argparse
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

GOOD = "VAX_LAUNCHER=srun\nVAX_NODES=2\nVAX_TASKS_PER_NODE=4\nVAX_TIME=24:00:00\n"

# Lines added to GOOD -> what the message must name.
BAD_SETTINGS = {
    "VAX_LAUNCHER=aprun": ["VAX_LAUNCHER", "srun or mpirun", "aprun"],
    "VAX_NODES=": ["VAX_NODES", "at least 1", "''"],
    "VAX_NODES=0": ["VAX_NODES", "'0'"],
    "VAX_TASKS_PER_NODE=four": ["VAX_TASKS_PER_NODE", "four"],
    "VAX_TIME=tomorrow": ["VAX_TIME", "tomorrow"],
    "VAX_CPUS_PER_TASK=-1": ["VAX_CPUS_PER_TASK", "-1"],
    "VAX_MEMORY='64 gigabytes'": ["VAX_MEMORY", "64 gigabytes"],
    "VAX_PARTITION='a b'": ["VAX_PARTITION", "a b"],
    "VAX_BIND=socket": ["VAX_BIND", "cores or none"],
    "VAX_WARNING_S=70000": ["VAX_WARNING_S", "70000"],
    "VAX_CHECKPOINT_INTERVAL=0": ["VAX_CHECKPOINT_INTERVAL", "'0'"],
    "VAX_MAX_REQUEUES=many": ["VAX_MAX_REQUEUES", "many"],
    "VAX_MAX_REQUEUES=08": ["VAX_MAX_REQUEUES", "08"],
    "VAX_GPUS_PER_NODE=08": ["VAX_GPUS_PER_NODE", "08"],
    "VAX_PARTITON=gpu": ["unknown setting VAX_PARTITON", "VAX_PARTITION"],
    "unset VAX_TIME": ["VAX_TIME", "''"],
    "VAX_NODES=(": ["could not read it"],
    "VAX_PROGRAM=nowhere/vaccine": ["VAX_PROGRAM", "nowhere/vaccine"],
}

# Settings and options -> parts of the command, and parts that it must not have.
COMMANDS = (
    ("", [], ["--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=1", "--time=24:00:00",
              "--signal=USR1@300"], ["--partition", "--account", "--mem", "--gres", "--dependency"]),
    ("VAX_LAUNCHER=mpirun\nVAX_WARNING_S=60", [], ["--signal=B:USR1@60"], []),
    ("VAX_PARTITION=gpu\nVAX_ACCOUNT=me\nVAX_MEMORY=64G\nVAX_GPUS_PER_NODE=4\n"
     "VAX_SBATCH_OPTIONS=('--comment=two words')", ["--nodes", "3", "--time", "30"],
     ["--partition=gpu", "--account=me", "--mem=64G", "--gres=gpu:4", "--comment=two words",
      "--nodes=3", "--time=30"], ["--nodes=2"]),
    ("", ["--after", "17"], ["--dependency=afterok:17", "--kill-on-invalid-dep=yes"], []),
)

CONFIG = """\
# a comment with train.lr = 9
model.path = at-top
[output]
dir = from file  # the rest is a comment
[train]
lr=1e-3
lr = 2e-3
name = a = b
"""


class Scripts:
    def __init__(self, source, work):
        self.slurm, self.work, self.failures = source / "slurm", work, []
        (work / "run.cfg").write_text(CONFIG)

    def run(self, *command, site=GOOD):
        (self.work / "site.conf").write_text(site)
        return subprocess.run([str(part) for part in command], capture_output=True, text=True,
                              check=False, cwd=self.work, stdin=subprocess.DEVNULL,
                              env=os.environ | {"VAX_SITE": str(self.work / "site.conf")})

    def submit(self, *arguments, site=GOOD):
        return self.run(self.slurm / "submit.sh", *arguments, site=site)

    def call(self, *words):
        """A function of lib.sh: its exit code and output."""
        done = self.run("bash", "-c", f"set -euo pipefail; source {self.slurm}/lib.sh; "
                        + " ".join(shlex.quote(str(word)) for word in words))
        return done.returncode, done.stdout.strip()

    def expect(self, what, got, expected):
        if got != expected:
            self.failures.append(f"{what}: expected {expected!r}, found {got!r}")

    def expect_refused(self, what, done, parts):
        text = done.stderr.strip()
        self.expect(f"{what}: exit code", done.returncode, 2)
        self.expect(f"{what}: standard output", done.stdout, "")
        for part in parts:
            if part not in text:
                self.failures.append(f"{what}: '{part}' is not in the message '{text}'")


def check_settings(scripts):
    options = ("align", "--config", "run.cfg")
    for line, parts in BAD_SETTINGS.items():
        scripts.expect_refused(line, scripts.submit(*options, site=f"{GOOD}{line}\n"),
                               ["site.conf", *parts])
    done = scripts.run("env", "VAX_SITE=absent.conf", scripts.slurm / "submit.sh", *options)
    scripts.expect_refused("no file", done, ["absent.conf", "site.conf.example"])
    example = (scripts.slurm / "site.conf.example").read_text()
    done = scripts.submit(*options, "--dry-run", site=example)
    scripts.expect(f"the example ({done.stderr})", done.returncode, 0)


def check_commands(scripts):
    for settings, options, present, absent in COMMANDS:
        done = scripts.submit("align", *options, "--dry-run", "--config", "run.cfg", "--train.lr",
                              "1 2", site=f"{GOOD}{settings}\n")
        words = shlex.split(done.stdout)
        scripts.expect(f"{settings} {options}: exit code ({done.stderr})", done.returncode, 0)
        scripts.expect(f"{settings}: missing", [p for p in present if p not in words], [])
        scripts.expect(f"{settings}: too much", [
            word for word in words if any(word.startswith(a) for a in absent)], [])
        scripts.expect(f"{settings}: the program's part", words[-5:], [
            f"{scripts.slurm}/align.sbatch", "--config", "run.cfg", "--train.lr", "1 2"])
    words = shlex.split(scripts.submit("eval", "--dry-run", "--config", "run.cfg").stdout)
    scripts.expect("eval is not warned", [w for w in words if "--signal" in w], [])
    for arguments, part in ((["algn"], "algn"), (["align", "--train.lr", "1"], "output.dir"),
                            (["align", "--config", "absent.cfg"], "absent.cfg"),
                            (["align", "--config", "run.cfg", "--after", "x"], "--after"),
                            (["align", "--site"], "--site")):
        scripts.expect_refused(arguments, scripts.submit(*arguments), [part])


def check_chain(scripts):
    chain = scripts.slurm / "chain.sh"
    files = ["--align", "run.cfg", "--finetune", "run.cfg", "--eval", "run.cfg"]
    done = scripts.run(chain, "--output", "out", "--dry-run", *files, "--model.path", "M")
    scripts.expect(f"chain ({done.stderr})", done.stdout.count("\n"), 3)
    if scripts.failures:
        return
    align, finetune, evaluation = (shlex.split(line) for line in done.stdout.splitlines())
    scripts.expect("chain: align", align[-4:], ["--output.dir", "out/align", "--model.path", "M"])
    scripts.expect("chain: finetune", finetune[-6:], [
        "--adapter.merge", "out/align/adapter", "--output.dir", "out/finetune", "--model.path", "M"])
    scripts.expect("chain: eval", evaluation[-6:-2], [
        "--adapter.merge", "out/align/adapter,out/finetune/adapter", "--output.dir", "out/eval"])
    for arguments, part in (([*files], "--output"), (["--output", "out"], "--align"),
                            (["--output", "o", *files, "--adapter.merge", "x"], "--adapter.merge"),
                            (["--output", "o", *files, "--adapter.type", "none"], "adapter.type"),
                            (["--output", "o", *files, "wrong", "x"], "wrong")):
        scripts.expect_refused(arguments, scripts.run(chain, "--dry-run", *arguments), [part])


def check_options(scripts):
    file = ["--config", "run.cfg"]
    for name, arguments, expected in (
            ("output.dir", file, (0, "from file")),
            ("output.dir", [*file, "--output.dir", "line"], (0, "line")),
            ("output.dir", ["--output.dir=line", *file], (0, "line")),
            ("output.dir", ["--config=run.cfg"], (0, "from file")),
            ("model.path", file, (0, "at-top")), ("train.lr", file, (0, "2e-3")),
            ("train.name", file, (0, "a = b")), ("train.seed", file, (1, ""))):
        scripts.expect(f"{name} of {arguments}", scripts.call("option_value", name, *arguments),
                       expected)


def check_progress(scripts):
    """Unfinished checkpoints do not count, nor do leading zeros make a number octal."""
    scripts.expect("no checkpoint", scripts.call("newest_step", "out"), (0, "0"))
    for name in ("step-000009", "step-000010", "step-000080.tmp", ".step-000090", "other"):
        (scripts.work / "out" / "checkpoints" / name).mkdir(parents=True)
    scripts.expect("newest checkpoint", scripts.call("newest_step", "out"), (0, "10"))
    (scripts.work / "starts").write_text("0 restart=0\n20 restart=1\n0 restart=2\n0 restart=3\n")
    for step, stalled in ((0, "2"), (20, "0")):
        scripts.expect(f"starts at {step}", scripts.call("stalled_starts", "starts", step),
                       (0, stalled))


# Runs the ranks of a start (one, without a launcher) of a program that ends with $1; then $2 does
# something to the file of its exit code. Prints the code that the job goes by.
RUN_RANKS = """\
set -euo pipefail
source {slurm}/job.sh
launch=(bash -c '"$@" && {{ {meddle}; }}' launcher)
code_file={code_file} VAX_PREFIX=() VAX_PROGRAM=bash stage=-c options=("exit {code}")
run_ranks
echo "$code"
"""


def check_exit_codes(scripts):
    """What stands in the file is text that others may have written; success must be said."""
    planted = scripts.work / "planted"
    file = scripts.work / "job.code"

    def code_of(code, meddle="true", code_file=file):
        done = scripts.run("bash", "-c", RUN_RANKS.format(
            slurm=scripts.slurm, meddle=meddle, code_file=code_file, code=code))
        return done.stdout.strip() or f"ended with {done.returncode}"

    for code in (0, 2, 75, 3, 137):
        scripts.expect(f"a program that ends with {code}", code_of(code), str(code))
    for text in (f"a[$(touch {planted})]", "code", "00", "7", "-1", "2 75", ""):
        meddle = f"echo {shlex.quote(text)} >{file}".replace("'", "'\\''")
        scripts.expect(f"'{text}' as exit code", code_of(0, meddle), "1")
    scripts.expect("an empty file", code_of(0, f": >{file}"), "1")
    scripts.expect("text of the file was run", planted.exists(), False)
    scripts.expect("no file left", code_of(0, f"rm {file}"), "1")
    scripts.expect("a file that cannot be written", code_of(0, code_file=scripts.work / "no/file"),
                   "ended with 1")
    for code in (0, 2):
        done = scripts.run(scripts.slurm / "rank.sh", scripts.work, "bash", "-c", f"exit {code}")
        scripts.expect(f"a rank that cannot write {code}", done.returncode, code or 1)
    done = scripts.run("env", "SLURM_JOB_ID=1", f"SLURM_RESTART_COUNT=a[$(touch {planted})]", "bash",
                       "-c", f"source {scripts.slurm}/job.sh; run_stage align --output.dir out")
    scripts.expect("SLURM_RESTART_COUNT", (done.returncode, planted.exists()), (2, False))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, type=Path, help="the repository")
    source = parser.parse_args().source
    with tempfile.TemporaryDirectory() as work:
        scripts = Scripts(source, Path(work))
        for check in (check_settings, check_commands, check_chain, check_options, check_progress,
                      check_exit_codes):
            check(scripts)
    for failure in scripts.failures:
        print("FAILED", failure)
    raise SystemExit(1 if scripts.failures else 0)


if __name__ == "__main__":
    main()
