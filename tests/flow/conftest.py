"""A running node with a phantom PACS that records every C-STORE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_node import Line, made_node, peers_and_routes

from node.phantom.pacs import PhantomPacs


@pytest.fixture
def line(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Line]:
    """A node with the bundled lung model on CT, not yet started."""
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(
            pacs_port=pacs.target.port, model="lung-ct", when='Modality = "CT"'
        )
        with made_node(tmp_path / "node", free_port, tables) as node:
            yield Line(node, pacs)
