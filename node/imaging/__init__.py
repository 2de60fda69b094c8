"""From instances to volumes in physical units, and back; geometry that is exact or refused.

The way in: `read_folder` or rows give `InstanceFile`s, `find_volumes` gives plans or refusals
from headers alone, `load_volume` reads the voxels of one plan.
"""

from __future__ import annotations

from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.volume import load_volume

__all__ = ["find_volumes", "load_volume", "read_folder"]
