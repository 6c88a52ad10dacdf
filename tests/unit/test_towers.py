"""A tower on disk, and an encoder that does not fit the data."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from realm_ds.config.schema import ModelConfig
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models.towers import Embedder, TokenBatch, bert_config, embed

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_a_saved_tower_embeds_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = Embedder(BertConfig(vocab_size=30, **SIZES), projection_size=4, norm_eps=1e-3, dropout=0.0).eval()
    tower.save(tmp_path)
    ids = torch.tensor([[2, 7, 8, 3]])
    tokens = TokenBatch(ids, torch.ones_like(ids), torch.zeros_like(ids))
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
