"""A tower on disk, towers and encoders of any BERT-like family, and models that do not fit."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    PreTrainedConfig,
    RobertaConfig,
)

from realm_ds.config.schema import ModelConfig
from realm_ds.config.stages import IctConfig, ModuleRates
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models.encoder import KnowledgeAugEncoder, masked_language_model
from realm_ds.models.hub import encoder_folder, tagger_folder
from realm_ds.models.names import HEAD_PARTS
from realm_ds.models.qa import QaModel, build_qa_model
from realm_ds.models.realm import build_model
from realm_ds.models.towers import Embedder, TokenBatch, bert_config, embed
from realm_ds.train.optimizer import rate_of
from tests.support.batches import plain_tokens

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_a_saved_tower_embeds_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = Embedder(BertConfig(vocab_size=30, **SIZES), projection_size=4, norm_eps=1e-3, dropout=0.0).eval()
    tower.save(tmp_path)
    ids = torch.tensor([[2, 7, 8, 3]])
    tokens = plain_tokens(ids)
    loaded = Embedder.load(tmp_path).eval()
    assert loaded.norm.eps == 1e-3
    assert torch.equal(embed(loaded, tokens), embed(tower, tokens))


def test_a_folder_that_is_no_tower(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no projection.safetensors: not a tower written by realm-ds"):
        Embedder.load(tmp_path)


def test_an_encoder_must_have_the_wordpieces_and_positions_of_the_data(tmp_path: Path) -> None:
    BertConfig(vocab_size=30, max_position_embeddings=64, **SIZES).save_pretrained(tmp_path)
    model = ModelConfig(encoder=tmp_path)
    assert bert_config(model, vocab_size=30, max_tokens=64).hidden_size == 8
    with pytest.raises(ConfigError, match="has 30 wordpieces, but data.tokenizer has 31: prepare the data with the"):
        bert_config(model, vocab_size=31, max_tokens=64)
    with pytest.raises(ConfigError, match=r"has 64 positions, .* may take 65: lower data.passage_tokens"):
        bert_config(model, vocab_size=30, max_tokens=65)
    with pytest.raises(ConfigError, match="is not a transformers model folder"):
        bert_config(ModelConfig(encoder=tmp_path / "none"), vocab_size=30, max_tokens=64)


VOCABULARY = 40
SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SMALL, **SIZES),
    "distilbert": DistilBertConfig(dim=8, n_layers=1, n_heads=2, hidden_dim=16, **SMALL),
    "electra": ElectraConfig(embedding_size=4, **SMALL, **SIZES),
}
HAS_POOLER, HAS_TYPES = {"bert"}, {"bert", "electra"}


def two_segments() -> TokenBatch:
    ids = torch.tensor([[2, 7, 3, 8, 9, 3], [2, 10, 3, 11, 3, 0]])
    return TokenBatch(ids, (ids != 0).long(), torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]]))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A small masked-language model of the family, saved as its folder."""
    torch.manual_seed(1)
    AutoModelForMaskedLM.from_config(FAMILIES[request.param]).save_pretrained(tmp_path / "model")
    return request.param, tmp_path / "model"


def test_any_bert_like_encoder_serves(family: tuple[str, Path], tmp_path: Path) -> None:
    """Towers, encoder and reader start from its weights, take token types only where it does, and save and load."""
    name, folder = family
    model = ModelConfig(encoder=folder, projection_size=4, share_towers=False, dropout=0.0)
    realm = build_model(model, vocab_size=VOCABULARY, max_tokens=64, seed=0).eval()
    tokens = two_segments()
    theirs = AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = tokens.inputs(types=name in HAS_TYPES)
    with torch.no_grad():
        states = theirs.base_model(**inputs).last_hidden_state
        if name not in HAS_POOLER:
            expected = realm.query_tower.norm(realm.query_tower.dense(states[:, 0]))
            torch.testing.assert_close(realm.query_tower(tokens), expected)
        positions, targets = torch.tensor([[1, 3], [1, 1]]), torch.tensor([[5, 6], [7, 8]])
        log_p, _ = realm.encoder(tokens, positions, targets)
        whole = theirs(**inputs).logits.log_softmax(-1)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected_log_p = whole[row, positions[row, column], targets[row, column]]
        assert log_p[row, column].item() == pytest.approx(expected_log_p.item(), abs=1e-5)
    realm.query_tower.save(tmp_path / "tower")
    assert torch.equal(embed(Embedder.load(tmp_path / "tower").eval(), tokens), embed(realm.query_tower, tokens))
    qa = build_qa_model(realm, span_hidden_size=4, max_span_tokens=3, seed=0).eval()
    qa.save(tmp_path / "qa")
    loaded = QaModel.load(tmp_path / "qa").eval()
    with torch.no_grad():
        assert torch.equal(loaded.reader(tokens)[0], qa.reader(tokens)[0])


