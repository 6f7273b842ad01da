"""Prints a line per file instead of dots: `[ 45%] tests/engine/test_oracle.py: 8 in 31 s`.

Files run side by side, so a line comes when the last test of its file is done. Failures are printed
at once, with the test's name.
"""

import time
from collections import Counter
from collections.abc import Iterable

import pytest
from _pytest.terminal import TerminalReporter


class FileProgress:
    """Counts a session's tests by file.

    Args:
        reporter: prints the lines.
    """

    def __init__(self, reporter: TerminalReporter) -> None:
        self._reporter = reporter
        reporter.showfspath = False  # our lines name the files
        self._left: Counter[str] = Counter()
        self._n: Counter[str] = Counter()
        self._began_s: dict[str, float] = {}
        self._n_done = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        self._expect(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._began_s.setdefault(_file(nodeid), time.monotonic())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._reporter.write_line(f"FAILED {report.nodeid} ({report.when})", red=True)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        file = _file(nodeid)
        self._left[file] -= 1
        self._n_done += 1
        if self._left[file] == 0:
            share = self._n_done / max(1, self._n.total())
            took_s = time.monotonic() - self._began_s[file]
            self._reporter.write_line(f"[{share:4.0%}] {file}: {self._n[file]} in {took_s:.0f} s")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str] | None:
        """No dot for a test that passed."""
        return ("passed", "", "PASSED") if report.when == "call" and report.passed else None

    def _expect(self, ids: Iterable[str]) -> None:
        if not self._n:  # all workers collect the same tests
            self._n = Counter(_file(nodeid) for nodeid in ids)
            self._left = self._n.copy()


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
