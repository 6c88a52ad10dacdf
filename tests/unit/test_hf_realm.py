"""Google's REALM in transformers' layout: read, refused, and computed with as transformers itself did.

tests/oracle/hf_realm holds two tiny models that transformers 4.57.6 saved, a batch, and what they made of it
(tests/oracle/make_hf_realm.py).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from realm_ds.config.schema import ModelConfig
from realm_ds.errors import CheckpointError
from realm_ds.models import objectives
from realm_ds.models.hf_realm import ENCODER_NAMES, TOWER_NAMES, flipped, open_tower, renamed
from realm_ds.models.names import check_start
from realm_ds.models.objectives import MarginalObjective
from realm_ds.models.realm import RealmModel, build_model
from tests.support.oracle import ORACLE, expected, oracle_batch

SIZES = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "projection_size": 8}
VOCABULARY = 60
LEFT_OUT = {"embedder": "cls.predictions.", "encoder": "realm.pooler."}
"""What of the two has no use here."""


def started(folder: Path = ORACLE, *, vocab_size: int = VOCABULARY, **changes: Any) -> RealmModel:
    settings = {**SIZES, "share_towers": False, "start_from": folder, **changes}
    return build_model(ModelConfig(**settings), vocab_size=vocab_size, max_tokens=64, seed=0).eval()


def test_the_whole_model_computes_what_transformers_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights, same batch: vectors, relevance, loss, and the gradients, though sequences are bucketed here and all
    of full length there."""
    case, realm, seen = expected(), started(), {}
    batch = oracle_batch(case)
    lengths = {part.tokens.ids_NL.shape[1] for part in batch.joint}
    assert len(lengths) > 1  # it is bucketed
    whole = objectives.marginal_likelihood

    def watched(logits_BC: Tensor, *rest: Any, **options: Any) -> Any:
        logits_BC.retain_grad()
        seen["relevance_BC"] = logits_BC
        return whole(logits_BC, *rest, **options)

    monkeypatch.setattr(objectives, "marginal_likelihood", watched)
    measured = MarginalObjective(realm, form="per_token")(batch)
    measured.loss.backward()
    query_BP = realm.query_tower(batch.queries)
    passage_UP = torch.cat([realm.passage_tower(bucket) for bucket in batch.passages])
    torch.testing.assert_close(query_BP, torch.tensor(case["query_BP"]), rtol=0, atol=1e-5)
    passage_BCP = passage_UP[batch.passage_rows_BC]
    torch.testing.assert_close(passage_BCP, torch.tensor(case["passage_BCP"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen["relevance_BC"], torch.tensor(case["relevance_BC"]), rtol=0, atol=1e-5)
    assert measured.loss.item() == pytest.approx(case["loss"], abs=1e-5)
    gradient = seen["relevance_BC"].grad
    torch.testing.assert_close(gradient, torch.tensor(case["gradient_BC"]), rtol=1e-4, atol=1e-7)
    for name, norm in case["gradient_norms"].items():
        gradients = [p.grad.norm() for p in realm.get_submodule(name).parameters() if p.grad is not None]
        assert torch.stack(gradients).norm().item() == pytest.approx(norm, rel=1e-4), name


def write(folder: Path, part: str, state: dict[str, Tensor], **config: Any) -> None:
    """One of the two models in other clothes."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    settings = {**json.loads((ORACLE / part / "config.json").read_text()), **config}
    (folder / part / "config.json").write_text(json.dumps(settings))
    save_file({name: value.clone() for name, value in state.items()}, folder / part / "model.safetensors")


def weights(part: str, prefix: str = "") -> dict[str, Tensor]:
    state = load_file(ORACLE / part / "model.safetensors")
    return {name.removeprefix(prefix): value.clone() for name, value in state.items() if name.startswith(prefix)}


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(ORACLE, tmp_path / "realm")
    return tmp_path / "realm"


@pytest.mark.parametrize("share_towers", [True, False])
def test_one_embedder_is_both_towers(copied: Path, share_towers: bool) -> None:
    """A RealmEmbedder; a scorer of one embedder written once; and one that transformers wrote twice, with the buffers
    that old versions stored and into pytorch_model.bin."""
    embedder = weights("embedder", "embedder.")
    once = {f"embedder.{name}": value for name, value in embedder.items()}
    twice = {**once, **{f"query_embedder.{name}": value for name, value in embedder.items()}}
    twice["embedder.realm.embeddings.position_ids"] = torch.arange(512)[None]
    reference = started().passage_tower
    for state in (embedder, once, twice):
        write(copied, "embedder", state)
        if state is twice:
            (copied / "embedder" / "model.safetensors").unlink()
            torch.save(twice, copied / "embedder" / "pytorch_model.bin")
        realm = started(copied, share_towers=share_towers)
        assert realm.shares_towers == share_towers
        assert same(realm.query_tower, reference)
        assert same(realm.passage_tower, reference)


@pytest.mark.parametrize("share_towers", [True, False])
@pytest.mark.parametrize("damaged", ["embedder", "query_embedder"])
def test_a_scorer_that_lacks_a_weight_in_one_embedder(copied: Path, share_towers: bool, damaged: str) -> None:
    embedder = weights("embedder", "embedder.")
    state = {f"{part}.{name}": value for part in ("embedder", "query_embedder") for name, value in embedder.items()}
    del state[f"{damaged}.cls.dense.bias"]
    write(copied, "embedder", state)
    message = r"embedder has 'cls.dense.bias' in only one of embedder and query_embedder: copy the checkpoint again"
    with pytest.raises(CheckpointError, match=message):
        started(copied, share_towers=share_towers)
    with pytest.raises(CheckpointError, match=message):
        open_tower(copied, "query_tower")


def test_two_embedders_cannot_be_shared() -> None:
    with pytest.raises(
        CheckpointError, match=r"has two embedders with weights of their own.* set model.share_towers=f"
    ):
        started(share_towers=True)


def test_the_encoders_head_is_tied(copied: Path) -> None:
    """Whether the file has the decoder or leaves it out."""
    state = weights("encoder")
    state["cls.predictions.decoder.weight"] = state["realm.embeddings.word_embeddings.weight"].clone()
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"].clone()
    write(copied, "encoder", state)
    assert same(started(copied).encoder, started().encoder)
    del state["cls.predictions.bias"]
    write(copied, "encoder", state)
    with pytest.raises(CheckpointError, match=r"encoder lacks 'cls.predictions.bias': not a RealmKnowledgeAugEncoder"):
        started(copied)


def test_names_go_both_ways() -> None:
    """An export can use the same tables."""
    for part, names in (("embedder", TOWER_NAMES), ("encoder", ENCODER_NAMES)):
        state = weights(part, "embedder." if part == "embedder" else "")
        ours = renamed(state, names)
        back = renamed(ours, flipped(names))
        left_out = {name for name in state if name not in back}
        assert all(torch.equal(state[name], value) for name, value in back.items())
        assert left_out == {name for name in state if name.startswith(LEFT_OUT[part])}
        assert left_out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 8}, r"embedder is of another shape than this run: hidden_size is 16 there and 8 by model.hid"),
        ({"num_heads": 4}, "num_attention_heads is 2 there and 4 by model.num_heads. Set them as the checkpoint has"),
        ({"projection_size": 4}, "retriever_proj_size is 8 there and 4 by model.projection_size"),
        ({"projection_norm": False}, "projection_norm_eps is 1e-12 there and none by model.projection_norm and"),
        ({"projection_norm_eps": 1e-3}, "projection_norm_eps is 1e-12 there and 0.001 by model.projection_norm"),
        ({"vocab_size": 61}, "vocab_size is 60 there and 61 by data.tokenizer"),
        ({"num_layers": 1, "num_heads": 4}, "num_hidden_layers is 2 .* by model.num_layers; num_attention_heads is 2"),
    ],
)
def test_other_sizes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        started(**changes)


def test_the_encoder_is_measured_too(copied: Path) -> None:
    write(copied, "encoder", weights("encoder"), num_attention_heads=4, retriever_proj_size=99)
    with pytest.raises(
        CheckpointError, match=r"encoder is of another shape .*: num_attention_heads is 4 there and 2 by"
    ):
        started(copied)
    write(copied, "encoder", weights("encoder"), hidden_act="relu")
    with pytest.raises(CheckpointError, match="hidden_act is relu there and gelu_pytorch_tanh by the BERT of this run"):
        started(copied)


def test_what_is_no_checkpoint_of_google_realm(copied: Path) -> None:
    embedder = copied / "embedder"
    write(copied, "embedder", weights("embedder"), model_type="bert")
    with pytest.raises(CheckpointError, match="config.json is of model type 'bert', not 'realm'"):
        started(copied)
    (embedder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read .*: copy the checkpoint again"):
        started(copied)
    write(copied, "embedder", {"embedder.realm.pooler.dense.bias": torch.zeros(16)})
    with pytest.raises(CheckpointError, match="does not hold the weights of Google's REALM: Missing key"):
        started(copied)
    (embedder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"weights in .*embedder cannot be read .*: copy them again"):
        started(copied)
    (embedder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds neither model.safetensors nor pytorch_model.bin: copy the wei"):
        started(copied)
    torch.save({"weights": Path("a")}, embedder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"weights in .*embedder cannot be read"):  # and is not unpickled
        started(copied)


def test_a_tower_alone_has_the_sizes_that_the_checkpoint_says(copied: Path) -> None:
    """For an index of it, which needs no encoder."""
    shutil.rmtree(copied / "encoder")
    for name in ("query_tower", "passage_tower"):
        assert same(open_tower(copied, name), started().get_submodule(name))
    write(copied, "embedder", weights("embedder"), num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"embedder does not hold the weights that its config.json says: copy"):
        open_tower(copied, "query_tower")


def test_the_folder_is_looked_at_before_anything_is_started(copied: Path) -> None:
    check_start(copied)
    with pytest.raises(
        CheckpointError, match=r"is a single transformers model: name it in model.encoder, or, if it is"
    ):
        check_start(copied / "encoder")
    shutil.rmtree(copied / "encoder")
    with pytest.raises(
        CheckpointError, match=r"has embedder/, .* but encoder/config.json is missing: put its RealmKno"
    ):
        check_start(copied)


def test_other_encoders_than_bert_cannot_take_it(tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    config = DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, vocab_size=VOCABULARY)
    DistilBertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match="made of BERTs, but model.encoder is a distilbert: leave model.encoder out"
    ):
        started(encoder=tmp_path)
