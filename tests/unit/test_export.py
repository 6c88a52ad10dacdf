"""Weights that become the model of a run again. Whole exports are in tests/ranks/test_pretrain.py."""

from pathlib import Path

import pytest
import torch

from realm_ds.errors import CheckpointError
from realm_ds.train.export import fill, unfilled
from tests.support.tiny import tiny_config

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
        assert fill(realm, weights) is realm
        assert all((parameter == value).all() for parameter in realm.parameters())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    small, wide = (
        unfilled(tiny_config(tmp_path, **{"model.projection_size": width}), vocab_size=VOCABULARY) for width in (16, 24)
    )
    with pytest.raises(
        CheckpointError, match=r"(?s)does not hold the model of config.yaml: .*size mismatch for query_tower"
    ):
        fill(small, wide.state_dict())
