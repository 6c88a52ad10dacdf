"""The knowledge-augmented encoder: predicts x's masked wordpieces from x and a passage. The marginal is marginal.py's.

Shapes: N sequences, L tokens, M masks, V vocabulary, H hidden.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForMaskedLM, PreTrainedConfig

from realm_ds.errors import ConfigError
from realm_ds.models.towers import TokenBatch


class KnowledgeAugEncoder(nn.Module):
    """BERT with its masked-language-model head over [CLS] x [SEP] z_body [SEP] (REALM section 3.2)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.mlm = AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa")
        if not hasattr(self.mlm, "cls"):
            raise ConfigError(f"model type {config.model_type!r} has no BERT-like masked-language-model head")

    def forward(self, tokens: TokenBatch, positions_NM: Tensor, targets_NM: Tensor) -> tuple[Tensor, Tensor]:
        """log p(target) at each masked position, float (N, M), and whether the target is the likeliest, bool (N, M).

        Only masked positions are projected to the vocabulary: all of them would cost L / M times as much for nothing.
        """
        states_NLH = self.mlm.base_model(
            input_ids=tokens.ids_NL, attention_mask=tokens.mask_NL, token_type_ids=tokens.types_NL
        ).last_hidden_state
        index_NMH = positions_NM.unsqueeze(-1).expand(-1, -1, states_NLH.shape[-1])
        logits_NMV = self.mlm.cls(states_NLH.gather(1, index_NMH)).float()
        # In rows: cross_entropy over a middle dimension takes four times as long on a CPU.
        log_p_NM = -functional.cross_entropy(logits_NMV.flatten(0, 1), targets_NM.flatten(), reduction="none")
        return log_p_NM.view(targets_NM.shape), logits_NMV.detach().argmax(dim=-1) == targets_NM

    def save(self, folder: Path) -> None:
        """Write a folder that AutoModelForMaskedLM opens."""
        self.mlm.save_pretrained(folder, safe_serialization=True)

    def load_from(self, folder: Path) -> None:
        """Take the weights of a masked-language model, or of a bare encoder (whose head then starts fresh)."""
        loaded = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa")
        self.mlm.load_state_dict(loaded.state_dict())
