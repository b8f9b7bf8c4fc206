"""Sums the test reports of a Bazel run: `python3 tools/test_summary.py EVENTS.json` → `N passed, N failed, N skipped`.

EVENTS.json is what `--build_event_json_file` writes. A target that failed without a failing test in its report (it
did not start, or ran out of time) counts as one failure. Exits 1 when a test failed or no test ran.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def counts(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of one JUnit report."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total = sum(int(suite.get("tests", 0)) for suite in suites)
    failed = sum(int(suite.get("failures", 0)) + int(suite.get("errors", 0)) for suite in suites)
    skipped = sum(int(suite.get("skipped", 0)) for suite in suites)
    return total - failed - skipped, failed, skipped


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    totals = [0, 0, 0]
    for line in Path(argv[0]).read_text().splitlines():
        event = json.loads(line)
        if "completed" in event and not event["completed"].get("success"):
            totals[1] += 1  # it was not built, so there is no test result
            print(f"{event['id']['targetCompleted']['label']}: NOT BUILT")
        if "testResult" not in event:
            continue
        result = event["testResult"]
        reports = [file["uri"] for file in result.get("testActionOutput", []) if file["name"] == "test.xml"]
        found = [0, 0, 0]
        for uri in reports:
            path = Path(urllib.parse.unquote(urllib.parse.urlparse(uri).path))
            if path.is_file():
                found = list(counts(path))
        if result["status"] not in ("PASSED", "FLAKY") and not found[1]:
            found[1] = 1
            print(f"{event['id']['testResult']['label']}: {result['status']}")
        totals = [total + more for total, more in zip(totals, found, strict=True)]
    print("{} passed, {} failed, {} skipped".format(*totals))
    return int(totals[1] > 0 or sum(totals) == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
