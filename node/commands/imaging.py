"""`limner segment` and `limner inspect`: stages 6-8 on a folder, without a node."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from node.commands.cards import find_card
from node.commands.context import json_option, print_json, print_table
from node.results.summary import size_text
from node.settings import RUNTIMES

if TYPE_CHECKING:
    from node.worker.segmenting import Part, Segmented


@click.command(name="inspect")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
@click.option(
    "--mask",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="NIfTI or DICOM-SEG: minimum, median, maximum inside it.",
)
@click.option(
    "--nifti",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write each usable volume as NIfTI into this folder.",
)
def inspect(folder: Path, as_json: bool, mask: Path | None, nifti: Path | None) -> None:
    """Say what volumes and frames FOLDER holds, or why none. Exit code 1 if none is usable.

    \b
    Example:
      limner inspect study/ --json
    """
    from node.imaging.inspect import inspect_folder

    said = inspect_folder(folder, mask=mask, nifti=nifti)
    volumes: list[dict[str, Any]] = said["volumes"]
    usable = [volume for volume in volumes if volume["usable"]]
    if as_json:
        print_json(said)
    else:
        rows = [_inspect_row(volume) for volume in volumes]
        headings = ("series", "modality", "shape", "spacing mm", "range", "usable")
        print_table(headings, rows, empty=f"{folder} holds no DICOM series.")
    sys.exit(0 if usable else 1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", "model", required=True, help="A bundled model's name, or a model folder.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where result objects go; made if absent.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    help="What runs the network; auto: the fastest that keeps the model's labels.",
)
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="0: all cores.")
@click.option("--node-name", default="limner", show_default=True, help="Station name in results.")
@click.option("--pictures", is_flag=True, help="Also write each slice with the segments on it.")
@json_option
def segment(
    folder: Path,
    model: str,
    out: Path,
    device: str,
    runtime: str,
    threads: int,
    node_name: str,
    pictures: bool,
    as_json: bool,
) -> None:
    """Segment the volumes or frames in FOLDER and write SEG objects to --out.

    By the node's own code. Exit code 1 when nothing is usable.

    \b
    Example:
      limner segment study/ --model lung-ct --out results/ --json
      limner segment study/ --model models/our-model --out results/ --pictures
    """
    from node.models.memory import tune_allocator

    tune_allocator()
    from node.imaging.read import read_folder
    from node.models.loaded import load_model
    from node.results.write import NodeFacts
    from node.worker.segmenting import segment_files

    card = find_card(model)
    loaded = load_model(card, device=device, threads=threads, runtime=runtime)
    out.mkdir(parents=True, exist_ok=True)
    with _bar() as bar:
        found = segment_files(
            read_folder(folder), loaded, NodeFacts(node_name, version("limner")), bar.progress
        )
    volumes = [_written(part, out, pictures=pictures) for part in found]
    usable = [volume for volume in volumes if volume["usable"]]
    summary = f"{len(usable)} of {len(volumes)} volumes segmented by {card.name} {card.version}."
    if as_json:
        print_json({"volumes": volumes, "summary": summary, "intended_use": card.intended_use})
    else:
        _print_segmented(volumes)
        click.echo(f"{summary} {card.intended_use}")
    sys.exit(0 if usable else 1)


def _inspect_row(volume: dict[str, Any]) -> tuple[object, ...]:
    series = f"{volume['series_uid']} part {volume['part']}"
    if not volume["usable"]:
        why = f"no, {volume['reason']}: {volume['explanation']}"
        return series, volume["modality"], "-", "-", "-", why
    figures = (volume[name] for name in ("minimum", "median", "maximum"))
    shown = " / ".join("-" if figure is None else f"{figure:g}" for figure in figures)
    return (
        series,
        volume["modality"],
        " x ".join(map(str, volume["shape"])),
        " x ".join("-" if mm is None else f"{mm:.3f}" for mm in volume["spacing_mm"]),
        f"{shown} {volume['units']}",
        f"yes; {volume['reason']}: {volume['explanation']}" if volume["reason"] else "yes",
    )


def _written(part: Part, out: Path, *, pictures: bool) -> dict[str, Any]:
    """Write the objects of one part and return its entry of the JSON (design 10.5)."""
    from node.worker.segmenting import Segmented

    if isinstance(part, Segmented):
        drawn = _pictures(part, out) if pictures and part.pictures else None
        return _segmented(part, out) | {"pictures": drawn}
    series_uid = getattr(part, "series_uid", "")
    return {
        "series_uid": series_uid,
        "part": getattr(part, "part", 1),
        "usable": False,
        "reason": str(getattr(part, "reason", "")),
        "explanation": getattr(part, "explanation", ""),
        "shape": None,
        "spacing_mm": None,
        "segments": [],
        "measurements": [],
        "findings": [],
        "results": [],
        "pictures": None,
        "verdict": None,
        "seconds": {},
    }


def _segmented(part: Segmented, out: Path) -> dict[str, Any]:
    from node.worker.segment_jobs import findings_said

    results = []
    for result in part.results:
        path = out / f"{result.sop_uid}.dcm"
        path.write_bytes(result.data)
        results.append(
            {
                "kind": result.kind,
                "encoding": result.encoding,
                "path": str(path),
                "sop_instance_uid": result.sop_uid,
                "series_instance_uid": result.series_uid,
                "sha256": result.digest,
            }
        )
    said = part.results[0].summary if part.results else None
    verdict = part.answer.verdict
    return {
        "series_uid": part.plan.series_uid,
        "part": part.plan.part,
        "usable": True,
        "reason": None,
        "explanation": None,
        "shape": list(part.plan.shape),
        "spacing_mm": list(part.plan.spacing_mm),
        "segments": [
            {
                "number": segment.number,
                "label": segment.label,
                "code": segment.code,
                **segment.sizes(),
            }
            for segment in (said.segments if said else ())
        ],
        "measurements": said.measurements if said else (),
        "findings": findings_said(said.findings) if said else [],
        "results": results,
        "verdict": {"outcome": verdict.outcome, "reasons": list(verdict.reasons)},
        "runtime": dict(part.answer.runtime),
        "seconds": {stage: round(value, 3) for stage, value in part.seconds.items()},
    }


def _pictures(part: Segmented, out: Path) -> str:
    """Write one JPEG per slice or frame into a folder named as the result, and return it."""
    folder = out / f"pictures-{part.results[0].sop_uid}"
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(part.pictures):
        (folder / f"{number:04}.jpg").write_bytes(picture)
    return str(folder)


def _print_segmented(volumes: Sequence[dict[str, Any]]) -> None:
    rows: list[tuple[object, ...]] = []
    for volume in volumes:
        if not volume["usable"]:
            why = f"{volume['reason']}: {volume['explanation']}"
            rows.append((volume["series_uid"], "-", "-", "not usable", why))
        for each in volume["segments"]:
            where = volume["results"][0]["path"]
            outcome = str(volume["verdict"]["outcome"])
            rows.append((volume["series_uid"], each["label"], size_text(each), outcome, where))
        for each in volume["findings"]:
            where = volume["results"][0]["path"]
            outcome = str(volume["verdict"]["outcome"])
            said = f"{'present' if each['present'] else 'absent'}, {each['probability']:.0%}"
            rows.append((volume["series_uid"], each["label"], said, outcome, where))
    print_table(("series", "found", "how much", "verdict", "written"), rows, empty="No DICOM.")
    for volume in volumes:
        if volume["pictures"]:
            click.echo(f"Pictures: {volume['pictures']}")


class _bar:  # noqa: N801  reads as a phrase: `with _bar() as bar`
    """A progress bar with the time that is left on a terminal; plain lines elsewhere."""

    def __enter__(self) -> _bar:
        from node.worker.segmenting import Progress

        self._shown = Bar(
            TextColumn("{task.description:8}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task: Any = None
        self._stage = ""
        self.progress = Progress(self._tell)
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def _tell(self, stage: str, fraction: float) -> None:
        if stage != self._stage:
            self._stage = stage
            if self._shown.disable:
                click.echo(f"{stage} ...", err=True)
            elif self._task is not None:
                self._shown.remove_task(self._task)
            self._task = None if self._shown.disable else self._shown.add_task(stage, total=1.0)
        if self._task is not None:
            self._shown.update(self._task, completed=fraction)
