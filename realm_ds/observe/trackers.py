"""Metrics of trainer 0 for Weights & Biases or MLflow, beside the run folder's own. Neither is needed, and neither can
end a run: one that fails is let go with a warning.

Both work without a network. wandb keeps its files in RUN/wandb unless an account is configured (`wandb sync` sends them
later), mlflow in RUN/mlruns unless MLFLOW_TRACKING_URI says where else. A resumed run goes on in the same curves.
"""

import logging
import netrc
import os
import time
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from realm_ds.errors import ConfigError

logger = logging.getLogger(__name__)

TrackerName = Literal["none", "wandb", "mlflow"]
PROJECT = "realm-ds"
WANDB_HOST = "api.wandb.ai"
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


class Tracker(Protocol):
    """A library's curves of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_tracker(name: TrackerName) -> None:
    """Before ranks start. Raises ConfigError if the library that a tracker needs is not installed."""
    if name != "none" and find_spec(name) is None:
        raise ConfigError(
            f"runtime.tracker={name} needs that library, which is not installed here: pip install {_PACKAGES[name]} "
            "(or 'realm-ds[tracking]'), or set runtime.tracker=none"
        )


def open_tracker(name: TrackerName, run_folder: Path, *, stage: str, settings: Mapping[str, Any]) -> Tracker | None:
    """Curves of a stage of a run; None where none are wanted, or where the library does not start."""
    if name == "none":
        return None
    kind = _Wandb if name == "wandb" else _Mlflow
    try:
        return _Tolerant(kind(run_folder, stage=stage, settings=settings), name=name)
    except Exception as error:
        _let_go(name, error)
        return None


class _Tolerant:
    """A tracker until it fails."""

    def __init__(self, tracker: Tracker, *, name: str) -> None:
        self._tracker: Tracker | None = tracker
        self._name = name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._tracker is None:
            return
        try:
            self._tracker.log(step, values)
        except Exception as error:
            self._tracker = None
            _let_go(self._name, error)

    def close(self) -> None:
        if self._tracker is None:
            return
        try:
            self._tracker.close()
        except Exception as error:
            _let_go(self._name, error)


class _Wandb:
    def __init__(self, run_folder: Path, *, stage: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=PROJECT, name=f"{run_folder.name} {stage}", dir=run_folder, config=dict(settings), resume="allow",
            id=_kept_id(run_folder / f"wandb-{stage}.id", new=uuid.uuid4().hex[:12]), mode=_wandb_mode(),
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, run_folder: Path, *, stage: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        # Later versions want a database, which the skinny package lacks; files are enough for one run's curves.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run_folder / "mlruns").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        path = run_folder / f"mlflow-{stage}.id"
        if not path.exists():
            path.write_text(self._client.create_run(number, run_name=f"{run_folder.name} {stage}").info.run_id)
        self._id = path.read_text()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = round(1e3 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _wandb_mode() -> str:
    """As WANDB_MODE says; else offline without an account, since wandb would wait for one to be typed in."""
    said = os.environ.get("WANDB_MODE")
    if said:
        return said
    try:
        has_account = netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        has_account = False
    return "online" if has_account or os.environ.get("WANDB_API_KEY") else "offline"


def _kept_id(path: Path, *, new: str) -> str:
    """The id of this run's curves, the same after a resume."""
    if not path.exists():
        path.write_text(new)
    return path.read_text()


def _let_go(name: str, error: Exception) -> None:
    logger.warning(
        "%s does not take the metrics (%s: %s): the run goes on without; they are in metrics/ and events/ as well",
        name, type(error).__name__, str(error).splitlines()[0] if str(error) else "",
    )  # fmt: skip
