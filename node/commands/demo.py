"""`limner demo`: see `node.phantom.demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option("--keep", is_flag=True, help="Leave the node running and print its pages' address.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep everything in this folder; without it a scratch folder is used and removed.",
)
def demo(keep: bool, folder: Path | None) -> None:
    """Send a phantom chest CT through a whole node and check what comes back.

    A phantom scanner sends over DICOM, the node decides, segments, writes a SEG, sends it to a
    phantom PACS and asks for storage commitment. The SEG is read back and held against the
    phantom's truth. Exit code 1 if it does not agree.

    \b
    Example:
      limner demo
      limner demo --keep
    """
    from node.phantom.demo import run_demo

    good = run_demo(folder, keep=keep, say=click.echo)
    sys.exit(0 if good else 1)
