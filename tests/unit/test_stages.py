"""Before a stage starts: which run folders may be used, and that an export replaces nothing but an export."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from realm_ds.config.load import RUN_CONFIG, load
from realm_ds.errors import CheckpointError, ConfigError, DataError, RealmError
from realm_ds.launch import stages
from realm_ds.launch.node import StageName
from realm_ds.launch.stages import check_inputs, num_processes, prepare_run_folder
from realm_ds.launch.tether import TAG_VARIABLE
from realm_ds.observe.notice import Notice
from realm_ds.train.export import export_run
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_questions


def test_a_run_is_neither_overwritten_nor_made_up(tmp_path: Path) -> None:
    config, run = tiny_config(tmp_path), tmp_path / "run"
    with pytest.raises(CheckpointError, match="no checkpoint to resume from: start the run without --resume"):
        prepare_run_folder(run, config, resume=True)
    prepare_run_folder(run, config, resume=False)
    assert load(run / RUN_CONFIG) == config
    (run / "checkpoints" / "unfinished-step-00000002").mkdir(parents=True)
    prepare_run_folder(run, config, resume=False)  # it ended before its first checkpoint: nothing to lose
    (run / "checkpoints" / "step-00000002").mkdir()
    (run / "checkpoints" / "step-00000002" / "manifest.json").touch()
    with pytest.raises(ConfigError, match="holds a run already: add --resume"):
        prepare_run_folder(run, config, resume=False)
    prepare_run_folder(run, config, resume=True)


def refused(stage: StageName, data: Path, **changes: object) -> str:
    with pytest.raises(RealmError) as caught:
        check_inputs(stage, tiny_config(data, **changes))
    return f"{type(caught.value).__name__}: {caught.value}"


def test_what_a_stage_lacks_is_said_before_any_process_starts(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=2)
    make_questions(tmp_path)
    check_inputs("pretrain", tiny_config(tmp_path))
    settings = tiny_config(tmp_path).qa.model_copy(update={"data": tmp_path / "qa"})
    config = tiny_config(tmp_path).model_copy(update={"qa": settings})
    check_inputs("qa", config)
    assert refused("qa", tmp_path).startswith("ConfigError: qa.data is not set")
    for split in ("test", "dev", "train"):
        (tmp_path / "qa" / f"{split}.jsonl").unlink()
        with pytest.raises(DataError, match=rf"{split}.jsonl cannot be read \(No such file .*: qa.data needs train"):
            check_inputs("qa", config)


def test_more_candidates_than_passages_are_refused(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    check_inputs("pretrain", tiny_config(tmp_path, **{"pretrain.candidates": 12}))
    message = refused("pretrain", tmp_path, **{"pretrain.candidates": 13})
    assert message.startswith("ConfigError: pretrain.candidates=13 needs 13 passages and one to exclude, but ")
    assert message.endswith("corpus holds 12: lower candidates, or index a larger corpus")
    check_inputs("ict", tiny_config(tmp_path, **{"pretrain.candidates": 13}))


def test_builders_are_started_and_checked_like_shards(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    config = tiny_config(tmp_path, **{"index.builders": 3})
    check_inputs("pretrain", config)
    assert (num_processes("pretrain", config), num_processes("ict", config)) == (2 + 2 + 3, 2)
    message = refused("pretrain", tmp_path, **{"index.builders": 13})
    assert message.startswith(
        "ConfigError: index.builders=13 is more than the 12 passages of the corpus; set index.bui"
    )


def test_weights_to_start_from_are_an_export(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    changes = {"model.start_from": tmp_path / "export"}
    for name in ("query_tower", "passage_tower", "encoder"):
        for stage in ("ict", "pretrain"):
            message = refused(stage, tmp_path, **changes)
            assert message == (
                f"CheckpointError: {tmp_path}/export is not an export of realm-ds: {name}/config.json is missing"
            )
        (tmp_path / "export" / name).mkdir(parents=True)
        (tmp_path / "export" / name / "config.json").touch()
    check_inputs("ict", tiny_config(tmp_path, **changes))


def test_looking_at_inputs_needs_no_torch() -> None:
    program = "import sys, realm_ds.launch.stages; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"


@pytest.mark.parametrize("files", [(), ("thesis.tex",), ("manifest.json", "shard-00000.tar")])
def test_an_export_replaces_only_an_export(tmp_path: Path, files: tuple[str, ...]) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    for name in files:
        (out / name).touch()
    with pytest.raises(ConfigError, match="precious is there and is no export, so it is not overwritten: name another"):
        export_run(tmp_path / "run", step=None, out=out)
    assert sorted(path.name for path in out.iterdir()) == sorted(files)


@pytest.mark.parametrize(("world_rank", "tag", "prepares"), [(0, "", True), (1, "", False), (0, "ours", False)])
def test_under_srun_the_first_rank_prepares_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_rank: int, tag: str, prepares: bool
) -> None:
    """Without it a run of srun's could not be exported, and would write over another's checkpoints."""
    make_data(tmp_path, num_facts=2)
    config, run = tiny_config(tmp_path), tmp_path / "run"
    mpi = SimpleNamespace(COMM_WORLD=SimpleNamespace(Get_rank=lambda: world_rank))
    took_part: list[bool] = []
    monkeypatch.setattr(stages, "start_mpi", lambda: mpi)
    monkeypatch.setattr(stages, "run_rank", lambda stage, **options: took_part.append(options["resume"]))
    monkeypatch.delenv(TAG_VARIABLE, raising=False)
    if tag:
        monkeypatch.setenv(TAG_VARIABLE, tag)
    notice = Notice()
    stages._take_part("pretrain", lambda: config, run_folder=run, resume=False, notice=notice)
    assert (run / RUN_CONFIG).exists() == prepares
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    (run / "checkpoints" / "step-00000002" / "manifest.json").touch()
    if prepares:
        with pytest.raises(ConfigError, match="holds a run already"):
            stages._take_part("pretrain", lambda: config, run_folder=run, resume=False, notice=notice)
    stages._take_part("pretrain", lambda: config, run_folder=run, resume=True, notice=notice)
    assert took_part == [False, True]
