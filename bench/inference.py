"""How fast and how lean is inference, against MONAI's sliding window on the same network?

`python bench/inference.py` prints a table: our figure, the anchor's and their ratio, medians of
interleaved rounds. Every measurement is a process of its own, with the allocator tuned on both
sides, so that memory is that of one case and nothing is warm that should not be. A case runs
twice in its process: the first run gives the memory, the second the seconds. Both sides start at
the native int16 volume in memory and end at native uint8 labels; labels are compared.

Cases: `stub3`, `stub25` (a network that costs nothing: 256^3, 96^3 patches), `slices` (the
bundled 2D model on 512 x 512 x 98 voxels of its own size) and `window` (a 3D network).
Sides: `torch` and `openvino` are ours, `monai` is the anchor with plain torch. With a GPU, also
`cuda` (ours, in fp16 with recorded passes) and `monai-cuda` (autocast in fp16);
their memory is the device's.

    python bench/inference.py --rounds 5
    python bench/inference.py --cases stub25 --sides torch monai --threads 1 --rounds 3
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ANCHORS = {"torch": "monai", "openvino": "monai", "cuda": "monai-cuda"}
"""Each of our sides, and what it is held against."""
SIDES = ("torch", "openvino", "monai", "cuda", "monai-cuda")
GOALS = {
    ("stub3", "torch"): ("around", 0.08, 0.4),
    ("stub25", "torch"): ("around", 0.45, 0.6),
    ("slices", "torch"): ("total", 0.9, None),
    ("slices", "openvino"): ("total", 0.35, None),
}
"""Per case and side: which seconds count, their ratio to the anchor's, the ratio of memory."""


@dataclass(frozen=True)
class Case:
    """A volume and a card; the stub's answer costs nothing and is never zero."""

    name: str
    shape: tuple[int, int, int]
    card: Callable[[], Any]
    stub: bool = False


CARD = """
schema = 1
name = "bench"
version = "1"
min_slices = 1
[about]
title = "Bench"
intended_use = "For research use only."
licence = "Apache-2.0"
[weights]
sha256 = "{zeros}"
[accepts]
Modality = "CT"
[voxels]
orientation = "native"
spacing_mm = [0, 0, 0]
background = -1000
units = "HU"
[[steps]]
step = "clip"
low = -1024
high = 600
[[steps]]
step = "scale"
from = [-1024, 600]
to = [-1, 1]
[network]
architecture = "unet3d"
outputs = {outputs}
widths = [16, 32, 64, 128]
norm = "instance"
activation = "leaky_relu"
up = "transpose"
[inference]
mode = "window"
patch = [96, 96, 96]
tiling = "clipped"
[head]
kind = "classes"
{segments}
[results]
series_description = "Bench"
"""
SEGMENT = """
[[segments]]
number = {number}
label = "Thing {number}"
category = "91723000, SCT, Anatomical Structure"
type = "39607008, SCT, Lung"
"""


def window_card(outputs: int) -> Any:
    """Return the card of a 3D network without weights."""
    from node.models.card import parse_card

    segments = "".join(SEGMENT.format(number=number) for number in range(1, outputs))
    return parse_card(
        CARD.format(outputs=outputs, segments=segments, zeros="0" * 64), Path("bench")
    )


def bundled_card() -> Any:
    """Return the bundled 2D model's card, on native voxels: nothing is resampled."""
    from node.models.card import load_card

    card = load_card(ROOT / "config" / "models" / "lung-ct")
    return replace(card, voxels=replace(card.voxels, spacing_mm=(0.0, 0.0, 0.0)), postprocess=())


CASES = {
    case.name: case
    for case in (
        Case("stub3", (256, 256, 256), lambda: window_card(3), stub=True),
        Case("stub25", (256, 256, 256), lambda: window_card(25), stub=True),
        Case("slices", (98, 512, 512), bundled_card),
        Case("window", (160, 176, 192), lambda: window_card(3)),
    )
}


def make_network(case: Case, card: Any) -> Any:
    """Return the case's network, the same on both sides."""
    import torch
    from torch import nn

    from node.models.architectures import build_network
    from node.models.weights import put_weights, read_weights_file

    class Stub(nn.Module):
        """Hands out one answer, so that everything else is what is measured."""

        def __init__(self, outputs: int, patch: Sequence[int]) -> None:
            super().__init__()
            made = torch.Generator().manual_seed(1)
            self.answer = torch.rand((1, outputs, *patch), generator=made) + 0.5

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            # A copy, as a network gives: MONAI writes into what it gets.
            return self.answer.repeat(image.shape[0], *[1] * (self.answer.dim() - 1))

    if case.stub:
        return Stub(card.network.outputs, card.inference.patch)
    torch.manual_seed(1)
    network = build_network(card.network)
    if card.weights.sha256 != "0" * 64:
        weights = read_weights_file(card.weights_path, sha256=card.weights.sha256)
        put_weights(network, weights, where=card.weights_path)
    return network.eval().requires_grad_(requires_grad=False)


