"""The scores of a fine-tuned run, as `qa train` wrote them. Answering the questions is train/qa.py's business."""

import json
from pathlib import Path
from typing import Any

from realm_ds.errors import CheckpointError


def read_scores(run_folder: Path, *, split: str) -> dict[str, Any]:
    """Exact match, F1, recall and the baselines of a split."""
    path = run_folder / "qa" / f"{split}.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no scores in {path}: `realm-ds qa train --run {run_folder}` writes them at its end"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): `realm-ds qa train --resume` writes it again") from None
    if not isinstance(scores, dict):
        raise CheckpointError(
            f"{path} holds no scores but a {type(scores).__name__}: was it written by something else?"
        )
    return scores
