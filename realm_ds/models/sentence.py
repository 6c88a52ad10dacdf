"""A tower as a folder that sentence-transformers opens: encoder, [CLS], pooler, projection and LayerNorm, its modules.

Other layouts of an export are hf_realm_write.py's and train/export.py's business.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, float32, nn
from transformers import AutoConfig

from realm_ds.errors import ConfigError
from realm_ds.models.tokenizer_files import copy_tokenizer
from realm_ds.models.towers import Embedder
from realm_ds.models.weights import WEIGHTS_FILE

Module = tuple[str, dict[str, Any], dict[str, Tensor]]
"""A module's class, settings and weights."""
MODULES = "sentence_transformers.models"
"""Where its classes are by the names that every version takes."""
NORM_EPS = 1e-5
"""Of its LayerNorm, whose settings have none."""


def write_sentence_transformer(tower: Embedder, folder: Path, *, tokenizer_folder: Path, max_tokens: int) -> None:
    """Write one tower. Its `encode` takes a query, or a passage as the pair (title, text), cut to `max_tokens`.

    Raises ConfigError if the library has no modules that compute what the tower does.
    """
    if tower.dense.weight.dtype != float32:
        raise ConfigError(
            f"weights of type {tower.dense.weight.dtype} are not written for sentence-transformers, which opens parts "
            "of a model as float32: leave --dtype out"
        )
    modules = [_pooling(tower), *_pooler(tower), *_projection(tower)]
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULES}.Transformer"}]
    tower.bert.save_pretrained(folder, safe_serialization=True)
    copy_tokenizer(tokenizer_folder, folder)
    for number, (kind, settings, weights) in enumerate(modules, start=1):
        path = f"{number}_{kind}"
        (folder / path).mkdir()
        _write_json(folder / path / "config.json", settings)
        if weights:
            state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
            save_file(state, folder / path / WEIGHTS_FILE, metadata={"format": "pt"})
        listed.append({"idx": number, "name": str(number), "path": path, "type": f"{MODULES}.{kind}"})
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    _write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})


def open_sentence_transformer(folder: Path) -> Embedder:
    """The tower that such a folder of ours is, made of its modules' own files: what the library computes with them."""
    modules = [folder / module["path"] for module in json.loads((folder / "modules.json").read_bytes())]
    bert, (*pooler, projection) = modules[0], [path for path in modules if path.name.endswith("_Dense")]
    norm = [path for path in modules if path.name.endswith("_LayerNorm")]
    weights = _renamed(projection, linear="dense") | (_renamed(norm[0], norm="norm") if norm else {})
    config = AutoConfig.from_pretrained(bert, local_files_only=True)
    width = len(weights["dense.bias"])
    tower = Embedder(config, projection_size=width, norm_eps=NORM_EPS if norm else None, dropout=0.0)
    weights |= {f"bert.{name}": value for name, value in load_file(bert / WEIGHTS_FILE).items()}
    weights |= _renamed(pooler[0], linear="bert.pooler.dense") if pooler else {}
    tower.load_state_dict(weights)
    return tower.eval()


def _renamed(module: Path, **names: str) -> dict[str, Tensor]:
    found = load_file(module / WEIGHTS_FILE)
    return {
        f"{ours}.{part}": found[f"{theirs}.{part}"] for theirs, ours in names.items() for part in ("weight", "bias")
    }


def _pooling(tower: Embedder) -> Module:
    settings = {"word_embedding_dimension": tower.dense.in_features, "pooling_mode_cls_token": True}
    return "Pooling", settings | {"pooling_mode_mean_tokens": False}, {}


def _pooler(tower: Embedder) -> list[Module]:
    """BERT's tanh layer over [CLS]; nothing for an encoder without one."""
    pooler = getattr(tower.bert, "pooler", None)
    if pooler is None:
        return []
    dense = getattr(pooler, "dense", None)
    if not isinstance(dense, nn.Linear) or not isinstance(getattr(pooler, "activation", None), nn.Tanh):
        raise ConfigError(
            f"the pooler of encoders of type {tower.bert.config.model_type!r} is not BERT's tanh layer, and "
            "sentence-transformers is given no other: export them with --layout realm"
        )
    return [_dense(dense.weight, dense.bias, activation="torch.nn.modules.activation.Tanh")]


def _projection(tower: Embedder) -> list[Module]:
    # Its LayerNorm has an epsilon of its own; scaling what goes in by the root of their ratio gives ours exactly:
    # c x / sqrt(var(c x) + NORM_EPS) = x / sqrt(var(x) + NORM_EPS / c^2).
    scale = 1.0 if tower.norm_eps is None else (NORM_EPS / tower.norm_eps) ** 0.5
    weight, bias = scale * tower.dense.weight, scale * tower.dense.bias
    modules = [_dense(weight, bias, activation="torch.nn.modules.linear.Identity")]
    if tower.norm_eps is not None:
        weights = {f"norm.{name}": value for name, value in tower.norm.state_dict().items()}
        modules.append(("LayerNorm", {"dimension": tower.dense.out_features}, weights))
    return modules


def _dense(weight: Tensor, bias: Tensor, *, activation: str) -> Module:
    outputs, inputs = weight.shape
    settings = {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": activation}
    return "Dense", settings, {"linear.weight": weight, "linear.bias": bias}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
