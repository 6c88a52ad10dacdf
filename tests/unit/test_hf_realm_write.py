"""Folders that we write in transformers' layout: read again to the bit, refused where its classes differ, and, where
transformers 4.57.6 is or can be installed, loaded and computed with by its own classes (tests/oracle/load_hf_realm.py).
"""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from realm_ds.bench.peer import peer_environment
from realm_ds.bench.peer_batch import padded
from realm_ds.config.schema import ModelConfig
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError, LaunchError
from realm_ds.eval.corpus import CorpusIndex, embed_queries
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.eval.spans import read_spans
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.passages import load_shard
from realm_ds.models.hf_block_records import BLOCK_RECORDS, read_block_records
from realm_ds.models.hf_realm import BERT_SIZES
from realm_ds.models.hf_realm_qa import read_hf_qa, write_hf_qa
from realm_ds.models.hf_realm_write import write_hf_realm
from realm_ds.models.objectives import MarginalObjective
from realm_ds.models.qa import QaModel, build_qa_model
from realm_ds.models.realm import RealmModel, build_model, open_hf_realm
from realm_ds.models.towers import TokenBatch
from tests.support.hf_realm import SIZES, same_weights, small_realm
from tests.support.oracle import ORACLE, expected, oracle_batch
from tests.support.tiny import make_data

