"""Activation checkpointing and torch.compile change how encoders run, and nothing of what they compute."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from realm_ds.config.schema import ModelConfig
from realm_ds.models.objectives import ClozeBatch, ClozeObjective, MaskedBatch
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.models.towers import TokenBatch
from realm_ds.train.stage import run_encoders

VOCABULARY, LENGTHS = 30, (7, 12)


def model(*, dropout: float, **how: bool) -> RealmModel:
    config = ModelConfig(
        num_layers=2, hidden_size=16, num_heads=2, intermediate_size=32, projection_size=8, dropout=dropout
    )
    realm = build_model(config, vocab_size=VOCABULARY, max_tokens=16, seed=3)
    run_encoders(realm, **{"checkpointed": False, "compiled": False, **how})
    return realm


def batch(length: int) -> ClozeBatch:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, VOCABULARY, (3, length), generator=generator)
    tokens = TokenBatch(ids, torch.ones_like(ids), torch.zeros_like(ids))
    masked = MaskedBatch(tokens, torch.arange(3), torch.full((3, 2), 3), torch.full((3, 2), 7))
    return ClozeBatch(tokens, tokens, masked, torch.ones(3, 2))


def losses_and_gradients(realm: RealmModel) -> tuple[list[float], dict[str, torch.Tensor]]:
    objective = ClozeObjective(realm, gather=lambda block: (block, 0))
    losses = []
    for length in LENGTHS:
        torch.manual_seed(5)
        loss = objective(batch(length)).loss
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad.clone() for name, p in realm.named_parameters() if p.grad is not None}


def test_checkpointed_layers_draw_the_same_dropout_again() -> None:
    kept = losses_and_gradients(model(dropout=0.3))
    realm = model(dropout=0.3, checkpointed=True)
    calls = count_calls(realm.encoder.mlm.base_model.encoder.layer[0].attention)
    losses, gradients = losses_and_gradients(realm)
    assert losses == kept[0]
    assert gradients.keys() == kept[1].keys()
    assert all(torch.equal(value, kept[1][name]) for name, value in gradients.items())
    assert calls() == 2 * len(LENGTHS), "each layer runs again in the backward pass"


def test_compiled_encoders_compute_the_same_and_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile captures, run as it is: making C++ of it takes minutes on a CPU."""
    graphs: list[object] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    kept = losses_and_gradients(model(dropout=0.0))
    realm = model(dropout=0.0, compiled=True)
    assert realm.state_dict().keys() == model(dropout=0.0).state_dict().keys()
    losses, gradients = losses_and_gradients(realm)
    assert losses == pytest.approx(kept[0], rel=1e-4)
    for name, value in gradients.items():
        torch.testing.assert_close(value, kept[1][name], rtol=1e-3, atol=1e-5)
    assert len(graphs) == 2, "one graph for each BERT, whatever the lengths of its batches"


def test_each_of_the_three_berts_is_switched_once() -> None:
    realm = model(dropout=0.0, checkpointed=True, compiled=True)
    berts = [module for module in realm.modules() if module._compiled_call_impl is not None]
    assert berts == [realm.query_tower.bert, realm.encoder.mlm.base_model], "towers are shared here"
    assert all(map(is_checkpointed, berts))
    left_alone = model(dropout=0.0)
    assert not any(module._compiled_call_impl for module in left_alone.modules())
    assert not is_checkpointed(left_alone.query_tower.bert)


def is_checkpointed(bert: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in bert.modules())


def count_calls(module: nn.Module) -> Callable[[], int]:
    calls: list[None] = []
    module.register_forward_hook(lambda *_: calls.append(None))
    return lambda: len(calls)
