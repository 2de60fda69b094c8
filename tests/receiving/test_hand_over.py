"""One `limner listen` takes the port over from another, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .calling import Caller
from .listening import Listening, made_listening


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    with made_listening(tmp_path / "node") as made:
        yield made


def test_a_successor_takes_the_port_and_the_predecessor_ends(listening: Listening) -> None:
    first = listening.start()
    second = listening.start()

    assert first.process.wait(20) == 0, first.said()
    caller = Caller(listening.port)
    assert caller.store("1.2.3.1") == 0
    caller.release()
    listening.until(lambda: listening.sop_uids() == {"1.2.3.1"}, "it is indexed")
    assert not second.ended()
