"""From instances to volumes in physical units, and back; geometry that is exact or refused.

The way in: `read_folder` or rows give `InstanceFile`s, `find_volumes` gives plans or refusals
from headers alone, `load_volume` reads the voxels of one plan. Ultrasound is no volume:
`find_images` plans its frames as well, `frame_reader.open_frames` reads them a few at a time.
"""

from __future__ import annotations

from node.imaging.images import find_images
from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.volume import load_volume

__all__ = ["find_images", "find_volumes", "load_volume", "read_folder"]
