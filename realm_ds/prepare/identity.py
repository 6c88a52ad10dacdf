"""Whether what a job reads is what it read before: its identity is names, sizes and digests of files, as JSON.

What else a job is, and how two of them are compared, is unfinished.py's.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from realm_ds.errors import ConfigError


def digest_of(identity: Any) -> str | None:
    """What is kept of an identity, which may name thousands of files; None where there is none."""
    if identity is None:
        return None
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def refuse_unknown(identity: Any, *, where: Path) -> None:
    """Raise ConfigError where there is no identity: what is there already may have come of other text."""
    if identity is None:
        raise ConfigError(
            f"{where} holds what came of an earlier call, and what stdin or a pipe gives cannot be compared with what "
            "was read then: name another folder, or remove this one first (a job that reads files can go on)"
        )