def make_array(shape: tuple[int, int, int]) -> Any:
    """Return smooth int16 values between -1000 and 1000: two networks agree on noise too easily."""
    import numpy as np

    z, y, x = (np.linspace(0, 6, side) for side in shape)
    wave = np.sin(3 * z)[:, None, None] * np.cos(2 * y)[:, None] + np.sin(x * 1.7)
    noise = np.random.default_rng(1).normal(0, 60, shape)
    return (wave * 450 + noise).astype(np.int16)


class Timed:
    """Adds up the seconds inside a network."""

    def __init__(self, network: Any, wait: Callable[[], None]) -> None:
        self.network = network
        self.wait = wait
        self.wall = self.cpu = 0.0

    def __call__(self, *images: Any) -> Any:
        """Call the network, and wait until its device has answered."""
        self.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        found = self.network(*images)
        self.wait()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return found


def our_side(case: Case, card: Any, array: Any, runtime: str, threads: int) -> Any:
    """Return a function that gives labels, and the timer of its network."""
    import numpy as np
    import torch

    from node.imaging.values import Volume
    from node.models.inference import labels_of_volume
    from node.models.loaded import LoadedModel
    from node.models.torch_runtime import TorchRuntime

    network = make_network(case, card)
    if runtime == "cuda":
        made: Any = TorchRuntime(
            network, device=torch.device("cuda"), precision="fp16", threads=threads
        )
    elif runtime == "openvino":
        from node.models.openvino_runtime import OpenVinoRuntime

        made = OpenVinoRuntime(network, threads=threads, precision="fp32")
    else:
        made = TorchRuntime(network, device=torch.device("cpu"), precision="fp32", threads=threads)
    timed = Timed(made.scores, waiting(runtime))
    model = LoadedModel(card=card, network=network, runner=Spied(made, timed))
    # Axial slices from the feet up, which is the cards' orientation: nothing is turned.
    affine = np.eye(4)[[2, 1, 0, 3]]
    volume = Volume(array, affine, (1.0, 1.0, 1.0), "HU", "CT", "1.2", 1, (), ())
    return (lambda: labels_of_volume(volume, model)), timed


class Spied:
    """A runtime whose calls are timed."""

    def __init__(self, inner: Any, timed: Timed) -> None:
        self.inner = inner
        self.timed = timed

    def __getattr__(self, name: str) -> Any:
        """Be the inner one but for `scores`."""
        return self.timed if name == "scores" else getattr(self.inner, name)


def waiting(side: str) -> Callable[[], None]:
    """Return what waits for the side's device."""
    import torch

    return torch.cuda.synchronize if side.endswith("cuda") else lambda: None


def monai_side(case: Case, card: Any, array: Any, side: str) -> Any:
    """Return the same for MONAI's inferers with plain torch: transform, window, argmax."""
    import numpy as np
    import torch
    from monai.inferers import SliceInferer, sliding_window_inference
    from monai.transforms import ScaleIntensityRange

    from node.models.tiles import lay_tiles

    device = torch.device("cuda" if side.endswith("cuda") else "cpu")
    network = make_network(case, card).to(device)
    timed = Timed(network, waiting(side))
    scale = ScaleIntensityRange(-1024, 600, -1, 1, clip=True)
    inference = card.inference

    def labels() -> Any:
        image = scale(torch.from_numpy(array.astype(np.float32)))[None, None].to(device)
        half = torch.autocast("cuda", dtype=torch.float16, enabled=device.type == "cuda")
        with torch.no_grad(), half:
            if inference.mode == "slices":
                inferer = SliceInferer(
                    roi_size=array.shape[1:], sw_batch_size=inference.batch, spatial_dim=0
                )
                scores = inferer(image, timed)
            else:
                weight = torch.from_numpy(lay_tiles(array.shape, inference).weight()).to(device)
                scores = sliding_window_inference(
                    image, inference.patch, inference.batch, timed, overlap=inference.overlap,
                    roi_weight_map=weight,
                )  # fmt: skip
            return scores.argmax(1)[0].to(torch.uint8).cpu().numpy()

    return labels, timed


