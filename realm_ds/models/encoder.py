"""The knowledge-augmented encoder: predicts x's masked wordpieces from x and a passage. The marginal is marginal.py's.

Shapes: N sequences, L tokens, M masks, V vocabulary, H hidden.
"""

from collections.abc import Callable
from inspect import signature
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig

from realm_ds.errors import ConfigError
from realm_ds.models.towers import TokenBatch, takes_types

Head = Callable[[Tensor], Tensor]
"""Hidden states to logits over the vocabulary."""


class KnowledgeAugEncoder(nn.Module):
    """BERT with its masked-language-model head over [CLS] x [SEP] z_body [SEP] (REALM section 3.2), or one like it."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.mlm = masked_language_model(config)
        self._takes_types = takes_types(self.mlm.base_model)

    def forward(self, tokens: TokenBatch, positions_NM: Tensor, targets_NM: Tensor) -> tuple[Tensor, Tensor]:
        """log p(target) at each masked position, float (N, M), and whether the target is the likeliest, bool (N, M).

        Only masked positions are projected to the vocabulary: all of them would cost L / M times as much for nothing.
        """
        logits_NMV = self.logits(tokens, positions_NM)
        # In rows: cross_entropy over a middle dimension takes four times as long on a CPU.
        log_p_NM = -functional.cross_entropy(logits_NMV.flatten(0, 1), targets_NM.flatten(), reduction="none")
        return log_p_NM.view(targets_NM.shape), logits_NMV.detach().argmax(dim=-1) == targets_NM

    def logits(self, tokens: TokenBatch, positions_NM: Tensor) -> Tensor:
        """Of every wordpiece at each of these positions, float32 (N, M, V)."""
        states_NLH = self.mlm.base_model(**tokens.inputs(types=self._takes_types)).last_hidden_state
        index_NMH = positions_NM.unsqueeze(-1).expand(-1, -1, states_NLH.shape[-1])
        logits_NMV: Tensor = head_of(self.mlm)(states_NLH.gather(1, index_NMH)).float()
        return logits_NMV

    def save(self, folder: Path) -> None:
        """Write a folder that AutoModelForMaskedLM opens."""
        self.mlm.save_pretrained(folder, safe_serialization=True)

    @classmethod
    def load(cls, folder: Path) -> "KnowledgeAugEncoder":
        """Open what `save` wrote."""
        encoder = cls(AutoConfig.from_pretrained(folder, local_files_only=True))
        encoder.load_from(folder)
        return encoder.float()  # what was exported in 16 bits comes back so

    def load_from(self, folder: Path) -> None:
        """Take the weights of a masked-language model, or of a bare encoder (whose head then starts fresh)."""
        loaded = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True)
        self.mlm.load_state_dict(loaded.state_dict())


def masked_language_model(config: PreTrainedConfig) -> nn.Module:
    """A fresh model of that kind. Raises ConfigError if its head cannot be used at masked positions alone."""
    kind = f"a model of type {config.model_type!r}"
    advice = "name one such as BERT, DistilBERT or ELECTRA in model.encoder"
    try:
        mlm: nn.Module = AutoModelForMaskedLM.from_config(config)
    except ValueError as error:
        raise ConfigError(f"{kind} has no masked-language-model head: {advice}") from error
    if not any(hasattr(mlm, part) for part in ("cls", "generator_lm_head", "vocab_projector")):
        raise ConfigError(f"{kind} has a masked-language-model head of a kind that is not known here: {advice}")
    return mlm


def head_of(mlm: nn.Module) -> Head:
    """The head as a function. Not held as a module: a weight would have two names in every state dict."""
    if hasattr(mlm, "generator_lm_head"):  # ELECTRA
        return lambda states: mlm.generator_lm_head(mlm.generator_predictions(states))
    if hasattr(mlm, "vocab_projector"):  # DistilBERT
        return lambda states: mlm.vocab_projector(mlm.vocab_layer_norm(mlm.activation(mlm.vocab_transform(states))))
    head: Head = mlm.cls
    return head


def load_bare_encoder(folder: Path, config: PreTrainedConfig) -> nn.Module:
    """The encoder that a KnowledgeAugEncoder's `base_model` was saved as: no head, and no pooler where it had none."""
    takes_pooling = "add_pooling_layer" in signature(MODEL_MAPPING[type(config)]).parameters
    options = {"add_pooling_layer": False} if takes_pooling else {}
    bare: nn.Module = AutoModel.from_pretrained(folder, config=config, local_files_only=True, **options)
    return bare.float()
