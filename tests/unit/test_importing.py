"""Others' REALM as an export of ours: from transformers' folders, and from variables as Google's checkpoints have them
(TensorFlow itself is not needed: what it reads is handed in)."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.config.schema import ModelConfig
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models import tf_realm
from realm_ds.models.hf_realm_write import write_hf_realm
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.sealed import check
from realm_ds.train.importing import import_model, look
from tests.support.hf_realm import SIZES, same_weights, small_realm
from tests.support.tiny import make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.mark.parametrize("share_towers", [True, False])
def test_what_was_exported_is_imported_to_the_bit(data: Path, tmp_path: Path, share_towers: bool) -> None:
    """Ours to transformers' and back, and those folders once more: the same files."""
    realm, lines = small_realm(data, share_towers=share_towers), []
    write_hf_realm(realm, tmp_path / "theirs", tokenizer_folder=data / "tokenizer")
    import_model(tmp_path / "theirs", tmp_path / "ours", say=lines.append)
    manifest = check(tmp_path / "ours")
    assert (manifest["kind"], manifest["source"]) == ("import", "theirs")
    assert lines[0] == "Google's REALM in transformers' layout"
    assert f"model.share_towers={str(share_towers).lower()}" in lines[-1]
    card = tmp_path / "ours" / "README.md"
    assert "\nlicense: unknown\n" in card.read_text()
    card.write_text(card.read_text().replace("license: unknown", "license: cc0-1.0"))  # as the card asks for
    vocab_size = load_tokenizer(data / "tokenizer").vocab_size
    config = ModelConfig(**{**SIZES, "share_towers": share_towers, "start_from": tmp_path / "ours"})
    started = build_model(config, vocab_size=vocab_size, max_tokens=64, seed=5)
    assert same_weights(started, realm)
    write_hf_realm(started, tmp_path / "again", tokenizer_folder=tmp_path / "ours" / "tokenizer")
    for path in sorted((tmp_path / "theirs").rglob("*.safetensors")):
        assert (tmp_path / "again" / path.relative_to(tmp_path / "theirs")).read_bytes() == path.read_bytes(), path


def test_an_import_replaces_its_like_only(data: Path, tmp_path: Path) -> None:
    write_hf_realm(small_realm(data), tmp_path / "theirs", tokenizer_folder=data / "tokenizer")
    for _ in range(2):
        import_model(tmp_path / "theirs", tmp_path / "ours", say=lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"mine is there and is no import, so it is not overwritten: name another"):
        import_model(tmp_path / "theirs", tmp_path / "mine", say=lambda _: None)