READ, QUESTION_TOKENS, PASSAGE_TOKENS = 3, 40, 60
QUESTIONS = ("the river of brest is called", "the museum of kiel", "delft has a mayor called", "jena", "tower of leon")
"""Of known words: transformers' reader drops what is [UNK] from a question."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


def qa_model(data: Path) -> QaModel:
    realm = small_realm(data, share_towers=True)
    answering = build_qa_model(realm, span_hidden_size=12, max_span_tokens=4, seed=1).eval()
    with torch.no_grad():
        for parameter in answering.reader.scorer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return answering


def written(data: Path, folder: Path, realm: RealmModel) -> Path:
    write_hf_realm(realm, folder, tokenizer_folder=data / "tokenizer", num_candidates=4)
    return folder


def corpus_of(data: Path) -> tuple[CorpusIndex, list[str]]:
    """The passages with vectors drawn at random, and their texts."""
    shards = open_shards(data / "corpus", kind="corpus", fingerprint=None)
    passages = load_shard(shards, shard_rank=0, num_shards=1)
    vectors_NP = np.random.default_rng(0).standard_normal((len(passages), SIZES["projection_size"]), dtype=np.float32)
    return CorpusIndex(passages, VectorTable.of(vectors_NP)), [passage.text for passage in shards.passages()]


def written_qa(data: Path, folder: Path, answering: QaModel) -> Path:
    corpus, bodies = corpus_of(data)
    write_hf_qa(
        answering, folder, tokenizer_folder=data / "tokenizer", vectors_NP=corpus.vectors_NP, bodies=bodies,
        num_read=READ, question_tokens=QUESTION_TOKENS, passage_tokens=PASSAGE_TOKENS,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("share_towers", [True, False])
def test_a_model_comes_back_to_the_bit(data: Path, tmp_path: Path, share_towers: bool) -> None:
    realm = small_realm(data, share_towers=share_towers)
    folder = written(data, tmp_path / "first", realm)
    start = ModelConfig(**{**SIZES, "share_towers": share_towers, "start_from": folder})
    vocab_size = realm.query_tower.bert.config.vocab_size
    back = build_model(start, vocab_size=vocab_size, max_tokens=64, seed=3)
    assert same_weights(back, realm)
    again = written(data, tmp_path / "again", back)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    assert load_tokenizer(folder / "scorer").fingerprint == load_tokenizer(data / "tokenizer").fingerprint


def test_a_model_of_transformers_comes_back_to_the_bit(data: Path, tmp_path: Path) -> None:
    """What transformers saved itself, read and written: all that a vector or a loss goes through."""
    write_hf_realm(open_hf_realm(ORACLE), tmp_path, tokenizer_folder=data / "tokenizer")
    for theirs, ours, idle in (("embedder", "scorer", ".cls.predictions."), ("encoder", "encoder", ".pooler.")):
        before = load_file(ORACLE / theirs / "model.safetensors")
        after = load_file(tmp_path / ours / "model.safetensors")
        used = [name for name in before if idle not in name]
        assert set(before) == set(after)
        assert all(torch.equal(after[name], before[name]) for name in used)
        assert len(used) > 30
    config = json.loads((tmp_path / "scorer" / "config.json").read_text())
    before = json.loads((ORACLE / "embedder" / "config.json").read_text())
    assert all(before[name] == config[name] for name in (*BERT_SIZES, "retriever_proj_size", "pad_token_id"))


def test_answering_comes_back_to_the_bit(data: Path, tmp_path: Path) -> None:
    answering = qa_model(data)
    folder = written_qa(data, tmp_path, answering)
    back = read_hf_qa(folder / "openqa")
    assert same_weights(back.model, answering)
    corpus, bodies = corpus_of(data)
    assert np.array_equal(back.vectors_NP.numpy(), corpus.vectors_NP)
    assert list(read_block_records(folder / "openqa" / BLOCK_RECORDS)) == bodies
    assert (back.model.reader.scorer.max_span_tokens, back.model.query_tower.norm_eps) == (4, 1e-12)
    assert (back.num_read, back.question_tokens, back.passage_tokens) == (READ, QUESTION_TOKENS, PASSAGE_TOKENS)
    reader = load_file(folder / "reader" / "model.safetensors")
    whole = load_file(folder / "openqa" / "model.safetensors")
    assert all(torch.equal(whole[f"reader.{name}"], value) for name, value in reader.items())


def test_what_is_no_model_that_answers(data: Path, tmp_path: Path) -> None:
    written_qa(data, tmp_path, qa_model(data))
    with pytest.raises(
        CheckpointError, match=r"reader has no 'block_emb', the vectors of passages: it is no RealmForOp"
    ):
        read_hf_qa(tmp_path / "reader")
    path = tmp_path / "openqa" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "span_hidden_size": 99}))
    with pytest.raises(CheckpointError, match=r"openqa does not hold the weights that its config.json says: copy"):
        read_hf_qa(tmp_path / "openqa")
    path.write_text(json.dumps({**config, "reader_layer_norm_eps": 1e-5}))
    with pytest.raises(ConfigError, match=r"config.json has reader_layer_norm_eps=1e-05, and the reader here has 1e-3"):
        read_hf_qa(tmp_path / "openqa")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"projection_norm": False}, r"LayerNorm with BERT's epsilon, 1e-12, and this model has none: export it with"),
        ({"projection_norm_eps": 1e-3}, r"and this model has one with epsilon 0.001: export it with --layout realm or"),
    ],
)
def test_what_transformers_cannot_compute(data: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        written(data, tmp_path, small_realm(data, **settings))


def test_other_encoders_are_refused(data: Path, tmp_path: Path) -> None:
    realm = small_realm(data)
    realm.encoder.mlm.config = copy.copy(realm.encoder.mlm.config)
    realm.encoder.mlm.config.num_hidden_layers = 3
    with pytest.raises(ConfigError, match="towers and encoder are of different sizes"):
        written(data, tmp_path, realm)
    realm.passage_tower.bert.config.model_type = "distilbert"
    with pytest.raises(ConfigError, match=r"of type 'distilbert', and REALM in transformers is made of BERTs: export"):
        written(data, tmp_path, realm)


@pytest.fixture(scope="module")
def theirs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(what they told, what they computed) of one model of each kind, in one process of transformers 4.57.6."""
    try:
        python = peer_environment()
    except LaunchError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("theirs")
    written(data, folder / "pretrained", small_realm(data))
    written_qa(data, folder / "qa", qa_model(data))
    (folder / "qa" / "questions.json").write_text(json.dumps(QUESTIONS))
    read = {f"read_{name}": part for name, part in _read().items()}
    np.savez(folder / "inputs.npz", **_inputs(), **read)
    program = Path(__file__).parents[1] / "oracle" / "load_hf_realm.py"
    done = subprocess.run([python, program, folder], capture_output=True, text=True, timeout=300, env={})
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz", allow_pickle=False) as arrays:
        return json.loads((folder / "info.json").read_text()), dict(arrays)


def _inputs() -> dict[str, np.ndarray]:
    """The oracle's batch, full length each, by the names of load_hf_realm.py."""
    names = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
    arrays = padded(oracle_batch(expected()))
    inputs = {name: arrays[name] for name in ("labels_BL", "mlm_mask_BL")}
    for name in ("query_{}_BL", "passage_{}_BCL", "joint_{}_BCL"):
        inputs |= {f"{name[: name.index('_')]}_{new}": arrays[name.format(old)] for old, new in names.items()}
    return inputs


