"""What tells one file, model or index from another: hashes of their bytes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE = 1 << 30  # files up to this size are hashed whole, larger ones by evenly spaced blocks
_BLOCK = 1 << 20


def of_files(files: Iterable[Path]) -> str:
    """Of names, sizes and bytes; of a file over 1 GiB, of 256 evenly spaced blocks. 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as handle:
            for offset in range(0, size, _BLOCK if size <= WHOLE else size // 256):
                handle.seek(offset)
                digest.update(handle.read(_BLOCK))
    return digest.hexdigest()[:16]


def sha256(path: Path) -> str:
    """The file's SHA-256, as sha256sum prints it."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def of_text(text: str) -> str:
    """Of a text. 16 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