GOOGLE_NAMES = (
    (r"^realm\.", "bert."), (r"(word|position|token_type)_embeddings\.weight", r"\1_embeddings"),
    (r"layer\.(\d+)", r"layer_\1"), (r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta"),
    (r"predictions\.bias", "predictions.output_bias"), (r"\.weight$", ".kernel"), (r"^cls\.(dense|LayerNorm)", r"\1"),
    (r"\.", "/"),
)  # fmt: skip
"""From transformers' names to those of Google's code, in this order."""


def variables(folder: Path, *, tower: bool) -> dict[str, np.ndarray]:
    """A model of transformers' as TensorFlow would read it, an optimizer's state among it."""
    found = {"global_step": np.array(7)}
    for name, value in load_file(folder / "model.safetensors").items():
        if "decoder" in name:  # tied to the words, there
            continue
        for old, new in GOOGLE_NAMES:
            name = re.sub(old, new, name)
        depth = 0 if not tower else 3 if name.startswith(("bert", "cls")) else 2
        name = "module/" * depth + name
        found[name] = value.numpy().T if name.endswith("kernel") else value.numpy()
        found[f"{name}/adam_m"] = np.zeros(3, dtype=np.float32)
    return found


@pytest.fixture
def google(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, RealmModel]:
    """A folder as Google released it, save that its variables come from a model of ours, and that model."""
    realm = small_realm(data, share_towers=True, hidden_size=64, num_heads=1)
    write_hf_realm(realm, tmp_path / "theirs", tokenizer_folder=data / "tokenizer")
    for name in ("embedder", "bert"):
        (tmp_path / "google" / name / "variables").mkdir(parents=True)
        (tmp_path / "google" / name / "variables" / "variables.index").touch()
    (tmp_path / "google" / "bert" / "assets").mkdir()
    shutil.copy(data / "tokenizer" / "vocab.txt", tmp_path / "google" / "bert" / "assets")
    read = {
        tmp_path / "google" / "embedder" / "variables" / "variables": ("embedder", True),
        tmp_path / "google" / "bert" / "variables" / "variables": ("encoder", False),
    }

    def read_variables(prefix: Path) -> dict[str, np.ndarray]:
        part, tower = read[prefix]
        return variables(tmp_path / "theirs" / part, tower=tower)

    monkeypatch.setattr(tf_realm, "read_variables", read_variables)
    return tmp_path / "google", realm


def test_googles_own_checkpoint(google: tuple[Path, RealmModel], tmp_path: Path) -> None:
    source, realm = google
    lines: list[str] = []
    import_model(source, tmp_path / "ours", say=lines.append)
    assert lines[:2] == [
        "Google's REALM, TensorFlow's checkpoints", f"  {source / 'embedder' / 'variables' / 'variables'}"
    ]  # fmt: skip
    vocab_size = load_tokenizer(tmp_path / "ours" / "tokenizer").vocab_size
    sizes = {**SIZES, "hidden_size": 64, "num_heads": 1, "share_towers": True, "start_from": tmp_path / "ours"}
    assert same_weights(build_model(ModelConfig(**sizes), vocab_size=vocab_size, max_tokens=64, seed=5), realm)


def test_names_by_hand() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = tf_realm.embedder_of_variables(
        {
            "module/module/module/bert/encoder/layer_11/attention/self/query/kernel": array,
            "module/module/module/module/bert/embeddings/word_embeddings": array,
            "module/module/LayerNorm/gamma": array[0],
            "module/module/module/cls/predictions/output_bias": array[0],
            "module/module/dense/kernel/adam_v": array,
            "block_emb": array,
        }
    )
    assert sorted(found) == [
        "cls.LayerNorm.weight", "cls.predictions.bias", "realm.embeddings.word_embeddings.weight",
        "realm.encoder.layer.11.attention.self.query.weight",
    ]  # fmt: skip
    assert found["realm.encoder.layer.11.attention.self.query.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert list(tf_realm.encoder_of_variables({"cls/seq_relationship/output_bias": array, "cls/x/beta": array})) == [
        "cls.x.bias"
    ]


def test_tensorflow_is_asked_for_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ConfigError, match=r"is a checkpoint of TensorFlow, which is not installed here: pip install"):
        tf_realm.read_variables(tmp_path / "variables")
    reader = SimpleNamespace(get_tensor={"x": np.ones(2)}.get, get_variable_to_shape_map=lambda: {"x": [2]})
    fake = SimpleNamespace(train=SimpleNamespace(load_checkpoint=lambda prefix: reader))
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    assert tf_realm.read_variables(tmp_path / "variables")["x"].tolist() == [1, 1]


def test_what_cannot_be_imported(
    google: tuple[Path, RealmModel], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = google
    out = tmp_path / "out"
    with pytest.raises(
        CheckpointError, match=r"holds no REALM to import. Wanted: .* or a RealmForOpenQA with its block_records"
    ):
        import_model(data, out)
    shutil.copytree(tmp_path / "theirs", tmp_path / "bare", ignore=shutil.ignore_patterns("vocab*", "tokenizer*"))
    with pytest.raises(ConfigError, match=r"bare has no tokenizer \(tokenizer.json or vocab.txt\): name its folder"):
        import_model(tmp_path / "bare", out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(
        ConfigError, match=r"wordpieces and the tokenizer in .*other has 6: name the one that they were"
    ):
        import_model(tmp_path / "bare", out, tokenizer_folder=tmp_path / "other")
    path = tmp_path / "bare" / "encoder" / "model.safetensors"
    state = load_file(path)
    save_file({**state, "realm.embeddings.LayerNorm.bias": torch.ones(64, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match=r"has 'realm.embeddings.LayerNorm.bias' as torch.int8, which is no kind"):
        import_model(tmp_path / "bare", out, tokenizer_folder=data / "tokenizer")
    monkeypatch.setattr(tf_realm, "read_variables", lambda prefix: {"module/module/dense/bias": np.ones(8)})
    with pytest.raises(
        CheckpointError, match=r"embedder has no variable for 'realm.embeddings.word_embeddings.weight'"
    ):
        import_model(source, out)
    (source / "bert" / "second.index").touch()
    with pytest.raises(
        CheckpointError, match=r"bert holds 2 checkpoints of TensorFlow \(files \*.index\), and one is w"
    ):
        look(source)
    assert not list(tmp_path.glob("out*"))


def test_the_verb(google: tuple[Path, RealmModel], tmp_path: Path) -> None:
    source, _ = google
    said = CliRunner().invoke(app, ["import", str(tmp_path / "theirs"), "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "MB, 2 layers of 64" in said.output
    assert CliRunner().invoke(app, ["import", str(source)]).exit_code == 2
    said = CliRunner().invoke(app, ["import", str(source), "--out", str(tmp_path / "ours")])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "ours" / "passage_tower" / "projection.safetensors").is_file()
