"""Clips: video files -> frames at given times."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.stream import Disposition

from flamingo_jax.data import image

MAX_PIXELS = 4096 * 2304
"""Of one frame. Larger ones are not decoded, whatever a file's header claims."""

MAX_RATE = 240
"""Frames per second that are decoded at most: it bounds the time that a file which claims more can take."""

# The demuxer is chosen by the file's first bytes and named to FFmpeg. Left to guess, it also takes play lists, which
# open other files and addresses.
_SIGNATURES = (
    (4, b"ftyp", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (4, b"moov", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"mdat", "mp4"),
    (0, b"GIF8", "gif"),
)

# Kinds of "ftyp" that are images (AVIF, HEIF), moving ones included, as a GIF is.
_IMAGES = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"hevc", b"hevx")
_LIMITS = {"max_pixels": str(MAX_PIXELS)}  # FFmpeg's, before it allocates a frame
_SLACK = 1e-3  # seconds: time bases such as 1/90000 or 1/1000 round


def is_video(data: bytes) -> bool:
    """Whether these are the first bytes of a video file; a GIF counts as an image here."""
    return any(data[o : o + len(s)] == s for o, s, name in _SIGNATURES if name != "gif") and data[8:12] not in _IMAGES


def decode(
    video: str | os.PathLike | bytes, *, fps: float = 1.0, max_frames: int = 32, size: int | None = None
) -> list[np.ndarray]:
    """The frames that a player shows at 0, 1/fps, 2/fps, ... seconds after the first one.

    Times are the frames' own time stamps: with a variable frame rate, their numbers and the stream's average rate say
    nothing. A frame that FFmpeg marks as damaged is not shown, nor what follows it up to the next key frame. Of a file
    that cannot be read any further after some frames, those frames.

    Args:
        video: path or content of an MP4, MOV, WebM, MKV or AVI file or a GIF.
        fps: frames per second wanted.
        max_frames: no more than these; decoding stops there.
        size: when given, frames whose longest side is longer are resized to it.

    Returns:
        At least one uint8 [H, W, 3], upright.

    Raises:
        ValueError: it cannot be read, has no video stream, no frame, or too large ones.
    """
    frames: list[np.ndarray] = []
    try:
        with io.BytesIO(video) if isinstance(video, bytes) else open(video, "rb") as file:
            _decode(file, fps, max_frames, size, frames)
    except Exception as error:  # PyAV's own types, OSError, ValueError, MemoryError ...: one bad file
        if not frames:
            raise ValueError(f"Not a readable video: {error}.") from None
    if not frames:
        raise ValueError("Not a readable video: it has no frame.")
    return frames


def _decode(file, fps: float, max_frames: int, size: int | None, frames: list[np.ndarray]) -> None:
    """Appends to ``frames`` as it goes, so that the caller has what came before an error."""
    demuxer = _demuxer(file.read(16))
    file.seek(0)
    with av.open(file, format=demuxer, options=_LIMITS) as container:
        # The cover of a piece of music is a video stream too.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise ValueError("it has no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise ValueError(f"its frames have more than {MAX_PIXELS} pixels")
        stream.codec_context.options = _LIMITS
        stream.codec_context.thread_count = 1  # files are decoded in parallel already
        for frame in _shown(container.decode(stream), fps, max_frames):
            frames.append(_pixels(frame, size))


def _shown(frames: Iterable[av.VideoFrame], fps: float, max_frames: int) -> Iterator[av.VideoFrame]:
    """Those that ``decode`` gives. An error in ``frames`` comes after what was shown before it."""
    shown = error = None  # shown: the frame on the screen until the next one's time comes
    start, count, damaged = 0.0, 0, False
    try:
        for number, frame in enumerate(frames):
            if count == max_frames or number > math.ceil(max_frames / fps * MAX_RATE):
                break
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if damaged or frame.time is None:
                continue
            start = frame.time if shown is None else start
            while shown is not None and count < max_frames and count / fps < frame.time - start - _SLACK:
                yield shown
                count += 1
            shown = frame
    except Exception as raised:
        error = raised
    if shown is not None and count < max_frames and count / fps <= shown.time - start + _SLACK:
        yield shown
    if error is not None:
        raise error


def _demuxer(head: bytes) -> str:
    for offset, signature, name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return name
    raise ValueError("its first bytes are those of no known format")


def _pixels(frame: av.VideoFrame, size: int | None) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    if size and max(pixels.shape[:2]) > size:
        pixels = image.resize(pixels, size)
    # Telephones record lying and note by how much to turn, counter-clockwise, in degrees.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
