"""Small web archives for tests."""

import gzip
import io

import numpy as np
from PIL import Image


def picture(seed, size=(80, 70), format="PNG"):
    """A picture of coloured clouds, which no filter takes for a single colour."""
    buffer = io.BytesIO()
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(coarse).resize(size).save(buffer, format)
    return buffer.getvalue()


def response(url, body, kind="text/html; charset=utf-8", status="200 OK", headers="", compress=gzip.compress):
    """One record of a WARC file."""
    http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{headers}\r\n".encode() + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
        "WARC-Record-ID: <urn:uuid:0>\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return compress(head.encode() + http + b"\r\n\r\n")
