"""The program of a decoding child: decodes frames that it is handed, under limits, and dies alone.

Started by `decode.py` as a script with `python -I`, so it imports nothing of ours. Decoders are
C libraries fed with bytes from the network: some were seen to crash or to run for seconds on
damaged streams. Cells are written into memory that the parent shares as a file descriptor; only
a short answer travels back.

One request on the socket is a head (`REQUEST`) and the compressed bytes; a request with the codec
`memory` brings a file descriptor instead and has no answer.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
from typing import Any

REQUEST = struct.Struct("<12sIQIIBBI")
"""Codec, bytes that follow, offset in memory, rows, columns, samples per pixel, bytes per cell, CPU
seconds."""

ANSWER = struct.Struct("<BH")
"""1 if decoded, and how many bytes of text follow."""


def decode(codec: str, data: bytes, shape: tuple[int, ...], cell_bytes: int) -> Any:
    """Return the pixels of one frame as an array; any exception means that it failed.

    Colour is never converted: of three samples per pixel the parent says what they are. Only the
    component transform of JPEG 2000 belongs to the stream and is undone by its decoder.
    """
    import imagecodecs

    if codec == "rle":
        import numpy as np
        from rle.rle import decode_frame

        plain = decode_frame(data, shape[0] * shape[1], cell_bytes * 8, "<")
        planes = np.frombuffer(plain, dtype=f"<u{cell_bytes}").reshape(*shape[2:], *shape[:2])
        return np.moveaxis(planes, 0, -1) if len(shape) == 3 else planes
    if codec == "jpeg" and len(shape) == 3:
        return imagecodecs.jpeg8_decode(data, colorspace="YCBCR", outcolorspace="YCBCR")
    if codec == "jpeg":
        return imagecodecs.jpeg8_decode(data)
    if codec == "jpeg-ls":
        return imagecodecs.jpegls_decode(data)
    if codec == "jpeg-2000":
        return imagecodecs.jpeg2k_decode(data, numthreads=1)
    if codec == "htj2k":
        return imagecodecs.htj2k_decode(data, resilient=False)
    raise ValueError(f"unknown codec {codec}")


def write(memory: int, offset: int, pixels: Any, shape: tuple[int, ...], cell_bytes: int) -> None:
    """Check the shape and put the cells in their place, as unsigned little-endian integers."""
    if pixels.shape != shape:
        raise ValueError(f"decoded to shape {pixels.shape}, wanted {shape}")
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > cell_bytes:
        raise ValueError(f"decoded to {pixels.dtype}, wanted {cell_bytes} bytes")
    cells = memoryview(pixels.astype(f"<u{cell_bytes}", order="C", copy=False)).cast("B")
    while cells:
        done = os.pwrite(memory, cells, offset)
        cells, offset = cells[done:], offset + done


def limit_cpu(seconds: int) -> None:
    """Let the kernel end this process if it burns more CPU than `seconds` from now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def receive(connection: socket.socket, count: int) -> bytes:
    """Return exactly so many bytes; end the process if the parent is gone."""
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            sys.exit(0)
        parts += part
    return bytes(parts)


def serve(connection: socket.socket) -> None:
    """Answer requests until the parent closes its end."""
    memory = -1
    while True:
        head, received, _, _ = socket.recv_fds(connection, REQUEST.size, 1)
        if not head:
            return
        head += receive(connection, REQUEST.size - len(head))
        name, length, offset, rows, columns, samples, cell_bytes, cpu_s = REQUEST.unpack(head)
        codec = name.rstrip(b"\0").decode("ascii")
        if codec == "memory":
            if memory >= 0:
                os.close(memory)
            memory = received[0]
            continue
        data = receive(connection, length)
        limit_cpu(cpu_s)
        shape = (rows, columns) if samples == 1 else (rows, columns, samples)
        try:
            pixels = decode(codec, data, shape, cell_bytes)
            write(memory, offset, pixels, shape, cell_bytes)
            answer, text = 1, b""
        except Exception as error:  # noqa: BLE001 - the outermost loop of this program
            answer, text = 0, f"{type(error).__name__}: {error}".encode()[:500]
        connection.sendall(ANSWER.pack(answer, len(text)) + text)


def main() -> None:
    """Set the limits, say that this process is ready, and serve."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import imagecodecs  # noqa: F401 - loaded before the address space is limited

    bound = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.sendall(ANSWER.pack(1, 0))
    serve(connection)


if __name__ == "__main__":
    main()
