"""The machine, the table on standard output and the JSON file."""

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

from .goals import AT_LEAST

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
PACKAGES = ("torch", "transformers", "peft")
MIB = 1 << 20


def describe_machine():
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    found = set(re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)[1].split())
    return {"processor": model[1] if model else platform.processor(),
            "flags": {flag: flag in found for flag in FLAGS},
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_average": os.getloadavg()[0]}


def describe_versions(vaccine):
    program = subprocess.run([str(vaccine), "--version"], capture_output=True, text=True,
                             check=True).stdout.strip()
    return {"vaccine": program.removeprefix("vaccine "), "python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES}


def summarize(runs):
    """Medians over the rounds of a variant's runs, as the table shows them."""
    seconds = [run["seconds_per_step"] for run in runs.values()]
    first = next(iter(runs.values()))
    steps = [s for run in runs.values() for s in run["step_s"]]
    return {"seconds_per_step": statistics.median(seconds), "min_s": min(seconds),
            "max_s": max(seconds), "timed_steps": len(steps),
            "peak_bytes": max(run["peak_bytes"] for run in runs.values()),
            "memory_bytes": max((run["memory_bytes"] for run in runs.values()), default=None)
            if "memory_bytes" in first else None,
            "tokens_per_step": statistics.mean(first["tokens"]),
            "label_tokens_per_step": statistics.mean(first["label_tokens"]),
            "sequences": first["sequences"]}


def header(document):
    machine, settings = document["machine"], document["settings"]
    flags = ", ".join(f"{flag} {'yes' if has else 'no'}" for flag, has in machine["flags"].items())
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    real = document["world"]["real"]
    yield f"processor     {machine['processor']}, {machine['cores']} cores; {flags}"
    yield (f"load average  {machine['load_average']:.2f} before, "
           f"{document['load_average_after']:.2f} after (that of the runs themselves included)")
    yield f"versions      {versions}"
    yield "model         " + ", ".join(f"{key} {value}" for key, value in
                                       document["world"]["model"].items())
    yield (f"batches       5 x {document['world']['even']['ids']} ids, "
           f"{document['world']['even']['labels']} of them labels; reference batches: "
           f"{real['source']}, mean {real['mean_ids']:.0f} ids, Python pads to "
           f"{real['padded_to']}")
    yield (f"runs          {settings['rounds']} rounds, in turn, every run a process of its own; "
           f"{settings['steps']} timed steps a run")
    if settings["quick"]:
        yield "--quick: a toy model; no figure says anything about the goals"


def run_lines(document):
    yield (f"{'run':44} {'s/step':>8} {'min':>8} {'max':>8} {'tokens/s':>9} {'peak MiB':>9} "
           f"{'own MiB':>8}")
    for name, entry in document["variants"].items():
        if entry["status"] != "done":
            yield f"{name:44} {entry['status']}"
            continue
        s = entry["summary"]
        own = f"{s['memory_bytes'] / MIB:8.0f}" if s["memory_bytes"] else " " * 8
        yield (f"{name:44} {s['seconds_per_step']:8.3f} {s['min_s']:8.3f} {s['max_s']:8.3f} "
               f"{s['tokens_per_step'] / s['seconds_per_step']:9.0f} "
               f"{s['peak_bytes'] / MIB:9.0f} {own}")


def verdict(entry, has_amx):
    if entry["goal"] is None:
        return ""
    if entry["measured"] is None:
        return "not measured"
    if entry["measured"]["reached"]:
        return "yes"
    return "no (no AMX)" if entry["needs_amx"] and not has_amx else "no"


def comparison_lines(document, with_goal):
    entries = [entry for entry in document["comparisons"]
               if (entry["goal"] is not None) == with_goal]
    if not entries:
        return
    has_amx = document["machine"]["flags"]["amx_bf16"]
    yield (f"{'measure':46} {'run':20} {'goal':>8} {'measured':>8} {'min':>6} {'max':>6}"
           + ("  reached" if with_goal else ""))
    for entry in entries:
        sign = ">=" if entry["quantity"] in AT_LEAST else "<="
        goal = f"{sign} {entry['goal']:.2f}" if with_goal else ""
        got = entry["measured"]
        figures = (f"{got['median']:8.2f} {got['min']:6.2f} {got['max']:6.2f}" if got
                   else f"{'-':>8} {'':6} {'':6}")
        yield (f"{entry['row']:46} {entry['cell']:20} {goal:>8} {figures}  "
               f"{verdict(entry, has_amx)}").rstrip()


def check_lines(document):
    if not document["checks"]:
        return
    yield f"{'first loss':44} {'value':>10} {'Python':>10} {'error':>9} {'bound':>7}  equal tokens"
    for check in document["checks"]:
        yield (f"{check['variant']:44} {check['loss']:10.6f} {check['expected']:10.6f} "
               f"{check['relative_error']:9.1e} {check['bound']:7.0e}  "
               f"{'yes' if check['same_tokens'] else 'NO'}"
               + ("" if check["passed"] else "  FAILED"))


def trouble_lines(document):
    for name, entry in document["variants"].items():
        if entry["status"] != "done":
            yield f"{name}: {entry['status']}: {entry['reason']}"


def lines(document):
    """The whole report."""
    yield from header(document)
    sections = [("Runs (medians over the rounds of a run's median step)", run_lines(document)),
                ("Goals", comparison_lines(document, True)),
                ("Without a goal", comparison_lines(document, False)),
                ("The same work on both sides (error: largest of all steps; LoRA: of the first)",
                 check_lines(document)),
                ("Not run or failed", trouble_lines(document))]
    for title, body in sections:
        body = list(body)
        if body:
            yield from ("", title, *body)