def _read() -> dict[str, np.ndarray]:
    """Pairs of a question and a passage, all of full length, whose passage begins elsewhere in each."""
    length = 14
    ids_KL = np.random.default_rng(3).integers(5, 60, (READ, length))
    types_KL = np.array([[0] * (4 + row) + [1] * (length - 4 - row) for row in range(READ)])
    return {"input_ids": ids_KL, "attention_mask": np.ones_like(ids_KL), "token_type_ids": types_KL}


Theirs = tuple[dict[str, Any], dict[str, np.ndarray]]


def test_transformers_misses_no_weight(data: Path, theirs: Theirs) -> None:
    info, _ = theirs
    vocab_size = load_tokenizer(data / "tokenizer").vocab_size
    for kind in ("RealmEmbedder", "RealmScorer", "RealmKnowledgeAugEncoder", "RealmReader", "RealmForOpenQA"):
        found = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "tokenizer": vocab_size}
        assert info[kind] == found, kind
    assert info["blocks"] == corpus_of(data)[1]


@torch.no_grad()
def test_transformers_computes_the_same_before_fine_tuning(data: Path, theirs: Theirs) -> None:
    _, seen = theirs
    realm, batch = small_realm(data), oracle_batch(expected())
    query_BP = realm.query_tower(batch.queries)
    passage_BCP = torch.cat([realm.passage_tower(bucket) for bucket in batch.passages])[batch.passage_rows_BC]
    np.testing.assert_allclose(seen["query_vectors"], query_BP, atol=1e-5)
    np.testing.assert_allclose(seen["passage_vectors"], passage_BCP.flatten(0, 1), atol=1e-5)
    relevance_BC = torch.einsum("bp,bcp->bc", query_BP, passage_BCP)
    np.testing.assert_allclose(seen["relevance_BC"], relevance_BC, atol=1e-4)
    assert MarginalObjective(realm, form="per_token")(batch).loss.item() == pytest.approx(seen["loss"].item(), abs=1e-5)


@torch.no_grad()
def test_transformers_reads_the_same_weights(data: Path, theirs: Theirs) -> None:
    """All spans of every width, those within passages alone."""
    _, seen = theirs
    read = _read()
    joint = TokenBatch(*(torch.from_numpy(read[name]) for name in ("input_ids", "attention_mask", "token_type_ids")))
    logits_RLW, possible_RLW = qa_model(data).reader(joint)
    length = joint.ids_NL.shape[1]
    places = [(start, width) for width in range(4) for start in range(length - width)]
    ours = torch.stack([logits_RLW[:, start, width] for start, width in places], dim=1)
    possible = torch.stack([possible_RLW[:, start, width] for start, width in places], dim=1)
    np.testing.assert_allclose(seen["read_logits"][possible], ours[possible], atol=1e-5)
    assert (seen["read_logits"][~possible] < -1e30).all()
    assert 0 < possible.sum() < possible.numel()


def test_transformers_answers_the_same_weights(data: Path, theirs: Theirs) -> None:
    info, _ = theirs
    answering, (corpus, _), tokenizer = qa_model(data), corpus_of(data), load_tokenizer(data / "tokenizer")
    assert info["answers"] == answers(answering, corpus, tokenizer)
    assert len(set(info["answers"])) > 1


def answers(answering: QaModel, corpus: CorpusIndex, tokenizer: Tokenizer) -> list[str]:
    sizes = ReadingSizes(question_tokens=QUESTION_TOKENS, passage_tokens=PASSAGE_TOKENS, read=READ)
    ids, special = tokenizer.encode_questions(QUESTIONS), tokenizer.special
    queries_BP = embed_queries(answering.query_tower, ids, special=special, max_tokens=QUESTION_TOKENS)
    hits = corpus.search(queries_BP, num_hits=READ)
    best = read_spans(
        answering.reader, ids, hits.places_BK, hits.scores_BK, corpus.bodies, special=special, sizes=sizes
    )
    found = [spans[0] for spans in best]
    bodies = corpus.bodies(np.array([span.place for span in found]))
    return [tokenizer.decode(body[span.start : span.stop].tolist()) for span, body in zip(found, bodies, strict=True)]
