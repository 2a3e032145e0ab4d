"""What happens to files."""

import pathlib


def damage(path: pathlib.Path, how: str = "flip") -> None:
    """Breaks the largest of a checkpoint's files."""
    file = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data[: len(data) // 2] if how == "cut" else data)
