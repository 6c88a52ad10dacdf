"""docs/mean_pooled_start.py makes an export whose inner products are the cosines of a BERT's mean states."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from realm_ds.data.batches import passage_batch
from realm_ds.eval.corpus import tensors
from realm_ds.eval.exported import open_export
from tests.support.tiny import make_data

SCRIPT = Path(__file__).parents[2] / "docs" / "mean_pooled_start.py"


def test_inner_products_are_the_models_own_cosines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("mean_pooled_start", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    tokenizer, model = make_data(tmp_path), tmp_path / "tokenizer"
    torch.manual_seed(1)
    bert = BertModel(
        BertConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32,
        )
    ).eval()  # fmt: skip
    bert.save_pretrained(model)  # beside its tokenizer, as it is downloaded
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(model), str(tmp_path / "corpus"), str(tmp_path / "out")])
    script.main()
    opened = open_export(tmp_path / "out")
    passages = list(opened.shards.passages(0, 20))
    tokens = passage_batch([(passage.title_ids, passage.body_ids) for passage in passages], special=tokenizer.special,
                           max_tokens=script.SIZES.passage_tokens)  # fmt: skip
    batch = tensors(tokens, torch.device("cpu"))
    with torch.no_grad():
        states_NLH = bert(**batch.inputs(types=True)).last_hidden_state
    mask_NL1 = batch.mask_NL[..., None].float()
    mean_NH = torch.nn.functional.normalize((states_NLH * mask_NL1).sum(dim=1) / mask_NL1.sum(dim=1), dim=1).numpy()
    vectors_NP = opened.corpus.vectors_NP[: len(passages)]
    assert np.allclose(vectors_NP @ vectors_NP.T, script.SCALE * mean_NH @ mean_NH.T, atol=0.2)