def test_an_encoder_kept_in_16_bits_is_trained_in_float32(family: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = family
    AutoModelForMaskedLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    model = ModelConfig(encoder=tmp_path / "narrow", projection_size=4)
    realm = build_model(model, vocab_size=VOCABULARY, max_tokens=64, seed=0)
    qa = build_qa_model(realm, span_hidden_size=4, max_span_tokens=3, seed=0)
    assert {weight.dtype for weight in [*realm.parameters(), *qa.parameters()]} == {torch.float32}
    qa.to(torch.bfloat16).save(tmp_path / "qa")
    assert {weight.dtype for weight in QaModel.load(tmp_path / "qa").reader.encoder.parameters()} == {torch.float32}


def test_dropout_reaches_every_family(family: tuple[str, Path]) -> None:
    _, folder = family
    tokens = two_segments()
    for rate in (0.0, 0.5):
        model = ModelConfig(encoder=folder, projection_size=4, dropout=rate)
        realm = build_model(model, vocab_size=VOCABULARY, max_tokens=64, seed=0).train()
        first, second = (realm.query_tower.bert(**tokens.inputs(types=False)).last_hidden_state for _ in range(2))
        assert torch.equal(first, second) == (rate == 0.0)


def test_the_head_of_every_family_is_known_by_name() -> None:
    """What has a learning rate of its own (rates.head) is found by these names."""
    for config in FAMILIES.values():
        mlm = KnowledgeAugEncoder(config).mlm
        heads = {name for name, _ in mlm.named_parameters() if not name.startswith(f"{mlm.base_model_prefix}.")}
        assert heads
        assert all(name.split(".")[0] in HEAD_PARTS for name in heads)
        rates = IctConfig(learning_rate=1.0, rates=ModuleRates(head=2.0))
        with_head_rate = {n for n, _ in mlm.named_parameters() if rate_of(f"model.encoder.mlm.{n}", stage=rates) == 2.0}
        assert with_head_rate == heads


def test_attention_is_fused() -> None:
    for config in FAMILIES.values():
        assert KnowledgeAugEncoder(config).mlm.config._attn_implementation == "sdpa"


def test_a_name_is_looked_up_in_the_hubs_cache_of_this_host(
    family: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a rank does whose launcher could not resolve the name for it: no network."""
    _, folder = family

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        assert local_files_only
        if name == "org/none":
            raise FileNotFoundError("no snapshot")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model = ModelConfig(encoder="org/small", projection_size=4)
    named = build_model(model, vocab_size=VOCABULARY, max_tokens=64, seed=0).state_dict()
    model = ModelConfig(encoder=folder, projection_size=4)
    direct = build_model(model, vocab_size=VOCABULARY, max_tokens=64, seed=0).state_dict()
    assert all(torch.equal(value, direct[name]) for name, value in named.items())
    with pytest.raises(
        ConfigError, match=r"encoder=org/none is not in this host's hub cache \(no snapshot\): run `hf d"
    ):
        bert_config(ModelConfig(encoder="org/none"), vocab_size=VOCABULARY, max_tokens=64)


def test_a_tagger_is_a_folder_or_comes_from_the_hub_with_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        assert not local_files_only
        if name == "org/none":
            raise FileNotFoundError("no snapshot")
        assert {"tokenizer*.json", "vocab.*"} < set(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert tagger_folder(str(tmp_path)) == tmp_path
    assert tagger_folder("org/tagger") == tmp_path
    with pytest.raises(ConfigError, match=r"--model org/none is neither a folder here nor a model that the hub gives"):
        tagger_folder("org/none")


def test_weights_of_the_old_kind_are_fetched_only_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most repositories have them twice."""
    asked: list[list[str]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append(allow_patterns)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").touch()
    assert encoder_folder("new", download=True) == tmp_path / "new"
    assert not any(".bin" in pattern for patterns in asked for pattern in patterns)
    assert encoder_folder("old", download=True) == tmp_path / "old"
    assert "pytorch_model*.bin" in asked[-1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BartConfig(d_model=8, **SMALL), "is of type 'bart', not a BERT-like encoder with a table of positions: name"),
        (GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=VOCABULARY), "'gpt2' has no masked-language-model head"),
        (RobertaConfig(**SMALL, **SIZES), "'roberta' has a masked-language-model head of a kind that is not known"),
    ],
    ids=["bart", "gpt2", "roberta"],
)
def test_a_model_that_cannot_serve(tmp_path: Path, config: PreTrainedConfig, message: str) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=message):
        masked_language_model(bert_config(ModelConfig(encoder=tmp_path), vocab_size=VOCABULARY, max_tokens=32))


def test_a_bare_linear_projection(tmp_path: Path) -> None:
    """The paper's text has no LayerNorm behind W; the export remembers that."""
    model = ModelConfig(
        num_layers=1, hidden_size=8, num_heads=2, intermediate_size=16, projection_size=4, projection_norm=False
    )
    tower = build_model(model, vocab_size=VOCABULARY, max_tokens=16, seed=0).eval().query_tower
    tokens = two_segments()
    with torch.no_grad():
        pooled = tower.bert(**tokens.inputs(types=True)).pooler_output
        torch.testing.assert_close(tower(tokens), pooled @ tower.dense.weight.T + tower.dense.bias)
    assert {name for name, _ in tower.named_parameters() if "norm" in name.lower() and "bert" not in name} == set()
    tower.save(tmp_path)
    loaded = Embedder.load(tmp_path).eval()
    assert loaded.norm_eps is None
    assert torch.equal(embed(loaded, tokens), embed(tower, tokens))
    with pytest.raises(CheckpointError, match="other model sizes"):
        export_with_norm(tmp_path, model)


def export_with_norm(tower: Path, model: ModelConfig) -> None:
    """A run with a LayerNorm that is to start from towers without one."""
    folder = tower.parent / "export"
    for name in ("query_tower", "passage_tower"):
        Embedder.load(tower).save(folder / name)
    KnowledgeAugEncoder(BertConfig(vocab_size=VOCABULARY, **SIZES)).save(folder / "encoder")
    with_norm = model.model_copy(update={"projection_norm": True, "start_from": folder})
    build_model(with_norm, vocab_size=VOCABULARY, max_tokens=16, seed=0)
