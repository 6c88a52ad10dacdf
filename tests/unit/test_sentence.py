"""Towers for sentence-transformers: its modules compute our vectors, and where it is installed it loads them itself."""

import copy
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, DistilBertConfig, PreTrainedConfig

from realm_ds.data.batches import passage_batch, query_batch
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import ConfigError
from realm_ds.eval.corpus import tensors
from realm_ds.models.sentence import write_sentence_transformer
from realm_ds.models.towers import Embedder, TokenBatch, embed
from tests.support.tiny import make_data

QUERIES = ("the river of brest is called", "kiel")
PASSAGES = (("brest river", "the river of brest is called rivbre."), ("kiel", "kiel has a museum."))
MAX_TOKENS = 60
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CASES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any], float | None]] = {
    "bert": (BertConfig, BERT, 1e-12),
    "wide-epsilon": (BertConfig, BERT, 1e-3),
    "no-norm": (BertConfig, BERT, None),
    "no-pooler": (DistilBertConfig, {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}, 1e-12),
}
"""Kind of encoder, its sizes, epsilon of the LayerNorm behind the projection."""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder / "tokenizer"


def tower_of(case: str, tokenizer: Tokenizer) -> Embedder:
    kind, sizes, norm_eps = CASES[case]
    torch.manual_seed(len(case))
    config = kind(**sizes, vocab_size=tokenizer.vocab_size)
    tower = Embedder(config, projection_size=8, norm_eps=norm_eps, dropout=0.0).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower


def batches(tokenizer: Tokenizer) -> list[TokenBatch]:
    queries = query_batch(tokenizer.encode_all(QUERIES), special=tokenizer.special, max_tokens=MAX_TOKENS)
    pairs = [(tokenizer.encode(title), tokenizer.encode(body)) for title, body in PASSAGES]
    passages = passage_batch(pairs, special=tokenizer.special, max_tokens=MAX_TOKENS)
    return [tensors(queries, torch.device("cpu")), tensors(passages, torch.device("cpu"))]


def by_modules(folder: Path, tokens: TokenBatch) -> Tensor:
    """What the folder's files say, by torch alone: the library's modules in ten lines."""
    modules = json.loads((folder / "modules.json").read_text())
    bert = AutoModel.from_pretrained(folder).eval()
    inputs = tokens.inputs(types=bert.config.model_type == "bert")
    vectors = bert(**inputs).last_hidden_state[:, 0]
    for module in modules[2:]:
        settings = json.loads((folder / module["path"] / "config.json").read_text())
        state = load_file(folder / module["path"] / "model.safetensors")
        if module["type"].endswith(".LayerNorm"):
            vectors = nn.functional.layer_norm(
                vectors, (settings["dimension"],), state["norm.weight"], state["norm.bias"]
            )
        else:
            vectors = nn.functional.linear(vectors, state["linear.weight"], state["linear.bias"])
            vectors = vectors.tanh() if settings["activation_function"].endswith(".Tanh") else vectors
    return vectors


@torch.inference_mode()
@pytest.mark.parametrize("case", CASES)
def test_its_modules_compute_our_vectors(tokenizer_folder: Path, tmp_path: Path, case: str) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    tower = tower_of(case, tokenizer)
    write_sentence_transformer(tower, tmp_path, tokenizer_folder=tokenizer_folder, max_tokens=MAX_TOKENS)
    kinds = [module["type"].split(".")[-1] for module in json.loads((tmp_path / "modules.json").read_text())]
    pooler, norm = ["Dense"] * (case != "no-pooler"), ["LayerNorm"] * (case != "no-norm")
    assert kinds == ["Transformer", "Pooling", *pooler, "Dense", *norm]
    for tokens in batches(tokenizer):
        torch.testing.assert_close(by_modules(tmp_path, tokens), embed(tower, tokens), rtol=0, atol=2e-5)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


def test_what_the_library_cannot_compute(tokenizer_folder: Path, tmp_path: Path) -> None:
    tower = tower_of("bert", load_tokenizer(tokenizer_folder))

    def write(tower: Embedder) -> None:
        write_sentence_transformer(tower, tmp_path, tokenizer_folder=tokenizer_folder, max_tokens=MAX_TOKENS)

    with pytest.raises(ConfigError, match=r"weights of type torch.bfloat16 are not written for sentence-transformers"):
        write(copy.deepcopy(tower).bfloat16())
    tower.bert.pooler = nn.Linear(32, 32)
    with pytest.raises(ConfigError, match=r"the pooler of encoders of type 'bert' is not BERT's tanh layer, and sen"):
        write(tower)


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
def test_the_library_loads_them(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    for case in CASES:
        tower, folder = tower_of(case, tokenizer), tmp_path / case
        write_sentence_transformer(tower, folder, tokenizer_folder=tokenizer_folder, max_tokens=MAX_TOKENS)
    texts = {case: [*QUERIES, *PASSAGES] for case in CASES}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    program = Path(__file__).parents[1] / "oracle" / "load_sentence_transformer.py"
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "vectors.npz", allow_pickle=False) as vectors:
        for case in CASES:
            tower = tower_of(case, tokenizer)
            ours = torch.cat([embed(tower, tokens) for tokens in batches(tokenizer)])
            np.testing.assert_allclose(vectors[case], ours, rtol=0, atol=2e-5, err_msg=case)
