"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from node.phantom import ports

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function that gives a path in the shared real data, or skips visibly."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data not present: shared/data/{name}")
        return path

    return find


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a function that gives a loopback TCP port that was free a moment ago."""

    return ports.free_port


ALLOWED_SKIPS = (
    "real data not present",
    "power cuts need root, loop devices and mkfs.ext4",
    "the recorder of system calls needs a C compiler and Linux",
)
"""What may be skipped where CI runs; any other skip is a test that did not do its work."""

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note skips that are not allowed."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run in which something was skipped that may not be."""
    if os.environ.get("CI") and _skipped and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips failed a CI run."""
    if os.environ.get("CI"):
        for line in _skipped:
            terminalreporter.write_line(f"not on the allow-list of skips: {line}")
