"""Where log lines go: a file for every rank, a short console for people. Metrics are sinks.py's business."""

import logging
import sys
from pathlib import Path
from typing import TextIO

ROOT = "realm_ds"
"""Loggers of this package are children of this one: logging.getLogger(__name__)."""

_FILE_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
_LOUD_LIBRARIES = ("deepspeed", "DeepSpeed", "transformers", "torch", "faiss", "webdataset")


def log_path(run_folder: Path, *, role: str, role_rank: int) -> Path:
    """The log file of a rank."""
    return run_folder / "logs" / f"{role}-{role_rank}.log"


def start_logs(
    run_folder: Path, *, role: str, role_rank: int, leads: bool, level: str = "INFO", console: TextIO | None = None
) -> Path:
    """Send this rank's records to its file; the rank that leads also tells people, the others only warn them."""
    path = log_path(run_folder, role=role, role_rank=role_rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(path, encoding="utf-8", delay=False)
    to_file.setFormatter(logging.Formatter(_FILE_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S"))
    to_console = logging.StreamHandler(console or sys.stderr)
    to_console.setFormatter(logging.Formatter("%(message)s" if leads else f"[{role} {role_rank}] %(message)s"))
    to_console.setLevel(level if leads else logging.WARNING)
    to_console.addFilter(_is_ours)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(to_file)
    root.addHandler(to_console)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level)
    logging.captureWarnings(True)
    hush_libraries()
    return path


def hush_libraries() -> None:
    """Take the libraries' own console handlers away; their records reach the file. Call again after importing one."""
    for name in _LOUD_LIBRARIES:
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
        logger.propagate = True


def _is_ours(record: logging.LogRecord) -> bool:
    """Only our own words are for the console: a deprecation inside a library is nothing its user can mend."""
    return record.name == ROOT or record.name.startswith(f"{ROOT}.")
