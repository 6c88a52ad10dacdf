"""A REALM so small that its folders are written in milliseconds, and a tokenizer for it."""

from pathlib import Path
from typing import Any

import torch

from realm_ds.config.schema import ModelConfig
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.models.realm import RealmModel, build_model

SIZES = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "projection_size": 8}


def small_realm(data: Path, **settings: Any) -> RealmModel:
    """Weights that tell one input from another, as fresh ones hardly do."""
    vocab_size = load_tokenizer(data / "tokenizer").vocab_size
    config = ModelConfig(**{**SIZES, "share_towers": False, **settings})
    realm = build_model(config, vocab_size=vocab_size, max_tokens=64, seed=0).eval()
    with torch.no_grad():
        for parameter in realm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return realm


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """The same names and, to the bit, the same values."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(theirs[name], value) for name, value in ours.items())
