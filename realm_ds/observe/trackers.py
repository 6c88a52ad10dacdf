"""Metrics of trainer 0 for Weights & Biases or MLflow, beside the run folder's own. Neither is needed, and neither can
end a run or hold it up: each has a thread of its own, and one that fails is let go with a warning.

Both work without a network. wandb keeps its files in RUN/wandb unless an account is configured (`wandb sync` sends them
later), mlflow in RUN/mlruns unless MLFLOW_TRACKING_URI says where else. A resumed run goes on in the same curves.
"""

import logging
import netrc
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol

from realm_ds.config.base import TrackerName
from realm_ds.errors import ConfigError

logger = logging.getLogger(__name__)

PROJECT = "realm-ds"
WANDB_HOST = "api.wandb.ai"
QUEUED = 1000
"""Rows that wait for a slow library; what comes when there are so many is left out."""
CLOSE_S = 60.0
"""A run that is done waits so long for the library to have taken everything."""
CLOSE_FAILED_S = 2.0
"""And one that fails, so that it is marked as failed."""
MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Unless the environment says otherwise. Its own are 7 and 120 s: a server that is away would hold up the start."""
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


class Tracker(Protocol):
    """A library's curves of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, *, failed: bool) -> None: ...


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
        return _Behind(kind(run_folder, stage=stage, settings=settings), name=name)
    except Exception as error:
        _let_go(name, error)
        return None


class _Behind:
    """A tracker behind a queue, until it fails."""

    def __init__(self, tracker: Tracker, *, name: str) -> None:
        self._tracker: Tracker | None = tracker
        self._name = name
        self._rows: Queue[tuple[int, Mapping[str, float]] | None] = Queue(QUEUED)
        """None is the last."""
        self._failed = self._has_left_out = False
        # A daemon: a library that hangs does not keep the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        try:
            self._rows.put_nowait((step, values))
        except Full:
            if not self._has_left_out:
                self._has_left_out = True
                logger.warning("%s is too slow: it lacks steps from %d on; metrics/ has all", self._name, step)

    def close(self, *, failed: bool) -> None:
        self._failed = failed
        if failed:
            with suppress(Empty):
                while True:
                    self._rows.get_nowait()
        patience_s = CLOSE_FAILED_S if failed else CLOSE_S
        with suppress(Full):
            self._rows.put(None, timeout=patience_s)
        self._thread.join(patience_s)
        if self._thread.is_alive():
            logger.warning("%s has not taken the last metrics within %g s; metrics/ has all", self._name, patience_s)

    def _run(self) -> None:
        while (row := self._rows.get()) is not None:
            self._call(lambda tracker, row=row: tracker.log(*row))  # type: ignore[misc]
        self._call(lambda tracker: tracker.close(failed=self._failed))

    def _call(self, method: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            method(self._tracker)
        except Exception as error:
            self._tracker = None
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

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Mlflow:
    def __init__(self, run_folder: Path, *, stage: str, settings: Mapping[str, Any]) -> None:
        for variable, value in MLFLOW_PATIENCE.items():
            os.environ.setdefault(variable, value)
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

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")


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
