"""Runs pytest for a test target: its files, the tests of one hardware and tier, the report where Bazel wants it."""

from __future__ import annotations

import os
import sys

import pytest

HARDWARE = {"cpu": "not cuda and not xla", "cuda": "cuda", "xla": "xla"}
TIERS = {"default": "not slow and not slurm", "slow": "slow", "slurm": "slurm"}


def main(argv: list[str]) -> int:
    """Entry point; `argv` is `--hardware=KIND --tier=TIER FILE… [pytest options]`. Returns the exit code."""
    hardware = argv[0].removeprefix("--hardware=")
    tier = argv[1].removeprefix("--tier=")
    options = ["-p", "no:cacheprovider", "-m", f"({HARDWARE[hardware]}) and ({TIERS[tier]})", *argv[2:]]
    if "XML_OUTPUT_FILE" in os.environ:
        options.append(f"--junitxml={os.environ['XML_OUTPUT_FILE']}")
    if os.environ.get("TESTBRIDGE_TEST_ONLY"):
        options += ["-k", os.environ["TESTBRIDGE_TEST_ONLY"]]
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.environ.get("TEST_TMPDIR", "/tmp"))
    return int(pytest.main(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
