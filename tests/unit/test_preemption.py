"""A signal asks a run to end: who notices, what is told, and what a run that was stopped so is taken for."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from realm_ds.cli.common import verb
from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.errors import REQUEUE, CheckpointError, IndexFault, Preempted
from realm_ds.files import write_durably
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.messages import MESSAGES, Stop
from realm_ds.launch.failures import (
    explain_preemption,
    forget_last_world,
    record_death,
    record_error,
    record_preemption,
    was_preempted,
)
from realm_ds.launch.local import leaving_when_asked
from realm_ds.launch.stages import prepare_run_folder
from realm_ds.observe.notice import NOTICES, Notice
from realm_ds.sealed import MANIFEST
from realm_ds.train.manifest import step_folder
from tests.support.tiny import tiny_config


@pytest.fixture
def _restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NOTICES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_restored_signals")
@pytest.mark.parametrize("number", NOTICES)
def test_a_signal_is_taken_down_and_ends_nothing(number: signal.Signals) -> None:
    notice = Notice().listen()
    assert not notice.is_given
    signal.raise_signal(number)
    signal.raise_signal(signal.SIGTERM)
    assert notice.is_given
    assert notice.name == number.name


def test_one_trainer_agrees_with_itself() -> None:
    trainers = Trainers(singleton("here"))
    assert trainers.any(True, waiting_for="all")
    assert not trainers.any(False, waiting_for="all")
    assert singleton("here").any(True, timeout_s=1, waiting_for="all")


def test_what_was_done_is_told(tmp_path: Path) -> None:
    text = f"asked to end before there was anything to keep in {tmp_path}: start it again, with or without --resume"
    assert explain_preemption(tmp_path) == text
    record_preemption(tmp_path, step=0)
    assert explain_preemption(tmp_path) == text
    write_durably(step_folder(tmp_path, 7) / MANIFEST, "{}")
    kept = f"asked to end: checkpoint of step 7 is written in {tmp_path}; go on with --resume"
    assert explain_preemption(tmp_path) == kept
    forget_last_world(tmp_path)  # a world that goes on from there, and is asked to end before it can say anything
    assert explain_preemption(tmp_path) == kept


def test_a_failure_on_the_way_out_is_a_failure(tmp_path: Path) -> None:
    assert was_preempted(tmp_path, was_asked=True)
    assert not was_preempted(tmp_path, was_asked=False)
    record_preemption(tmp_path, step=7)
    assert was_preempted(tmp_path, was_asked=False)
    record_error(tmp_path, IndexFault("version 3 could not be built"), pid=os.getpid())
    assert not was_preempted(tmp_path, was_asked=True)


def test_a_rank_that_did_not_listen_yet_dies_of_the_signal(tmp_path: Path) -> None:
    record_death(tmp_path, signal.SIGTERM, pid=os.getpid())
    assert was_preempted(tmp_path, was_asked=True)
    assert not was_preempted(tmp_path, was_asked=False)


@pytest.mark.usefixtures("_restored_signals")
def test_between_worlds_a_signal_ends_the_program(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="asked to end before there was anything to keep"), leaving_when_asked(tmp_path):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_line_ends_with_the_code_for_batch_scripts() -> None:
    app = typer.Typer()

    @app.command()
    @verb
    def train() -> None:
        raise Preempted("asked to end: go on with --resume")

    result = CliRunner().invoke(app)
    assert result.exit_code == REQUEUE == 75
    assert result.stderr == "realm-ds: asked to end: go on with --resume\n"


def test_a_run_stopped_before_its_first_checkpoint_starts_again_with_resume(tmp_path: Path) -> None:
    """A batch script says --resume each time; a mistyped folder is still a mistake."""
    config = tiny_config(tmp_path)
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        prepare_run_folder(tmp_path / "run", config, resume=True)
    prepare_run_folder(tmp_path / "run", config, resume=False)
    prepare_run_folder(tmp_path / "run", config, resume=True)


def client_of(hub: LoopbackHub, rank: int) -> IndexClient:
    return IndexClient(
        hub.mailbox(rank), index_ranks=(2,), trainer_ranks=(0, 1), timeout_s=30.0, build_timeout_s=30.0
    )  # fmt: skip


def ask(client: IndexClient) -> int:
    return client.submit(np.ones((1, 3)), exclusion=exclude_nothing(1), num_hits=2, step=9, version=5)


def test_who_is_asked_to_end_stops_waiting_and_so_do_the_others() -> None:
    hub = LoopbackHub(3, MESSAGES)
    asked, other = client_of(hub, 0), client_of(hub, 1)
    requests = [ask(asked), ask(other)]
    asked.wait(requests[0], unless=lambda: True)
    asked.wait(requests[0], unless=lambda: True)
    other.wait(requests[1], unless=lambda: False)  # returns: it was told
    other.progress()
    assert hub.mailbox(1).poll() is None  # once


def test_a_shard_that_says_stop_in_mid_run_is_a_fault() -> None:
    hub = LoopbackHub(3, MESSAGES)
    client = client_of(hub, 0)
    hub.mailbox(2).send(Stop(), to=0)
    with pytest.raises(IndexFault, match="a trainer received Stop from rank 2; only replies were due"):
        client.progress()


def test_the_deadline_of_an_answer_counts_all_of_the_wait() -> None:
    hub = LoopbackHub(3, MESSAGES)
    client = IndexClient(hub.mailbox(0), index_ranks=(2,), timeout_s=30.0, build_timeout_s=0.05)
    request = ask(client)
    client.wait(request, unless=lambda: False)
    with pytest.raises(IndexFault, match=r"^rank 0 waited 0.05 s for the answer of index rank\(s\) \[2\]"):
        client.collect(request)


def test_the_record_is_one_that_others_can_read(tmp_path: Path) -> None:
    record_preemption(tmp_path, step=7)
    assert json.loads((tmp_path / "preempted.json").read_text())["step"] == 7
