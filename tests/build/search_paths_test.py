"""Where the programs of a build look for shared libraries. An empty or relative element of a RUNPATH
is the current directory: whoever may write there decides what every rank runs. Every program and
library of the build directory is looked at, and the program as `cmake --install` leaves it, which
must start."""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

EXECUTABLE, SHARED = 2, 3  # e_type of the ELF header


def elf_files(directory):
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            header = file.read(18)
        if header[:4] == b"\x7fELF" and int.from_bytes(header[16:18], "little") in (EXECUTABLE, SHARED):
            yield path


def search_path(path):
    """Elements of RPATH and RUNPATH."""
    dynamic = subprocess.run(["readelf", "--dynamic", "--wide", path], capture_output=True, text=True,
                             check=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}).stdout
    found = re.findall(r"\((?:RPATH|RUNPATH)\)\s+Library (?:rpath|runpath): \[(.*)\]", dynamic)
    return [element for text in found for element in text.split(":")]


def problems_of(path):
    return [f"{path}: searches '{element}', expected an absolute path or one from $ORIGIN"
            for element in search_path(path) if not re.match(r"/|\$ORIGIN(/|$)", element)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, type=Path)
    build = parser.parse_args().build
    with tempfile.TemporaryDirectory() as prefix:
        subprocess.run(["cmake", "--install", build, "--prefix", prefix], check=True,
                       stdout=subprocess.DEVNULL)
        installed = list(elf_files(Path(prefix)))
        assert [path.name for path in installed] == ["vaccine"], installed
        version = subprocess.run([installed[0], "--version"], capture_output=True, text=True,
                                 check=False)
        assert version.returncode == 0, version.stderr
        files = [*elf_files(build), *installed]
        assert build / "vaccine" in files, f"no program in {build}"
        assert search_path(build / "vaccine"), "finds no RUNPATH: nothing was compared"
        problems = [problem for path in files for problem in problems_of(path)]
    assert not problems, "\n" + "\n".join(problems)
    print(f"{len(files)} files")


if __name__ == "__main__":
    main()
