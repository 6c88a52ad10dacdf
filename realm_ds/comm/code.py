"""Which code this process runs, as a few words that can be compared between ranks. No library is loaded for it."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "deepspeed", "numpy", "mpi4py", "transformers", "tokenizers")
"""What must behave alike on all ranks. faiss is another package on hosts with GPUs, and may be."""


def code_name(package: Path = PACKAGE) -> str:
    """Version of realm-ds and a digest of its Python files, whatever folder they are in."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(content)}\n".encode())
        digest.update(content)
    return f"realm-ds {_version('realm-ds')} ({digest.hexdigest()[:12]})"


def library_versions() -> dict[str, str]:
    """Python and the libraries by name, as they are installed."""
    faiss = next((name for name in ("faiss-cpu", "faiss-gpu-cu12") if _version(name) != "absent"), "faiss-cpu")
    return {"python": platform.python_version(), **{name: _version(name) for name in (*LIBRARIES, faiss)}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
