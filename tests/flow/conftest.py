"""A running node with a phantom PACS that records every C-STORE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_node import RunningNode, made_node, peers_and_routes

from node.dicom.requestor import Target
from node.phantom.pacs import PhantomPacs
from node.phantom.scanner import send_study
from node.phantom.study import PhantomStudy


@dataclass(slots=True)
class Line:
    """A node between a scanner and a recording PACS."""

    node: RunningNode
    pacs: PhantomPacs

    @property
    def target(self) -> Target:
        listener = self.node.settings.listener
        return Target(
            name="limner", ae_title=listener.ae_title, host="127.0.0.1", port=listener.port
        )

    def start(self, environment: dict[str, str] | None = None) -> None:
        self.pacs.answer_to(self.target)
        self.node.start(environment)

    def send(self, study: PhantomStudy, **options: object) -> None:
        answers = send_study(self.target, study.instances, calling_ae="SCANNER", **options)
        assert {answer.kind for answer in answers} == {"stored"}

    def segs(self) -> list[bytes]:
        """Return what the PACS kept, one entry per C-STORE."""
        return [stored.file.read_bytes() for stored in self.pacs.stored if stored.file]


@pytest.fixture
def line(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Line]:
    """A node with the bundled lung model on CT, not yet started."""
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(
            pacs_port=pacs.target.port, model="lung-ct", when='Modality = "CT"'
        )
        with made_node(tmp_path / "node", free_port, tables) as node:
            yield Line(node, pacs)
