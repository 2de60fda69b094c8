"""A small disk whose power can be cut: ext4 on a loop device, and ext4's own shutdown.

`EXT4_IOC_SHUTDOWN` with the flag "do not flush the journal" stops the file system at once: what was
not synced is gone, and every later write and sync fails. After a new mount the files are what a
machine finds when it comes back from a power cut (a disk that lies about its cache aside).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_WITHOUT_FLUSHING: Final = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH

CANNOT_CUT: Final = "power cuts need root, loop devices and mkfs.ext4"
"""Why a machine skips these tests, in the words of the list of allowed skips."""


def can_cut_power() -> bool:
    """Return whether this machine lets us mount a disk of our own."""
    return (
        os.geteuid() == 0
        and Path("/dev/loop-control").exists()
        and all(shutil.which(tool) for tool in ("mkfs.ext4", "mount", "umount", "losetup"))
    )


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """An ext4 file system on a loop device, mounted at `folder`."""

    device: str
    folder: Path

    def cut_power(self) -> None:
        """Stop the file system: nothing that is not synced by now will be there again."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Make everything durable that is on it now."""
        _run("sync", "--file-system", str(self.folder))

    def come_back(self) -> None:
        """Unmount and mount again; the journal is recovered. No process may use the disk."""
        self.unmount()
        self.mount()

    def mount(self) -> None:
        _run("mount", "-t", "ext4", self.device, str(self.folder))

    def unmount(self, *, patience_s: float = 10.0) -> None:
        until = time.monotonic() + patience_s
        while self.folder.is_mount():
            try:
                _run("umount", str(self.folder))
            except subprocess.CalledProcessError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)  # a killed process may take a moment to close its files


@contextmanager
def small_disk(folder: Path, *, size_mb: int) -> Iterator[SmallDisk]:
    """Give a new disk; whatever happens it is unmounted and its loop device given back.

    Args:
        folder: For the image and the mount point.
        size_mb: Size of the image in MiB; it takes only as much space as is written.
    """
    image, mount_point = folder / "disk.img", folder / "disk"
    mount_point.mkdir()
    with image.open("xb") as file:
        file.truncate(size_mb * 1024 * 1024)
    _run("mkfs.ext4", "-q", "-F", str(image))
    device = _run("losetup", "--find", "--show", str(image))
    disk = SmallDisk(device, mount_point)
    try:
        disk.mount()
        yield disk
    finally:
        try:
            disk.unmount()
        except subprocess.CalledProcessError:
            _run("umount", "--lazy", str(mount_point))
            raise
        finally:
            _run("losetup", "--detach", device)
            image.unlink()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