def measure(case: Case, side: str, threads: int, labels_file: Path) -> dict[str, float]:
    """Run one case on one side in this process; the labels go to a file."""
    from node.models.memory import tune_allocator

    tune_allocator()
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    card = case.card()
    array = make_array(case.shape)
    if side in ANCHORS.values():
        work, timed = monai_side(case, card, array, side)
    else:
        work, timed = our_side(case, card, array, side, threads)
    ctypes.CDLL(None).malloc_trim(0)  # what making the case left over is not the case
    base = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    labels = work()
    megabytes = (_memory("VmHWM") - base) / 1024
    if side.endswith("cuda"):
        megabytes = torch.cuda.max_memory_allocated() / 2**20
    timed.wall = timed.cpu = 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    labels = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    np.save(labels_file, labels)
    return {
        "total": wall,
        "around": wall - timed.wall,
        "cpu": cpu,
        "cpu_around": cpu - timed.cpu,
        "mb": megabytes,
    }


def _memory(key: str) -> int:
    """Return a line of /proc/self/status, KiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise SystemExit(f"this system does not tell {key}")


def in_child(case: str, side: str, threads: int, folder: Path) -> dict[str, float]:
    """Measure in a new process."""
    command = [
        sys.executable, __file__, "--one", case, side,
        "--threads", str(threads), "--labels", str(folder / f"{case}-{side}.npy"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def changed(folder: Path, case: str, side: str) -> str:
    """Return the share of voxels whose label is not the anchor's."""
    import numpy as np

    ours, theirs = (np.load(folder / f"{case}-{one}.npy") for one in (side, ANCHORS[side]))
    share = float(np.mean(ours != theirs))
    return f"{share:.1e} of {len(np.unique(theirs))} labels"


def report(
    found: dict[tuple[str, str], list[dict[str, float]]], folder: Path, sides: Sequence[str]
) -> None:
    """Print the table."""
    print(f"{'case':8} {'side':9} {'what':>10} {'ours':>9} {'monai':>9} {'ratio':>6} {'goal':>6}")
    for case in dict.fromkeys(name for name, _ in found):
        for side in sides:
            if side not in ANCHORS or (case, side) not in found:
                continue
            ours, theirs = found[case, side], found.get((case, ANCHORS[side]), [])
            which, seconds_goal, memory_goal = GOALS.get((case, side), ("", None, None))
            for key in ("around", "total", "cpu_around", "cpu", "mb"):
                mine = median(one[key] for one in ours)
                their = median(one[key] for one in theirs) if theirs else float("nan")
                ratios = [a[key] / b[key] for a, b in zip(ours, theirs, strict=False) if b[key] > 0]
                ratio = f"{median(ratios):.3f}" if ratios else "-"
                goal = seconds_goal if key == which else memory_goal if key == "mb" else None
                unit = "MB" if key == "mb" else f"{key} s"
                print(
                    f"{case:8} {side:9} {unit:>12} {mine:9.3f} {their:9.3f} {ratio:>6} "
                    f"{goal if goal else '':>6}"
                )
            if theirs:
                print(f"{case:8} {side:9} labels that differ: {changed(folder, case, side)}")


def default_sides() -> list[str]:
    """Return the sides that this machine has."""
    has_gpu = Path("/dev/nvidia0").exists()
    has_openvino = importlib.util.find_spec("openvino") is not None
    return [
        side
        for side in SIDES
        if (has_gpu or not side.endswith("cuda")) and (has_openvino or side != "openvino")
    ]


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--sides", nargs="+", choices=SIDES, default=default_sides())
    options.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options.add_argument("--labels", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path, help="Write every round here.")
    chosen = options.parse_args()
    if chosen.one:
        case, side = chosen.one
        print(json.dumps(measure(CASES[case], side, chosen.threads, chosen.labels)))
        return
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, chosen.rounds + 1):
            for case in chosen.cases:
                for side in chosen.sides:
                    if CASES[case].stub and side == "openvino":
                        continue  # the stub has nothing to compile
                    one = in_child(case, side, chosen.threads, Path(scratch))
                    found.setdefault((case, side), []).append(one)
                    told = f"round {number}: {case} {side} {one['total']:.2f} s"
                    print(f"{told}, around {one['around']:.2f} s, {one['mb']:.0f} MB", flush=True)
        report(found, Path(scratch), chosen.sides)
    if chosen.json:
        rows = [{"case": c, "side": s, "rounds": each} for (c, s), each in found.items()]
        chosen.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
