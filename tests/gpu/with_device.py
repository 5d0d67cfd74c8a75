#!/usr/bin/env python3
"""Runs a command where there is a GPU; ends with 77, which CTest takes for skipped, where not.
with_device.py HAS_DEVICE COMMAND [ARGUMENT...]"""

import subprocess
import sys


def main():
    found = subprocess.run([sys.argv[1]], check=False).returncode
    if found != 0:
        return found
    return subprocess.run(sys.argv[2:], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
