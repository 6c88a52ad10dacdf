"""Before a stage starts: which run folders may be used, and that an export replaces nothing but an export."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from realm_ds.config.load import RUN_CONFIG, load
from realm_ds.config.schema import RealmConfig
from realm_ds.data.question_files import write_questions
from realm_ds.data.records import Question
from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.errors import CheckpointError, ConfigError, DataError, RealmError
from realm_ds.files import write_durably
from realm_ds.launch import stages
from realm_ds.launch.failures import record_rank
from realm_ds.launch.node import StageName
from realm_ds.launch.stages import (
    check_inputs,
    launch_stage,
    num_processes,
    prepare_run_folder,
    refuse_to_join_in,
    show_stage,
    with_local_encoder,
)
from realm_ds.models.realm import build_model
from realm_ds.observe.notice import Notice
from realm_ds.observe.table import RankView
from realm_ds.sealed import seal
from realm_ds.tether import TAG_VARIABLE
from realm_ds.train.export import export_run, write_models
from realm_ds.train.manifest import step_folder
from tests.support.tiny import make_data, make_held_out, tiny_config
from tests.support.tiny_qa import make_questions


def test_a_run_is_neither_overwritten_nor_made_up(tmp_path: Path) -> None:
    config, run = tiny_config(tmp_path), tmp_path / "run"
    with pytest.raises(CheckpointError, match="holds no run to resume: start it without --resume"):
        prepare_run_folder(run, config, resume=True)
    prepare_run_folder(run, config, resume=False)
    assert load(run / RUN_CONFIG) == config
    (run / "checkpoints" / "unfinished-step-00000002").mkdir(parents=True)
    for resume in (False, True):  # it ended before its first checkpoint: nothing to lose
        prepare_run_folder(run, config, resume=resume)
    (run / "checkpoints" / "step-00000002").mkdir()
    (run / "checkpoints" / "step-00000002" / "manifest.json").touch()
    with pytest.raises(ConfigError, match="holds a run already: add --resume"):
        prepare_run_folder(run, config, resume=False)
    prepare_run_folder(run, config, resume=True)


def test_a_run_that_is_live_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    record_rank(tmp_path, world_rank=0, role="trainer", role_rank=0, host=socket.gethostname())
    prepare_run_folder(tmp_path, config, resume=False)  # by a pid that has gone to another program since
    monkeypatch.setattr(stages, "is_realm_ds", lambda pid: pid == os.getpid())
    with pytest.raises(ConfigError, match=rf"is being trained: trainer 0 is process {os.getpid()} of this machine"):
        prepare_run_folder(tmp_path, config, resume=True)
    record_rank(tmp_path, world_rank=0, role="trainer", role_rank=0, host="elsewhere")
    prepare_run_folder(tmp_path, config, resume=True)
    refuse_to_join_in(tmp_path)
    elsewhere = RankView(
        world_rank=0, role="trainer", role_rank=0, host="elsewhere", state="works", age_s=1.0, waiting_for="",
        waited_s=0.0, queries_per_s=None, figures={},
    )  # fmt: skip
    monkeypatch.setattr(stages, "writes_on", lambda run: elsewhere)
    with pytest.raises(ConfigError, match="is being trained: trainer 0 on elsewhere goes on writing. Wait for its end"):
        refuse_to_join_in(tmp_path)


def test_a_run_goes_on_with_its_own_model(tmp_path: Path) -> None:
    prepare_run_folder(tmp_path, tiny_config(tmp_path), resume=False)
    write_checkpoint(tmp_path, step=2, stage="pretrain")
    prepare_run_folder(tmp_path, tiny_config(tmp_path, **{"model.dropout": 0.0}), resume=True)
    before = (tmp_path / "config.yaml").read_text()
    message = r"cannot go on with another model: model\.hidden_size was 32, now 64\. Undo that, or start a new run"
    with pytest.raises(ConfigError, match=message):
        prepare_run_folder(tmp_path, tiny_config(tmp_path, **{"model.hidden_size": 64}), resume=True)
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.parametrize("before", ["damaged-", "replaced-"])
def test_checkpoints_that_are_lost_tell_of_a_run_too(tmp_path: Path, before: str) -> None:
    config = tiny_config(tmp_path)
    (tmp_path / "checkpoints" / f"{before}step-00000002").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds a run already: add --resume"):
        prepare_run_folder(tmp_path, config, resume=False)
    prepare_run_folder(tmp_path, config, resume=True)


def test_an_interval_longer_than_the_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path, num_facts=1)
    check_inputs("pretrain", tiny_config(tmp_path))
    assert capsys.readouterr().err == ""
    check_inputs("pretrain", tiny_config(tmp_path, **{"refresh.every_steps": 9}))
    said = "realm-ds: the index stays that of step 0: refresh.every_steps is 9, and pretrain.steps 9\n"
    assert capsys.readouterr().err == said
    auto = {"refresh.every_steps": "auto", "refresh.shortest_steps": 20}
    check_inputs("pretrain", tiny_config(tmp_path, **auto))
    assert "stays that of step 0: refresh.shortest_steps is 20, and" in capsys.readouterr().err
    make_questions(tmp_path)
    few = {"qa.data": tmp_path / "qa", "qa.steps": 3, "qa.warmup_steps": 1}
    check_inputs("qa", tiny_config(tmp_path, **SERVED, **few))
    assert "realm-ds: the index stays that of step 0: refresh.every_steps is 3, and qa.steps 3\n" in (
        capsys.readouterr().err
    )
    check_inputs("qa", tiny_config(tmp_path, **few))  # no refresh, no word of it
    assert "the index stays" not in capsys.readouterr().err


def test_fine_tuning_that_starts_from_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = make_data(tmp_path, num_facts=1)
    make_questions(tmp_path)
    settings = {"qa.data": tmp_path / "qa"}
    check_inputs("ict", tiny_config(tmp_path))
    assert capsys.readouterr().err == ""
    check_inputs("qa", tiny_config(tmp_path, **settings))
    said = "realm-ds: model.start_from is not set, so this fine-tunes towers that have not learned to retrieve: name"
    assert capsys.readouterr().err.startswith(said)
    config = tiny_config(tmp_path, **settings, **{"model.start_from": tmp_path / "export"})
    realm = build_model(tiny_config(tmp_path).model, vocab_size=tokenizer.vocab_size, max_tokens=48, seed=0)
    write_models(realm, tmp_path / "export", tokenizer_folder=tmp_path / "tokenizer")
    check_inputs("qa", config)
    assert capsys.readouterr().err == ""


def test_an_export_of_other_sizes_is_refused_with_the_settings_that_fit(tmp_path: Path) -> None:
    tokenizer = make_data(tmp_path, num_facts=1)
    out = tmp_path / "export"
    small = tiny_config(tmp_path, **{"model.num_heads": 1, "model.hidden_size": 16, "model.projection_size": 12}).model
    realm = build_model(small, vocab_size=tokenizer.vocab_size, max_tokens=48, seed=0)
    write_models(realm, out, tokenizer_folder=tmp_path / "tokenizer")
    start = {"model.start_from": out}
    assert refused("ict", tmp_path, **start) == (
        f"ConfigError: model.start_from={out} is of other sizes than this run: set model.projection_size=12 "
        "model.hidden_size=16 model.num_heads=1"
    )
    fitting = {**start, "model.projection_size": 12, "model.hidden_size": 16, "model.num_heads": 1}
    check_inputs("ict", tiny_config(tmp_path, **fitting))
    path = out / "query_tower" / "config.json"
    said = json.loads(path.read_text())
    named = {**fitting, "model.encoder": tmp_path / "bert"}
    for hidden_size, differs in ((16, False), (24, True)):
        write_durably(tmp_path / "bert" / "config.json", json.dumps({**said, "hidden_size": hidden_size}))
        if differs:
            assert refused("ict", tmp_path, **named) == (
                f"ConfigError: model.start_from={out} and model.encoder={tmp_path}/bert are of different sizes "
                "(hidden_size 16 and 24): name the encoder that the export began with"
            )
        else:
            check_inputs("ict", tiny_config(tmp_path, **named))
    path.write_text(json.dumps({**said, "vocab_size": 7}))
    assert refused("ict", tmp_path, **fitting) == (
        f"ConfigError: model.start_from={out} has 7 wordpieces, but data.tokenizer has {tokenizer.vocab_size}: name "
        f"the one in {out}/tokenizer, and prepare the data with it"
    )
    path.write_text("{")
    assert refused("ict", tmp_path, **start).startswith(f"CheckpointError: {out}/query_tower cannot be read (")


def test_an_encoder_from_another_export_is_looked_at_as_well(tmp_path: Path) -> None:
    tokenizer = make_data(tmp_path, num_facts=1)
    out, start = tmp_path / "export", {"model.encoder_from": tmp_path / "export"}
    small = tiny_config(tmp_path, **{"model.num_heads": 1, "model.hidden_size": 16, "model.projection_size": 12}).model
    realm = build_model(small, vocab_size=tokenizer.vocab_size, max_tokens=48, seed=0)
    write_models(realm, out, tokenizer_folder=tmp_path / "tokenizer")
    assert refused("ict", tmp_path, **start) == (
        f"ConfigError: model.encoder_from={out} is of other sizes than this run: set model.hidden_size=16 "
        "model.num_heads=1"
    )
    fitting = {**start, "model.hidden_size": 16, "model.num_heads": 1}  # vectors may be of another width
    check_inputs("ict", tiny_config(tmp_path, **fitting))
    path = out / "encoder" / "config.json"
    said = path.read_text()
    path.write_text(json.dumps({**json.loads(said), "vocab_size": 7}))
    assert refused("ict", tmp_path, **fitting).startswith(f"ConfigError: model.encoder_from={out} has 7 wordpieces, ")
    path.write_text("{")
    assert refused("ict", tmp_path, **fitting).startswith(f"CheckpointError: {out}/encoder cannot be read (")


@pytest.mark.parametrize("setting", ["start_from", "encoder_from"])
def test_weights_of_another_tokenizer_are_refused_though_it_has_as_many_wordpieces(
    tmp_path: Path, setting: str
) -> None:
    tokenizer = make_data(tmp_path, num_facts=1)
    out, start = tmp_path / "export", {f"model.{setting}": tmp_path / "export"}
    realm = build_model(tiny_config(tmp_path).model, vocab_size=tokenizer.vocab_size, max_tokens=48, seed=0)
    write_models(realm, out, tokenizer_folder=tmp_path / "tokenizer")
    check_inputs("ict", tiny_config(tmp_path, **start))
    path = out / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace("arlon", "nolra"))
    assert refused("ict", tmp_path, **start) == (
        f"ConfigError: model.{setting}={out} was trained with another tokenizer than data.tokenizer: name "
        f"{out}/tokenizer, and prepare the data with it"
    )


def test_a_warm_up_longer_than_the_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path, num_facts=1)
    for warmup_steps, told in ((2, 2), (3, 3), (50, 50), (None, 100)):
        check_inputs("ict", tiny_config(tmp_path, **{"ict.warmup_steps": warmup_steps, "pretrain.warmup_steps": 50}))
        said = f"realm-ds: the whole run is warm-up: that takes {told} steps (ict.warmup_steps), and "
        assert capsys.readouterr().err == (f"{said}ict.steps is 4\n" if told >= 3 else "")


def test_the_end_of_fine_tuning_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "launch_stage", lambda stage, **_: None)
    for stage, told in (("ict", 0), ("qa", 1)):
        show_stage(stage, load_config=lambda: tiny_config(tmp_path), run_folder=tmp_path / "r", resume=False)
        said = f"`realm-ds qa eval --run {tmp_path}/r` tells all scores, `realm-ds ask QUESTION --model {tmp_path}/r`"
        assert capsys.readouterr().err.count(said) == told


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_settings_that_a_run_in_the_same_folder_changes_are_kept(tmp_path: Path, has_checkpoint: bool) -> None:
    runs = [tiny_config(tmp_path, **{"pretrain.steps": steps}) for steps in (4, 6, 8)]
    prepare_run_folder(tmp_path, runs[0], resume=False)
    if has_checkpoint:
        write_checkpoint(tmp_path, step=4, stage="pretrain")
    for config in (runs[0], runs[1], runs[1], runs[2]):
        prepare_run_folder(tmp_path, config, resume=has_checkpoint)
    found = {path.name: load(path) for path in tmp_path.glob("*.yaml")}
    assert found == {"config-1.yaml": runs[0], "config-2.yaml": runs[1], RUN_CONFIG: runs[2]}


def write_checkpoint(run: Path, *, step: int, stage: str) -> Path:
    folder = step_folder(run, step)
    folder.mkdir(parents=True)
    (folder / "weights").write_text("some")
    seal(folder, stage=stage, step=step)
    return folder


def test_a_finished_run_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    make_data(data, num_facts=2)
    config, other = tiny_config(data), tiny_config(data, **{"pretrain.learning_rate": 0.5})
    prepare_run_folder(run, config, resume=False)
    folder = write_checkpoint(run, step=config.pretrain.steps, stage="pretrain")
    started: list[int] = []
    monkeypatch.setattr(stages, "run_world", lambda arguments, **options: started.append(options["processes"]))

    def go_on(config: RealmConfig) -> None:
        launch_stage("pretrain", load_config=lambda: config, run_folder=run, resume=True)

    go_on(other)
    assert started == []
    assert load(run / RUN_CONFIG) == config
    assert f"nothing is left to do: {run} has trained all pretrain.steps=9; its settings" in capsys.readouterr().err
    go_on(tiny_config(data, **{"pretrain.steps": 12}))
    assert len(started) == 1
    (folder / "weights").write_text("damaged")
    go_on(config)  # there is a step to do again
    assert len(started) == 2


SERVED = {"qa.index": "sharded", "qa.refresh_passages": True}


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


@pytest.mark.parametrize("setting", ["corpus", "pretrain", "held_out"])
def test_shards_elsewhere_have_a_deadline(setting: str, tmp_path: Path) -> None:
    make_held_out(tmp_path, make_data(tmp_path, num_facts=2))
    silent: dict[str, object] = {f"data.{setting}": "pipe:sleep 600 # {name}", "runtime.wait_timeout_s": 0.05}
    said = refused("pretrain", tmp_path, **{"evaluate.every_steps": 2, "data.held_out": tmp_path / "held_out"} | silent)
    assert "`sleep 600 # manifest.json` gave no byte within 0.05 seconds" in said


def test_passages_longer_than_a_run_takes_are_refused_before_any_process_starts(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    path = tmp_path / "corpus" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "settings": {"passage_tokens": 32}}))
    check_inputs("ict", tiny_config(tmp_path))
    check_inputs("pretrain", tiny_config(tmp_path))
    path.write_text(json.dumps({**manifest, "settings": {"passage_tokens": 33}}))
    said = (
        f"ConfigError: {tmp_path}/corpus: its passages have up to 33 wordpieces, more than data.passage_tokens=32: set "
        "data.passage_tokens=33, or prepare the corpus with --passage-tokens 32"
    )
    assert refused("ict", tmp_path) == refused("pretrain", tmp_path) == said


def test_questions_that_no_one_word_answers_are_told_before_anything_starts_and_all_of_them_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path, num_facts=1)
    make_questions(tmp_path)
    asked = {"qa.data": tmp_path / "qa", "qa.retrieve": 12, "qa.answer_by": "masked_word"}
    check_inputs("qa", tiny_config(tmp_path, **asked))
    assert "of one wordpiece" not in capsys.readouterr().err
    good, bad = (Question(id="q", question="?", answers=(answer,)) for answer in ("mayarl", "the mayor of arlon"))
    write_questions(tmp_path / "qa" / "train.jsonl", [good, bad, bad])
    check_inputs("qa", tiny_config(tmp_path, **asked))
    said = (
        f"realm-ds: 2 of the 3 questions of {tmp_path}/qa/train.jsonl have no answer of one wordpiece: they are left "
        "out (qa.answer_by=masked_word); of dev and test such questions count as wrong\n"
    )
    assert capsys.readouterr().err.endswith(said)
    write_questions(tmp_path / "qa" / "train.jsonl", [bad])
    assert "none of the 1 questions of" in refused("qa", tmp_path, **asked)


def test_regexes_cannot_train_a_reader_nor_be_looked_for_as_wordpieces(tmp_path: Path) -> None:
    make_held_out(tmp_path, make_data(tmp_path, num_facts=1))
    make_questions(tmp_path)
    regex = Question(id="r", question="?", answers=("l(ima|yon)",), is_regex=True)
    plain = Question(id="p", question="?", answers=("lima",))
    write_questions(tmp_path / "qa" / "train.jsonl", [plain, regex])
    settings = tiny_config(tmp_path).qa.model_copy(update={"data": tmp_path / "qa"})
    with pytest.raises(
        DataError, match="a reader learns from words and spans that equal an answer, not from regexes, but the "
    ):
        check_inputs("qa", tiny_config(tmp_path).model_copy(update={"qa": settings}))
    asked = {"evaluate.every_steps": 5, "evaluate.questions": tmp_path / "asked.jsonl"}
    write_questions(tmp_path / "asked.jsonl", [plain, dataclasses.replace(regex, gold_uids=(3,))])
    check_inputs("pretrain", tiny_config(tmp_path, **asked))
    write_questions(tmp_path / "asked.jsonl", [plain, regex])
    message = refused("pretrain", tmp_path, **asked)
    assert (
        "looked for as wordpieces, not as regexes, unless a question has gold_uids (prepare qa --link), but" in message
    )


def test_more_candidates_than_passages_are_refused(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    check_inputs("pretrain", tiny_config(tmp_path, **{"pretrain.candidates": 12}))
    message = refused("pretrain", tmp_path, **{"pretrain.candidates": 13})
    assert message.startswith("ConfigError: pretrain.candidates=13 needs 12 passages and one to exclude, but ")
    assert message.endswith("corpus holds 12: lower candidates, or index a larger corpus")
    check_inputs("ict", tiny_config(tmp_path, **{"pretrain.candidates": 13}))
    message = refused("pretrain", tmp_path, **{"pretrain.candidates": 12, "pretrain.null_passage": False})
    assert message.startswith("ConfigError: pretrain.candidates=12 needs 12 passages and one to exclude, but ")


def test_what_is_held_out_is_looked_at_too(tmp_path: Path) -> None:
    make_held_out(tmp_path, make_data(tmp_path, num_facts=1))
    every = {"evaluate.every_steps": 5}
    both = {**every, "data.held_out": tmp_path / "held_out", "evaluate.questions": tmp_path / "held_out.jsonl"}
    check_inputs("pretrain", tiny_config(tmp_path, **both))
    message = refused("pretrain", tmp_path, **every)
    assert message.startswith(
        "ConfigError: evaluate.every_steps=5, but there is nothing to evaluate: name data.held_out"
    )
    check_inputs("ict", tiny_config(tmp_path, **every))  # which has its own measure
    manifest = tmp_path / "held_out" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["settings"]["is_held_out"] = True
    manifest.write_text(json.dumps(content))
    message = refused("pretrain", tmp_path, **{"data.pretrain": tmp_path / "held_out"})
    assert message == (
        f"ConfigError: data.pretrain={tmp_path}/held_out was written to be held out (prepare pretrain --held-out): "
        "name the folder that was its --out"
    )
    message = refused("pretrain", tmp_path, **{**both, "data.held_out": tmp_path / "nowhere"})
    assert message == (
        f"DataError: data.held_out: no folder {tmp_path}/nowhere of pretrain tar shards: run realm-ds prepare, or mend "
        "the path"
    )
    message = refused("pretrain", tmp_path, **{**both, "data.held_out": tmp_path / "corpus"})
    assert message.startswith(f"DataError: data.held_out: {tmp_path}/corpus/manifest.json: holds corpus shards, not ")
    message = refused("pretrain", tmp_path, **{**both, "data.held_out": tmp_path / "pretrain"})
    assert message.startswith(
        f"ConfigError: data.held_out={tmp_path}/pretrain holds the same sentences as data.pretrain"
    )
    message = refused("pretrain", tmp_path, **{**both, "evaluate.questions": tmp_path / "none.jsonl"})
    assert message.endswith(
        "none.jsonl cannot be read (No such file or directory): mend evaluate.questions, or set it to null"
    )
    message = refused("pretrain", tmp_path, **{"evaluate.probes": tmp_path / "none.jsonl"})
    assert message.endswith(
        "none.jsonl cannot be read (No such file or directory): mend evaluate.probes, or set it to null"
    )
    absent = {"data.held_out": tmp_path / "nowhere", "evaluate.questions": tmp_path / "none.jsonl"}
    check_inputs("pretrain", tiny_config(tmp_path, **absent, **{"evaluate.num_probes": 0}))  # nothing is asked of them
    other = tmp_path / "other"
    tokenizer = train_wordpiece(iter(["another vocabulary than that"]), vocab_size=105, folder=other / "tokenizer")
    make_held_out(other, tokenizer)
    message = refused("pretrain", tmp_path, **{**both, "data.held_out": other / "held_out"})
    assert message.startswith("DataError: data.held_out: ")
    assert "made with tokenizer" in message


def test_builders_are_started_and_checked_like_shards(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    config = tiny_config(tmp_path, **{"index.builders": 3})
    check_inputs("pretrain", config)
    assert (num_processes("pretrain", config), num_processes("ict", config)) == (2 + 2 + 3, 2)
    message = refused("pretrain", tmp_path, **{"index.builders": 13})
    assert message.startswith(
        "ConfigError: index.builders=13 is more than the 12 passages of the corpus; set index.bui"
    )


def test_fine_tuning_has_index_ranks_if_it_asks_for_them(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    make_questions(tmp_path)
    questions = {"qa.data": tmp_path / "qa"}
    config = tiny_config(tmp_path, **SERVED, **questions, **{"index.builders": 1})
    check_inputs("qa", config)
    assert [num_processes(stage, config) for stage in ("pretrain", "qa", "ict")] == [2 + 2 + 1, 2 + 2 + 1, 2]
    assert num_processes("qa", tiny_config(tmp_path)) == 2
    assert refused("qa", tmp_path, **SERVED, **questions, **{"index.num_shards": 13}).startswith(
        "ConfigError: index.num_shards=13 is more than the 12 passages"
    )
    check_inputs("qa", tiny_config(tmp_path, **questions, **{"index.num_shards": 13}))
    bare = {"index.factory": "IVF2,SQ8", "index.rerank": 0}
    assert refused("qa", tmp_path, **SERVED, **questions, **bare) == (
        "ConfigError: index.factory=IVF2,SQ8 with index.rerank=0 keeps no exact vectors, and the loss of "
        "qa.index=sharded goes over those of what was found: set index.rerank to 1 or more"
    )
    check_inputs("qa", tiny_config(tmp_path, **SERVED, **questions, **{"index.rerank": 0}))
    assert refused("qa", tmp_path, **SERVED, **questions, **{"refresh.every_steps": "auto"}) == (
        "ConfigError: refresh.every_steps=auto, but fine-tuning measures nothing to decide by (qa.refresh_passages): "
        "give a number of steps"
    )


def test_an_encoder_by_its_path_is_a_folder(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    config = tiny_config(tmp_path, **{"model.encoder": tmp_path / "none"})
    with pytest.raises(ConfigError, match="none is no folder: name one with a BERT-like transformers model"):
        check_inputs("ict", config)


def test_weights_to_start_from_are_an_export(tmp_path: Path) -> None:
    make_data(tmp_path, num_facts=1)
    message = refused("ict", tmp_path, **{"model.encoder_from": tmp_path / "export"})
    assert message.startswith(f"CheckpointError: model.encoder_from: {tmp_path}/export is not an export of realm-ds: ")
    changes = {"model.start_from": tmp_path / "export"}
    for name in ("query_tower", "passage_tower", "encoder"):
        for stage in ("ict", "pretrain"):
            message = refused(stage, tmp_path, **changes)
            assert message == (
                f"CheckpointError: {tmp_path}/export is not an export of realm-ds: {name}/config.json is missing"
            )
        (tmp_path / "export" / name).mkdir(parents=True)
        (tmp_path / "export" / name / "config.json").touch()


@pytest.mark.parametrize("named", ["run", "run/export"])
def test_what_answers_questions_is_an_export_but_none_to_start_from(tmp_path: Path, named: str) -> None:
    make_data(tmp_path, num_facts=1)
    for name in ("query_tower", "reader"):
        (tmp_path / "run" / "export" / name).mkdir(parents=True)
        (tmp_path / "run" / "export" / name / "config.json").touch()
    told = (
        f"CheckpointError: {tmp_path}/run/export answers questions, and of its towers it has that of questions alone: "
        "take the pre-trained export that it was made of"
    )
    assert refused("pretrain", tmp_path, **{"model.start_from": tmp_path / named}) == told
    (tmp_path / "run" / "config.yaml").touch()
    assert refused("ict", tmp_path, **{"model.start_from": tmp_path / named}) == (
        f"{told}: it is model.start_from in {tmp_path}/run/config.yaml"
    )


def test_an_encoder_named_on_the_hub_is_fetched_once_before_ranks_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks find a folder in their settings, and ask no network."""
    make_data(tmp_path, num_facts=1)
    asked: list[tuple[str, bool]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        assert "config.json" in allow_patterns
        asked.append((name, local_files_only))
        if name == "org/none":
            raise OSError("404\nand more")
        folder = tmp_path / "cache" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    config = with_local_encoder(tiny_config(tmp_path, **{"model.encoder": "org/small"}))
    assert config.model.encoder == tmp_path / "cache" / "org" / "small"
    assert asked == [("org/small", False)]
    assert with_local_encoder(config) is config
    prepare_run_folder(tmp_path / "run", config, resume=False)
    assert load(tmp_path / "run" / RUN_CONFIG).model.encoder == config.model.encoder
    assert asked == [("org/small", False)]
    with pytest.raises(
        ConfigError,
        match=r"model.encoder=org/none is neither a folder here nor a model that the hub gives \(404\): run `hf "
        r"download org/none` where there is a network, with HF_HOME on a disk that all ranks see, or name a folder",
    ):
        with_local_encoder(tiny_config(tmp_path, **{"model.encoder": "org/none"}))
    monkeypatch.setattr(stages, "run_world", lambda *_, **__: asked.append(("ranks", True)))
    launched = tiny_config(tmp_path, **{"model.encoder": "org/small"})
    stages.launch_stage("ict", load_config=lambda: launched, run_folder=tmp_path / "other", resume=False)
    assert asked[-2:] == [("org/small", False), ("ranks", True)]
    assert load(tmp_path / "other" / RUN_CONFIG).model.encoder == config.model.encoder


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
    with pytest.raises(
        ConfigError, match="precious is there and is no export of layout realm, so it is not overwritten"
    ):
        export_run(tmp_path / "run", out=out)
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
