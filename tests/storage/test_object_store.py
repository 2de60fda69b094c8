"""What the object store promises: durable when `put` returns, never half-written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.errors import StorageFailed, StorageFull
from storage.objects import ObjectStore, Place

FAR_BEYOND_ANY_DISK_MB = 1 << 40


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("data", [b"", b"one", [b"a", b"", b"bc"], [bytes(3_000_000)] * 7])
def test_what_was_put_is_read_byte_for_byte(tmp_path: Path, data: bytes | list[bytes]) -> None:
    store = ObjectStore(tmp_path / "objects")
    place = store.put(data, kind="instances")
    whole = data if isinstance(data, bytes) else b"".join(data)
    assert (store.read(place), place.length) == (whole, len(whole))
    assert store.path(place).read_bytes() == whole


def test_a_place_may_be_a_part_of_an_object(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    place = store.put(b"0123456789", kind="results")
    assert store.read(Place(place.name, 3, 4)) == b"3456"


def test_equal_bytes_put_twice_are_two_objects(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    assert store.put(b"x", kind="results").name != store.put(b"x", kind="results").name


def test_data_reach_the_disk_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of system calls is observed; each still does its work."""
    store = ObjectStore(tmp_path)
    calls: list[str] = []
    real_write, real_sync = os.write, os.fdatasync
    real_rename, real_fsync = os.rename, os.fsync

    def name(descriptor: int) -> str:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return "folder" if path.is_dir() else path.suffix

    def write(descriptor: int, data: memoryview) -> int:
        calls.append(f"write {name(descriptor)}")
        return real_write(descriptor, data)

    def fdatasync(descriptor: int) -> None:
        calls.append(f"sync {name(descriptor)}")
        real_sync(descriptor)

    def rename(old: Path, new: Path) -> None:
        calls.append(f"rename {old.suffix} {new.suffix}")
        real_rename(old, new)

    def fsync(descriptor: int) -> None:
        calls.append(f"sync {name(descriptor)}")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "fsync", fsync)
    store.put([b"a", b"b"], kind="instances")
    assert calls == [
        "sync folder",  # the root learns of `instances`
        "sync folder",  # `instances` learns of `ab`
        "write .part",
        "write .part",
        "sync .part",
        "rename .part .obj",
        "sync folder",
    ]


KILLED_AT = """
import os, sys
from pathlib import Path
from storage.objects import ObjectStore
store = ObjectStore(Path(sys.argv[1]))
store._make_folder = lambda folder: folder.mkdir(parents=True)  # its syncs come too early here
setattr(os, sys.argv[2], lambda *_: os._exit(9))
store.put(b"bytes", kind="instances")
"""


@pytest.mark.parametrize(
    ("call", "left"),
    [("write", ".part"), ("fdatasync", ".part"), ("rename", ".part"), ("fsync", ".obj")],
)
def test_a_process_killed_at_any_step_leaves_nothing_that_looks_whole_but_is_not(
    tmp_path: Path, call: str, left: str
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_AT, str(tmp_path), call], check=False)
    assert done.returncode == 9
    [file] = files(tmp_path)
    assert file.endswith(left)
    if left == ".obj":  # complete, but no row names it: it costs space and nothing else
        assert (tmp_path / file).read_bytes() == b"bytes"
    store = ObjectStore(tmp_path)
    assert store.sweep() == 0  # it might be another process's work
    assert store.sweep(older_than_s=0) == (left == ".part")
    assert files(tmp_path) == ([] if left == ".part" else [file])


def test_no_put_when_less_than_the_reserve_would_stay_free(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path, reserve_mb=FAR_BEYOND_ANY_DISK_MB)
    assert store.free_bytes() == 0
    with pytest.raises(StorageFull, match="Free space"):
        store.put(b"x", kind="instances")
    assert files(tmp_path) == []


FULL_DISK = """
import sys
from pathlib import Path
from storage.errors import StorageFull
from storage.objects import ObjectStore
store = ObjectStore(Path(sys.argv[1]))
store.free_bytes = lambda: 1 << 60  # the look beforehand is fooled; the disk itself says no
kept = store.put(b"kept", kind="instances")
try:
    store.put([bytes(700_000), bytes(700_000)], kind="instances")
except StorageFull:
    assert store.read(kept) == b"kept"
    print([path.suffix for path in Path(sys.argv[1]).rglob("*.*")])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_runs_full_leaves_what_was_there_and_no_part(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=1m full "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable]
    done = subprocess.run([*command, FULL_DISK], check=True, capture_output=True, text=True)
    assert done.stdout == "['.obj']\n"


def test_a_writer_that_gives_up_leaves_nothing(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)

    def broken() -> object:
        yield b"first"
        raise ConnectionResetError("the peer went away")

    with pytest.raises(StorageFailed, match="cannot be written"):
        store.put(broken(), kind="instances")  # type: ignore[arg-type]
    assert files(tmp_path) == []


def test_many_threads_put_at_once(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    places: list[tuple[Place, bytes]] = []

    def put(number: int) -> None:
        data = f"{number}".encode() * 100
        places.append((store.put(data, kind="instances"), data))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(places) == 16 and all(store.read(place) == data for place, data in places)


def test_missing_short_and_foreign_objects_are_said_so(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    place = store.put(b"0123", kind="instances")
    with pytest.raises(StorageFailed, match="4 of 9 bytes"):
        store.read(Place(place.name, 0, 9))
    for name in ("../outside", "/etc/passwd", ""):
        with pytest.raises(StorageFailed, match="object-name"):
            store.path(Place(name, 0, 1))
    store.delete(place)
    store.delete(place)
    with pytest.raises(StorageFailed, match="object-unreadable"):
        store.read(place)


def test_a_store_where_a_file_is_in_the_way_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="folder-not-made"):
        ObjectStore(tmp_path / "file" / "objects")
