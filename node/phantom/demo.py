"""`limner demo`: a phantom scanner, a whole node, a phantom PACS, and a look at what came back.

The node is the real one: `limner run` as a process in a scratch folder, on free loopback ports,
with the embedded database and the bundled lung model. The demo drives it from outside, as a
scanner and a PACS would, prints each stage as the rows show it, and ends by holding the SEG that
the PACS received against the phantom's known truth.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from node.dicom.requestor import Target
from node.dicom.scu import echo
from node.errors import LimnerError, passing_error
from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.values import Floats, Labels, Refusal, Volume
from node.imaging.volume import load_volume
from node.phantom import pacs, scanner
from node.phantom.pacs import PhantomPacs
from node.phantom.ports import free_port
from node.phantom.study import PhantomStudy, Profile, make_study, write_study
from node.results.reader import read_segmentation
from node.settings import Settings, load_settings
from storage.database import Engine, open_engine, reading
from storage.story import JobStory, StudyStory, story
from storage.studies import find_study

SEED: Final = 7
"""The demo's patient; no training set contains it (`training` draws from 1,000,000 on)."""

WANTED_DICE: Final = 0.95
LONGEST_S: Final = 300.0
MODEL: Final = "lung-ct"
PROFILE: Final = Profile(shape=(60, 512, 512))
SIDES: Final = {1: "right lung", 2: "left lung"}

CONFIG: Final = """\
[node]
name = "demo"
quiet_s = 2

[storage]
reserve_mb = 200

[listener]
host = "127.0.0.1"
port = {listen_port}

[web]
port = {web_port}

[[peers]]
name = "scanner"
ae_title = "PHANTOMSCANNER"
may = ["echo", "store"]

[[peers]]
name = "pacs"
ae_title = "PHANTOMPACS"
host = "127.0.0.1"
port = {pacs_port}
may = ["echo", "commit"]
takes = ["SEG"]
proof = "commitment"

[[routes]]
name = "lungs"
model = "lung-ct"
from = ["scanner"]
send_to = ["pacs"]
[routes.when]
Modality = "CT"
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Dice:
    """How well one side agrees with the truth, before and after post-processing."""

    side: str
    raw: float
    final: float


@dataclass(slots=True)
class DemoNode:
    """The node under demonstration."""

    folder: Path
    settings: Settings
    process: subprocess.Popen[bytes]
    engine: Engine

    @property
    def target(self) -> Target:
        """Where the scanner sends to."""
        listener = self.settings.listener
        return Target(
            name="limner", ae_title=listener.ae_title, host="127.0.0.1", port=listener.port
        )

    @property
    def pages(self) -> str:
        """Address of its pages."""
        return f"http://{self.settings.web.host}:{self.settings.web.port}/"


@dataclass(slots=True)
class Teller:
    """Prints lines with the seconds since the demo began."""

    say: Say
    began: float = field(default_factory=time.monotonic)

    def __call__(self, text: str) -> None:
        """Print one line."""
        self.say(f"{time.monotonic() - self.began:6.1f} s  {text}")


def run_demo(folder: Path | None, *, keep: bool, say: Say, seed: int = SEED) -> bool:
    """Run the demo; return whether what came back agrees with the truth.

    Args:
        folder: The node's folder, or None for a scratch folder that is removed at the end.
        keep: Leave the node running until Ctrl-C, and print the address of its pages.
        say: Takes each line.
        seed: The phantom patient.

    Raises:
        PassingError: The node did not start, or the study did not come through in time.
    """
    tell = Teller(say)
    with _folder(folder) as home, PhantomPacs(home / "pacs", ae_title=pacs.AE_TITLE) as archive:
        tell(f"phantom PACS listens on port {archive.target.port}")
        with _node(home / "node", archive.target.port, tell) as node:
            archive.answer_to(node.target)
            tell(f"making a phantom chest CT: seed {seed}, 60 slices of 512 x 512")
            study = make_study(seed, PROFILE)
            tell(f"made {len(study.instances)} instances; one phantom patient, nobody's data")
            _wait_listening(node, tell)
            scanner.send_study(node.target, study.instances, calling_ae=scanner.AE_TITLE)
            tell(f"scanner: all {len(study.instances)} instances were answered with success")
            _follow(node, study.study_uid, tell)
            good = _look_at_result(archive, study, home, tell)
            tell("the demo " + ("passed." if good else "FAILED."))
            if keep:
                _stay(node, tell)
    _say_next(say)
    return good


def _follow(node: DemoNode, study_uid: str, tell: Teller) -> None:
    """Print each stage as the rows show it, until the study is done."""
    said: set[str] = set()
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        with reading(node.engine) as db:
            row = find_study(db, study_uid)
            told = story(db, row.id) if row else None
        for line in _stages(told) if told else ():
            if line not in said:
                said.add(line)
                tell(line)
        if told is not None and told.study.state in ("done", "held"):
            tell(f"study {told.study.state}: {told.study.sentence}")
            if told.study.state == "done" and not told.study.needs_person:
                return
            break
        if node.process.poll() is not None:
            break
        time.sleep(0.05)
    raise passing_error(
        "demo-not-through",
        "The phantom study did not come through the line.",
        where=str(node.folder),
        remedy="Run it with --folder FOLDER and read FOLDER/node/log.txt.",
    )


def _stages(told: StudyStory) -> Iterator[str]:
    """Return the lines of the stages that the rows show by now."""
    if any(a.outcome == "released" for a in told.associations):
        yield f"received: {told.instance_count} instances are durable, with their rows"
    for each in told.revisions:
        yield f"settled: revision {each.revision.number}. {each.revision.reason}"
        for decision in each.decisions:
            yield f"decided: route {decision.route} -> {decision.model}: {decision.outcome}"
    for job in told.jobs:
        yield from _job_stages(job)


def _job_stages(told: JobStory) -> Iterator[str]:
    yield f"queued: job {told.job.id}"
    for attempt in told.attempts:
        yield f"claimed: attempt {attempt.number} by {attempt.worker}"
        if attempt.ended_ms is not None and attempt.seconds:
            spent = ", ".join(f"{name} {value:.1f} s" for name, value in attempt.seconds.items())
            yield f"segmented: {attempt.outcome} ({spent})"
    for each in told.results:
        for part in each.result.summary.get("segments", ()):
            yield f"written: {each.result.kind}, {part['label']} {part['volume_ml']:.0f} ml"
        for delivery in each.deliveries:
            peer = delivery.delivery.peer
            for contact in delivery.attempts:
                yield f"delivered: {contact.action} to {peer}, status {contact.status or 'none'}"
            for asked in delivery.commitments:
                if asked.answered_ms is not None:
                    yield f"confirmed: {peer} on storage commitment: {asked.outcome}"


def _look_at_result(archive: PhantomPacs, study: PhantomStudy, home: Path, tell: Teller) -> bool:
    """Read the SEG back from the PACS and hold it against the truth."""
    files = [stored.file for stored in archive.stored if stored.file is not None]
    if len(files) != 1:
        tell(f"the PACS holds {len(files)} objects where one SEG was wanted")
        return False
    write_study(home / "study", study)
    (plan,) = [p for p in find_volumes(read_folder(home / "study")) if not isinstance(p, Refusal)]
    volume = load_volume(plan)
    if isinstance(volume, Refusal):
        tell(f"the phantom cannot be read: {volume.explanation}")
        return False
    final = read_segmentation(files[0], volume)
    raw = _raw_labels(volume)
    truth = study.truth.labels
    scores = [
        Dice(name, _dice(raw == number, truth == number), _dice(final == number, truth == number))
        for number, name in SIDES.items()
    ]
    for score in scores:
        tell(f"Dice {score.side}: raw {score.raw:.4f}, final {score.final:.4f}")
    on_side = _marker_on_its_side(final, volume.affine, study.truth.marker_mm)
    tell("the marker on the patient's right lies " + ("" if on_side else "NOT ") + "beside the "
         "right lung of the SEG")  # fmt: skip
    return on_side and all(min(score.raw, score.final) >= WANTED_DICE for score in scores)


def _raw_labels(volume: Volume) -> Labels:
    """Return the bundled model's labels before any post-processing."""
    from dataclasses import replace

    from node.models.card import find_cards
    from node.models.inference import segment_volume
    from node.models.loaded import load_model
    from node.settings import bundled_config

    card = find_cards([bundled_config() / "models"])[MODEL]
    model = load_model(card)
    bare = replace(model, card=replace(card, postprocess=()))
    return segment_volume(volume, bare).labels


