#!/usr/bin/env python3
"""Prints the requirements of pip requirement files that this interpreter's environment lacks, one a
line, and exits with 1 if there are any. Reads package metadata only: a fraction of a second, no
network, so scripts can ask every time.

--deep follows the dependencies of what is installed. It tells an environment whose torch was
installed without dependencies (enough to link with) from one in which `import torch` works.
"""

import argparse
import sys
from importlib import metadata
from pathlib import Path

# pip is in every environment that venv makes; its own copy needs no installation.
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name


def read_requirements(path):
    """The requirements of one file, those of files that it includes with -r as well."""
    found = []
    for line in path.read_text().splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            found += read_requirements(path.parent / text[3:].strip())
        elif text:
            found.append(Requirement(text))
    return found


def applies(requirement, extras):
    """Whether its marker (platform, Python version, extra) holds here."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def missing(requirements, deep):
    """Requirements that are not installed or installed in another version."""
    lacking, seen, waiting = [], set(), list(requirements)
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), str(wanted.specifier), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            lacking.append(f"{wanted} (not installed)")
            continue
        if not wanted.specifier.contains(found.version, prereleases=True):
            lacking.append(f"{wanted} (installed: {found.version})")
        elif deep:
            needs = [Requirement(text) for text in found.requires or ()]
            waiting += [need for need in needs if applies(need, wanted.extras)]
    return sorted(lacking)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deep", action="store_true", help="check dependencies as well")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    requirements = [entry for path in arguments.files for entry in read_requirements(path)]
    lacking = missing(requirements, arguments.deep)
    print("\n".join(lacking), end="\n" if lacking else "")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
