"""Before a stage starts: which run folders may be used, and that an export replaces nothing but an export."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from realm_ds.config.load import RUN_CONFIG, load
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.launch import stages
from realm_ds.launch.stages import prepare_run_folder
from realm_ds.launch.tether import TAG_VARIABLE
from realm_ds.train.export import export_run
from tests.support.tiny import make_data, tiny_config


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
    stages._take_part("pretrain", lambda: config, run_folder=run, resume=False)
    assert (run / RUN_CONFIG).exists() == prepares
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    (run / "checkpoints" / "step-00000002" / "manifest.json").touch()
    if prepares:
        with pytest.raises(ConfigError, match="holds a run already"):
            stages._take_part("pretrain", lambda: config, run_folder=run, resume=False)
    stages._take_part("pretrain", lambda: config, run_folder=run, resume=True)
    assert took_part == [False, True]
