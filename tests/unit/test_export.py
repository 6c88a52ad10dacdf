"""Exports of a run whose checkpoint was written by hand; those of real ones are in tests/ranks/test_pretrain.py."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.config.load import dump
from realm_ds.data.shard_writer import write_shards as write_corpus
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.errors import CheckpointError, ConfigError, DataError
from realm_ds.eval.exported import open_export
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.models.towers import Embedder
from realm_ds.observe.sinks import metrics_path
from realm_ds.sealed import check, seal
from realm_ds.train import export as module
from realm_ds.train import export_layouts
from realm_ds.train.best import BestRecord
from realm_ds.train.checkpoint import TrainState
from realm_ds.train.export import export_run, unfilled, with_weights, write_models
from realm_ds.train.manifest import step_folder
from tests.support.full_disk import no_file_longer_than
from tests.support.tiny import make_data, tiny_config
from tests.support.zero_shards import write_shards

VOCABULARY = 50


@pytest.mark.parametrize("share_towers", [True, False])
def test_a_model_is_filled_again_and_again(tmp_path: Path, share_towers: bool) -> None:
    config = tiny_config(tmp_path, **{"model.share_towers": share_towers})
    drawn = torch.random.get_rng_state()
    realm = unfilled(config, vocab_size=VOCABULARY)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not realm.training
    for value in (1.0, 2.0):
        weights = {name: torch.full_like(weight, value) for name, weight in realm.state_dict().items()}
        if share_towers:
            weights = {name: weight for name, weight in weights.items() if not name.startswith("passage_tower.")}
        assert with_weights(realm, weights) is realm
        assert all((parameter == value).all() for parameter in realm.parameters())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    small, wide = (
        unfilled(tiny_config(tmp_path, **{"model.projection_size": width}), vocab_size=VOCABULARY) for width in (16, 24)
    )
    with pytest.raises(
        CheckpointError, match=r"(?s)does not hold the model of config.yaml: .*size mismatch for query_tower"
    ):
        with_weights(small, wide.state_dict())


def make_run(folder: Path, *, share_towers: bool = False, stage: str = "pretrain", zero: int = 2) -> RealmModel:
    """A run over tiny data with a checkpoint of step 9."""
    vocab_size = make_data(folder).vocab_size
    config = tiny_config(folder, **{"model.share_towers": share_towers})
    torch.manual_seed(5)
    realm = unfilled(config, vocab_size=vocab_size)
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump(config))
    (run / "code.txt").write_text("realm-ds 1.2.3\nabcdef\n")
    weights = {f"model.{name}": value.detach() for name, value in realm.named_parameters()}
    half = len(weights) // 2
    groups = [dict([*weights.items()][:half]), dict([*weights.items()][half:])]
    checkpoint = step_folder(run, 9)
    write_shards(checkpoint, groups, stage=zero, num_trainers=3)
    digest = open_shards(folder / "corpus", kind="corpus", fingerprint=None).digest
    for rank in range(3):
        state = TrainState(
            stage=stage, step=9, num_trainers=3, zero_stage=zero, on_disk=False, global_batch=12, streams={},
            groups=[], fixed={"data.corpus": digest[:12]},
        )  # fmt: skip
        (checkpoint / f"trainer-{rank:05d}.json").write_text(json.dumps(asdict(state)))
    seal(checkpoint, stage=stage, step=9)
    path = metrics_path(run, role="trainer", role_rank=0)
    path.parent.mkdir()
    path.write_text('{"event": "evaluated", "step": 9, "time": 1.0, "held_out_retrieval_utility": 0.25}\n')
    return realm


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RealmModel, list[str]]:
    """A folder with a run and its export, the model that was saved, and what was said."""
    folder, said = tmp_path_factory.mktemp("made"), []
    realm = make_run(folder)
    module.EMBEDDED_AT_ONCE, kept = 40, module.EMBEDDED_AT_ONCE  # two parts of 72 passages
    try:
        export_run(folder / "run", verify=True, faiss_file=True, say=said.append)
    finally:
        module.EMBEDDED_AT_ONCE = kept
    return folder, realm, said


def test_an_export_has_the_weights_bit_for_bit(made: tuple[Path, RealmModel, list[str]]) -> None:
    folder, realm, said = made
    export = folder / "run" / "export"
    for name in ("query_tower", "passage_tower"):
        tower, expected = Embedder.load(export / name).state_dict(), getattr(realm, name).state_dict()
        assert all(torch.equal(tower[key], value) for key, value in expected.items())
    encoder = AutoModelForMaskedLM.from_pretrained(export / "encoder").state_dict()
    assert all(torch.equal(encoder[key], value) for key, value in realm.encoder.mlm.state_dict().items())
    assert [line for line in said if "verified" in line] == [
        "verified: 8 x 16 query vectors in query_tower, equal bit for bit",
        "verified: 8 x 16 passage vectors in passage_tower, equal bit for bit",
        "verified: 8 x 1 log-probabilities of masked words in encoder, equal bit for bit",
    ]
    facts = check(export)
    assert (facts["kind"], facts["step"], facts["source"]) == ("export", 9, "step-00000009")


def test_the_model_beside_the_tokenizer_is_left_there(tmp_path: Path) -> None:
    """data.tokenizer may be the folder of a whole model, whose weights are no part of the run."""
    tokenizer = make_data(tmp_path)
    realm, other = (
        unfilled(tiny_config(tmp_path, **{"model.share_towers": share}), vocab_size=tokenizer.vocab_size)
        for share in (True, False)
    )
    other.passage_tower.save(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "1_Pooling").mkdir()
    write_models(realm, tmp_path / "out", tokenizer_folder=tmp_path / "tokenizer")
    for name in ("query_tower", "passage_tower"):
        written = Embedder.load(tmp_path / "out" / name).state_dict()
        assert all(torch.equal(written[key], value) for key, value in getattr(realm, name).state_dict().items())
    files = sorted(path.name for path in (tmp_path / "out" / "tokenizer").iterdir())
    assert files == ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def test_faiss_alone_opens_the_file(made: tuple[Path, RealmModel, list[str]]) -> None:
    export = made[0] / "run" / "export"
    parts = sorted(export.glob("index/version-00000/*.npy"))
    vectors_NP = np.concatenate([np.load(part) for part in parts])
    assert (len(parts), vectors_NP.shape) == (2, (72, 16))
    index = faiss.read_index(str(export / "index.faiss"))
    scores, places = index.search(vectors_NP[:5], 3)
    expected = vectors_NP[:5] @ vectors_NP.T
    assert np.allclose(scores, -np.sort(-expected)[:, :3], atol=1e-4)
    assert np.allclose(np.take_along_axis(expected, places, axis=1), scores, atol=1e-4)


def test_the_cards_code_works_as_written(
    made: tuple[Path, RealmModel, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export = made[0] / "run" / "export"
    card = ModelCard.load(export / "README.md")
    assert (card.data.library_name, card.data.license) == ("transformers", "unknown")
    assert "Before you publish this, say" in card.text
    assert "realm" in card.data.tags
    for words in ("| retrieval_utility | 0.25 |", "realm-ds 1.2.3, abcdef", "after 9 steps of pretrain", "index.faiss"):
        assert words in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    monkeypatch.chdir(export)
    exec(compile(code, "README.md", "exec"), {})
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)


def test_a_damaged_export_is_named(made: tuple[Path, RealmModel, list[str]], tmp_path: Path) -> None:
    folder, _, _ = made
    export = tmp_path / "export"
    shutil.copytree(folder / "run" / "export", export)
    model = tiny_config(folder, **{"model.start_from": export}).model
    vocab_size = len((folder / "tokenizer" / "vocab.txt").read_text().splitlines())
    card, lock = export / "README.md", export / ".cache" / "huggingface" / "download" / "a.lock"
    card.write_text(card.read_text().replace("license: unknown", "license: apache-2.0"))  # as the card says
    lock.parent.mkdir(parents=True)
    lock.touch()  # as a hub leaves it
    assert len(open_export(export).corpus) == 72
    build_model(model, vocab_size=vocab_size, max_tokens=48, seed=1)
    path = export / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"encoder/model.safetensors is damaged \(its sha256"):
        build_model(model, vocab_size=vocab_size, max_tokens=48, seed=1)


def test_models_alone_are_enough_to_start_from(made: tuple[Path, RealmModel, list[str]], tmp_path: Path) -> None:
    folder, realm, _ = made
    out = tmp_path / "models"
    result = CliRunner().invoke(app, ["export", "--run", str(folder / "run"), "--out", str(out), "--models-only"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        "encoder", "passage_tower", "query_tower", "tokenizer",
    ]  # fmt: skip
    vocab_size = len((folder / "tokenizer" / "vocab.txt").read_text().splitlines())
    model = tiny_config(folder, **{"model.start_from": out}).model
    started = build_model(model, vocab_size=vocab_size, max_tokens=48, seed=1).state_dict()
    assert all(torch.equal(started[name], value) for name, value in realm.state_dict().items())
    both = CliRunner().invoke(app, ["export", "--models-only", "--faiss-file"])
    assert both.exit_code == 2


def test_an_encoder_may_come_from_another_export(made: tuple[Path, RealmModel, list[str]], tmp_path: Path) -> None:
    """The towers stay as they start; a damaged encoder is named as that of start_from is."""
    folder, realm, _ = made
    export = tmp_path / "export"
    shutil.copytree(folder / "run" / "export", export)
    vocab_size = len((folder / "tokenizer" / "vocab.txt").read_text().splitlines())
    alone, mixed = (
        build_model(tiny_config(folder, **changes).model, vocab_size=vocab_size, max_tokens=48, seed=1).state_dict()
        for changes in ({}, {"model.encoder_from": export})
    )
    for name, value in realm.state_dict().items():
        origin = value if name.startswith("encoder.") else alone[name]
        assert torch.equal(mixed[name], origin), name
    assert not torch.equal(alone["query_tower.dense.weight"], realm.query_tower.dense.weight)
    path = export / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"encoder/model.safetensors is damaged \(its sha256"):
        build_model(
            tiny_config(folder, **{"model.encoder_from": export}).model, vocab_size=vocab_size, max_tokens=48, seed=1
        )


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_sixteen_bits_are_half_as_large_and_near(tmp_path: Path, dtype: str) -> None:
    realm, said = make_run(tmp_path, share_towers=True, zero=3), []
    out = export_run(tmp_path / "run", out=tmp_path / "out", dtype=dtype, verify=True, say=said.append)
    lines = [line for line in said if "verified" in line]
    assert len(lines) == 3
    assert all("within" in line for line in lines), lines
    rounded = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    tower = Embedder.load(out / "passage_tower")
    assert torch.equal(tower.dense.weight, realm.query_tower.dense.weight.to(rounded).float())
    size = (out / "query_tower" / "model.safetensors").stat().st_size
    assert size < 0.6 * 4 * sum(value.numel() for value in realm.query_tower.bert.parameters())


def test_what_computes_something_else_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)

    def write_wrong(realm: RealmModel, folder: Path, *, tokenizer_folder: Path) -> None:
        with torch.no_grad():
            realm.query_tower.dense.bias[0] += 1.0
        write_models(realm, folder, tokenizer_folder=tokenizer_folder)

    monkeypatch.setattr(export_layouts, "write_models", write_wrong)
    with pytest.raises(
        CheckpointError, match=r"query vectors in query_tower differ by .*, and 0 is allowed; nothing was"
    ):
        export_run(tmp_path / "run", verify=True)
    assert not list((tmp_path / "run").glob("export*"))


def test_weights_too_large_for_fp16_are_told() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.weight.data[0, 0] = 1e6
    with pytest.raises(ConfigError, match=r"the weights of weight are too large for fp16 \(65504\): take --dtype bf16"):
        module.round_to(layer, "fp16")


def test_the_best_models_are_exported(tmp_path: Path) -> None:
    realm = make_run(tmp_path)
    run, best = tmp_path / "run", tmp_path / "run" / "best"
    with pytest.raises(CheckpointError, match="run has kept no best models: none were judged .* take --step latest"):
        export_run(run, step="best")
    with torch.no_grad():
        realm.query_tower.dense.bias.fill_(7.0)
    write_models(realm, best, tokenizer_folder=tmp_path / "tokenizer")
    record = BestRecord(
        step=6, measure="held_out_retrieval_utility", value=0.5, measured_on="x",
        corpus=open_shards(tmp_path / "corpus", kind="corpus", fingerprint=None).digest[:12],
        metrics={"held_out_retrieval_utility": 0.5},
    )  # fmt: skip
    (best / "best.json").write_text(json.dumps(vars(record)))
    seal(best, kind="best", step=6)
    out = export_run(run, step="best", verify=True)
    assert (Embedder.load(out / "query_tower").dense.bias == 7.0).all()
    assert "after 6 steps of pretrain: the best by held_out_retrieval_utility, 0.5" in (out / "README.md").read_text()
    take_other_words(step_folder(run, 9))
    other = r"run/best was trained with another corpus .* in data.corpus and data.tokenizer of .*/run/config.yaml"
    with pytest.raises(ConfigError, match=other):
        export_run(run, step="best")
    path = best / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    damage = r"the best models are not whole: .*encoder/model.safetensors is damaged .*; take --step latest"
    with pytest.raises(CheckpointError, match=damage):
        export_run(run, step="best")


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    make_run(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(step_folder(run, 9), step_folder(run, 12))
    (step_folder(run, 12) / "zero" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    said: list[str] = []
    assert export_run(run, say=said.append) == run / "export"
    assert said[0].endswith("step-00000009: the newest checkpoint that is whole")
    with pytest.raises(CheckpointError, match=r"zero_pp_rank_1_mp_rank_00_optim_states.pt is missing"):
        export_run(run, step=12)


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    make_run(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="run holds no checkpoint of step 10; there are steps 9: name one of"):
        export_run(run, step=10)
    with pytest.raises(ConfigError, match="nowhere holds no run: there is no config.yaml; name another with --run"):
        export_run(tmp_path / "nowhere")
    seal(step_folder(run, 9), stage="qa", step=9)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="run holds no checkpoint: train first"):
        export_run(run)
    shutil.rmtree(tmp_path / "tokenizer")
    train_wordpiece(["another town has another river"] * 3, vocab_size=200, folder=tmp_path / "tokenizer")
    with pytest.raises(DataError, match="made with tokenizer .*, but the one given .* use the tokenizer it was made"):
        export_run(run)


def lose_a_rank(checkpoint: Path) -> None:
    """Before it was sealed."""
    (checkpoint / "zero" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    seal_again(checkpoint, stage="pretrain")


def seal_again(checkpoint: Path, *, stage: str) -> None:
    (checkpoint / "manifest.json").unlink()
    seal(checkpoint, stage=stage, step=9)


def answer_questions(checkpoint: Path) -> None:
    seal_again(checkpoint, stage="qa")


def leave_alone(checkpoint: Path) -> None:
    pass


def cut_short(checkpoint: Path) -> None:
    path = checkpoint / "zero" / "mp_rank_00_model_states.pt"
    path.write_bytes(path.read_bytes()[:1000])


def take_other_words(checkpoint: Path) -> None:
    """In a corpus prepared with them."""
    folder = checkpoint.parents[2]
    shutil.rmtree(folder / "tokenizer")
    tokenizer = train_wordpiece(["another town has another river"] * 3, vocab_size=200, folder=folder / "tokenizer")
    passages = list(open_shards(folder / "corpus", kind="corpus", fingerprint=None).passages())
    shutil.rmtree(folder / "corpus")
    write_corpus(
        passages, folder / "corpus", kind="corpus", per_shard=20, tokenizer_fingerprint=tokenizer.fingerprint,
        source="rule", settings={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "options", "code", "message"),
    [
        (lose_a_rank, (), 1, "zero has no optimizer shard of trainer 1: take another checkpoint with --step"),
        (cut_short, (), 1, "run holds no whole checkpoint: .*model_states.pt is damaged .*Start a new run in another"),
        (cut_short, ("--step", "9"), 1, r"mp_rank_00_model_states.pt is damaged \(its sha256 is not the manifest's\)"),
        (take_other_words, (), 2, "was trained with another corpus or tokenizer than are now in .*/corpus .*data.tok"),
        (answer_questions, (), 1, r"finished yet \(step 9 of 10000\): `realm-ds qa train --run .*/run --resume`"),
        (answer_questions, ("--layout", "hf-realm"), 1, r"run is not finished yet \(step 9 of 10000\): .* --resume`"),
        (leave_alone, ("--license", "nonsense-1"), 2, "'nonsense-1' is none of the hub's names: such as apache-2.0 or"),
        (leave_alone, ("--license", "Apache2.0"), 2, r"none of the hub's names: did you mean apache-2.0\? `other` is"),
        (leave_alone, ("--step", "best"), 1, "has kept no best models: none were judged .* take --step latest"),
    ],
    ids=["rank", "half", "half-by-step", "tokenizer", "qa", "qa-layout", "license", "nearly", "best"],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], options: Sequence[str], code: int, message: str
) -> None:
    make_run(tmp_path)
    spoil(step_folder(tmp_path / "run", 9))
    result = CliRunner().invoke(app, ["export", "--run", str(tmp_path / "run"), *options])
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert re.match(f"realm-ds: .*{message}", line)
    assert not list((tmp_path / "run").glob("export*"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, share_towers=True)
    other = tiny_config(tmp_path, **{"model.share_towers": False})
    (tmp_path / "run" / "config.yaml").write_text(dump(other))
    with pytest.raises(CheckpointError, match="hold the model of config.yaml: it lacks passage_tower.* more"):
        export_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("num_bytes", "error"),
    [(600, r"\[Errno 27\] File too large"), (100_000, r"Error while serializing: .*File too large \(os error 27\)")],
    ids=["settings", "weights"],
)
def test_a_full_disk_leaves_the_export_before(tmp_path: Path, num_bytes: int, error: str) -> None:
    """Told by the errors of those who write, which are not all OSError."""
    make_run(tmp_path)
    out = export_run(tmp_path / "run")
    before = (out / "manifest.json").read_bytes()
    with no_file_longer_than(num_bytes):
        result = CliRunner().invoke(app, ["export", "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert re.match(rf"realm-ds: cannot write the export to .*/run/export \({error}\): free space there, or name", line)
    assert (out / "manifest.json").read_bytes() == before
    assert not list(out.parent.glob("export.tmp*"))


def test_an_ict_run_says_what_it_did_not_train(tmp_path: Path) -> None:
    make_run(tmp_path, stage="ict")
    run = tmp_path / "run"
    out = export_run(run)
    assert "the encoder is as the run began" not in (out / "README.md").read_text()
    (run / "config.yaml").write_text(dump(tiny_config(tmp_path, **{"ict.encoder_warmup": False})))
    assert "the encoder is as the run began with it" in (export_run(run) / "README.md").read_text()


@pytest.mark.parametrize("share_towers", [True, False])
def test_the_layout_of_googles_realm_is_verified_and_can_be_started_from(tmp_path: Path, share_towers: bool) -> None:
    """Its own classes open it in tests/unit/test_hf_realm_write.py."""
    realm, said = make_run(tmp_path, share_towers=share_towers), []
    out = export_run(tmp_path / "run", out=tmp_path / "hf", layout="hf-realm", verify=True, say=said.append)
    verified = [line.split(" in ")[1] for line in said if "equal bit for bit" in line]
    assert verified == [f"{name}, equal bit for bit" for name in ("scorer", "scorer", "embedder", "encoder")]
    assert ("query_embedder=" in (out / "README.md").read_text()) != share_towers
    changes = {"model.start_from": out, "model.share_towers": share_towers}
    model = tiny_config(tmp_path, **changes).model
    vocab_size = realm.query_tower.bert.config.vocab_size
    again = build_model(model, vocab_size=vocab_size, max_tokens=48, seed=1)
    assert torch.equal(again.query_tower.dense.weight, realm.query_tower.dense.weight)
    path = out / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"encoder/model.safetensors is damaged"):
        build_model(model, vocab_size=vocab_size, max_tokens=48, seed=1)


def test_towers_for_sentence_transformers(tmp_path: Path) -> None:
    """The library itself opens them in tests/unit/test_sentence.py."""
    make_run(tmp_path)
    said: list[str] = []
    plain = export_run(tmp_path / "run", step=9)
    out = export_run(
        tmp_path / "run", layout="sentence-transformers", verify=True, licence="cc-by-sa-4.0", say=said.append
    )
    assert sum("of the greatest (bound 0.0001)" in line for line in said) == 2
    assert [path.name for path in (plain, out)] == ["export", "export-sentence-transformers"]
    check(plain)
    with pytest.raises(ConfigError, match="run/export is there and is no export of layout hf-realm, so it is not"):
        export_run(tmp_path / "run", layout="hf-realm", out=plain)
    assert (out / "passage_tower" / "modules.json").is_file()
    card = ModelCard.load(out / "README.md")
    assert (card.data.library_name, card.data.license) == ("sentence-transformers", "cc-by-sa-4.0")
    assert "`cc-by-sa-4.0`, as who exported it said." in card.text
    with pytest.raises(ConfigError, match="opens parts of a model as float32, whatever they are: not bf16"):
        export_run(tmp_path / "run", layout="sentence-transformers", dtype="bf16")