def _dice(found: Labels, wanted: Labels) -> float:
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(wanted))
    return 2.0 * int(np.count_nonzero(found & wanted)) / total if total else 1.0


def _marker_on_its_side(
    labels: Labels, affine: Floats, marker_mm: tuple[float, float, float] | None
) -> bool:
    """Say whether the marker is nearer to the SEG's right lung than to its left one, in LPS."""
    if marker_mm is None or not all((labels == number).any() for number in SIDES):
        return False
    centres = []
    for number in SIDES:
        index = np.argwhere(labels == number).mean(axis=0)
        centres.append((affine @ np.append(index, 1.0))[0])
    right, left = centres
    return bool(right < left and abs(marker_mm[0] - right) < abs(marker_mm[0] - left))


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="limner-demo-") as scratch:
        yield Path(scratch)


@contextmanager
def _node(folder: Path, pacs_port: int, tell: Teller) -> Iterator[DemoNode]:
    """Start `limner run` in `folder`; end it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "limner.toml"
    ports = {"listen_port": free_port(), "web_port": free_port(), "pacs_port": pacs_port}
    config.write_text(CONFIG.format(**ports), encoding="utf-8")
    settings = load_settings(config)
    log_path = folder / "log.txt"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "node.cli", "run", "--config", str(config)],
            stdout=log,
            stderr=log,
        )
    engine = open_engine(settings.storage.database_url)
    tell(f"node: limner run, listener on port {settings.listener.port}, log in {log_path}")
    try:
        yield DemoNode(folder, settings, process, engine)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        engine.dispose()


def _wait_listening(node: DemoNode, tell: Teller) -> None:
    """Wait until the node answers a C-ECHO."""
    until = time.monotonic() + 60
    while True:
        try:
            echo(node.target, calling_ae=scanner.AE_TITLE)
        except LimnerError:
            if time.monotonic() > until or node.process.poll() is not None:
                raise
            time.sleep(0.2)
        else:
            tell("scanner: the node answered a C-ECHO")
            return


def _stay(node: DemoNode, tell: Teller) -> None:
    """Leave the node running until Ctrl-C; make an operator with a password for once."""
    password = secrets.token_urlsafe(12)
    subprocess.run(
        [sys.executable, "-m", "node.cli", "users", "add", "demo", "--role", "operator",
         "--password-stdin", "--config", str(node.settings.path)],
        input=password + "\n", text=True, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    tell(f"pages: {node.pages}")
    tell(f"sign in as demo with the password {password} (valid for this demo only)")
    tell("Ctrl-C ends the node.")
    try:
        node.process.wait()
    except KeyboardInterrupt:
        tell("ending.")


def _say_next(say: Say) -> None:
    say("")
    say(
        "Run a node for real:  limner init node1     (then add peers and routes to its limner.toml)"
    )
    say("                      limner check --config node1/limner.toml")
    say("                      limner run --config node1/limner.toml")
