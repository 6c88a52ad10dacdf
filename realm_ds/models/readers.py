"""The two ways to answer from passages that were found: a span of one of them, or a word in place of a [MASK].

Each reader goes over joint sequences of a question and a passage, and has a loss. The span scorer and the losses of
spans are reader.py's, the marginal over passages is marginal.py's.

Shapes: B questions, N passages retrieved for each, K of them read, R of the B x K sequences, L tokens, W span widths,
V vocabulary, A answers, P embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

from realm_ds.errors import CheckpointError
from realm_ds.models.encoder import KnowledgeAugEncoder, load_bare_encoder
from realm_ds.models.marginal import marginal_likelihood
from realm_ds.models.reader import IMPOSSIBLE, SpanScorer, reader_logits, reader_loss
from realm_ds.models.towers import TokenBatch, takes_types

SCORER_FILE = "span_scorer.safetensors"


class ReadPart(NamedTuple):
    """Some of the B x K sequences [CLS] question [SEP] body [SEP], of like length."""

    joint: TokenBatch
    rows_R: Tensor
    """The place of each among the B x K, K after K."""
    passages: TokenBatch | None = None
    """The same passages as their tower reads them; None where it is not trained."""


class RightSpans(NamedTuple):
    """What a reader of spans is to find."""

    is_gold_BKLW: Tensor
    """bool: spans that are an answer."""


class RightWords(NamedTuple):
    """What a reader of words is to find; some answer of every question is there."""

    mask_places_B: Tensor
    """Of the [MASK] in each joint sequence, where the question comes first."""
    answers_BA: Tensor
    """Wordpieces."""
    is_answer_BA: Tensor
    """bool: False in padding."""


class FoundPassages(NamedTuple):
    """What was retrieved for B questions, best first, and what in it is right."""

    vectors_BNP: Tensor
    """As the index has them."""
    holds_answer_BN: Tensor
    """bool."""
    read_BK: Tensor
    """Which of the N are read."""
    parts: tuple[ReadPart, ...]
    """The B x K sequences in buckets of like length, as many on every trainer (ZeRO-3 gathers weights in step)."""
    right: RightSpans | RightWords

    def in_order(self, of_parts: Sequence[Tensor]) -> Tensor:
        """What was made of the sequences of each part, [B, K, ...]."""
        order_R = torch.argsort(torch.cat([part.rows_R for part in self.parts]))
        return torch.cat(list(of_parts))[order_R].unflatten(0, self.read_BK.shape)


class ReadLoss(NamedTuple):
    """The loss of each question, and what is measured beside it, detached means over questions."""

    loss_B: Tensor
    means: dict[str, Tensor]


class SpanReader(nn.Module):
    """The knowledge-augmented encoder without its vocabulary head, with a span scorer on top (spec: ORQA 6.2)."""

    def __init__(self, encoder: nn.Module, *, hidden_size: int, span_hidden_size: int, max_span_tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self._takes_types = takes_types(encoder)
        self.scorer = SpanScorer(hidden_size, span_hidden_size, max_span_tokens)

    def forward(self, joint: TokenBatch) -> tuple[Tensor, Tensor]:
        """(logits [R, L, W], possible [R, L, W]) of the spans of each sequence's passage."""
        states_RLE = self.encoder(**joint.inputs(types=self._takes_types)).last_hidden_state
        states_RLE = states_RLE.to(self.scorer.ends.weight.dtype)  # of an encoder in 16 bits too
        logits_RLW, possible_RLW = self.scorer(states_RLE, body_tokens(joint))
        return logits_RLW.float(), possible_RLW

    def learn(self, found: FoundPassages, retrieved_BK: Tensor) -> ReadLoss:
        """-log of the probability of all right spans among all spans; `retrieved_BK` are logits of the passages."""
        assert isinstance(found.right, RightSpans)
        num_tokens = found.right.is_gold_BKLW.shape[2]
        logits, possible = [], []
        for part in found.parts:
            logits_RLW, possible_RLW = self(part.joint)
            missing = (0, 0, 0, num_tokens - logits_RLW.shape[1])
            logits.append(nn.functional.pad(logits_RLW, missing, value=IMPOSSIBLE))
            possible.append(nn.functional.pad(possible_RLW, missing, value=False))
        possible_BKLW = found.in_order(possible)
        logits_BKLW = reader_logits(found.in_order(logits), possible_BKLW, retrieved_BK)
        is_gold_BKLW = found.right.is_gold_BKLW & possible_BKLW
        with torch.no_grad():
            best_B1 = logits_BKLW.flatten(1).argmax(dim=1, keepdim=True)
            is_gold_BX = is_gold_BKLW.flatten(1)
            means = {
                "reads_answer": is_gold_BX.any(dim=1).float().mean(),
                "span_accuracy": is_gold_BX.gather(1, best_B1).float().mean(),
            }
        return ReadLoss(reader_loss(logits_BKLW, is_gold_BKLW), means)

    def save(self, folder: Path) -> None:
        """Write a folder that AutoModel opens, with the scorer beside it."""
        self.encoder.save_pretrained(folder, safe_serialization=True)
        scorer = {name: value.detach().contiguous() for name, value in self.scorer.state_dict().items()}
        metadata = {"format": "pt", "max_span_tokens": str(self.scorer.max_span_tokens)}
        save_file(scorer, folder / SCORER_FILE, metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> "SpanReader":
        """Open what `save` wrote."""
        weights = load_file(folder / SCORER_FILE)
        with safe_open(folder / SCORER_FILE, framework="pt") as file:
            max_span_tokens = int(file.metadata()["max_span_tokens"])
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        reader = cls(
            load_bare_encoder(folder, config),
            hidden_size=config.hidden_size,
            span_hidden_size=len(weights["norm.weight"]),
            max_span_tokens=max_span_tokens,
        )
        reader.scorer.load_state_dict(weights)
        return reader


class WordReader(nn.Module):
    """The knowledge-augmented encoder as it was pre-trained: it names the word at a [MASK], p(y|z, q) (REALM 3.2)."""

    def __init__(self, encoder: KnowledgeAugEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, joint: TokenBatch, places_R1: Tensor) -> Tensor:
        """log p of every wordpiece at one place of each sequence, float32 [R, V]."""
        log_p_RV: Tensor = self.encoder.logits(joint, places_R1)[:, 0].float().log_softmax(dim=-1)
        return log_p_RV

    def learn(self, found: FoundPassages, retrieved_BK: Tensor) -> ReadLoss:
        """-log of the sum over passages z of p(z|q) p(y|z, q), summed over all answers y. p(z|q) is the softmax of
        `retrieved_BK` over the passages that are read."""
        assert isinstance(found.right, RightWords)
        places_B, answers_BA, is_answer_BA = found.right
        num_read = retrieved_BK.shape[1]
        log_p_BKV = found.in_order(
            [self(part.joint, places_B[part.rows_R // num_read].unsqueeze(1)) for part in found.parts]
        )
        log_p_BKA = log_p_BKV.gather(2, answers_BA.unsqueeze(1).expand(-1, num_read, -1))
        log_p_BK1 = log_p_BKA.masked_fill(~is_answer_BA.unsqueeze(1), -torch.inf).logsumexp(dim=2, keepdim=True)
        one_word_B1 = torch.ones_like(retrieved_BK[:, :1])
        marginal = marginal_likelihood(retrieved_BK, log_p_BK1, one_word_B1, "joint", has_null=False)
        with torch.no_grad():
            p_BV = torch.einsum("bk,bkv->bv", marginal.p_z_BC, log_p_BKV.exp())
            is_right_BA = (answers_BA == p_BV.argmax(dim=1, keepdim=True)) & is_answer_BA
            means = {
                "reads_answer": found.holds_answer_BN.gather(1, found.read_BK).any(dim=1).float().mean(),
                "word_accuracy": is_right_BA.any(dim=1).float().mean(),
            }
        return ReadLoss(-marginal.log_likelihood_B, means)

    def save(self, folder: Path) -> None:
        """Write a folder that AutoModelForMaskedLM opens."""
        self.encoder.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "WordReader":
        """Open what `save` wrote."""
        return cls(KnowledgeAugEncoder.load(folder))


Reader = SpanReader | WordReader


def load_reader(folder: Path) -> Reader:
    """Open what either kind was saved as. Raises CheckpointError where the folder is neither."""
    if (folder / SCORER_FILE).is_file():
        return SpanReader.load(folder)
    if (folder / "config.json").is_file():
        (made_as,) = AutoConfig.from_pretrained(folder, local_files_only=True).architectures or ("",)
        if made_as.endswith("ForMaskedLM"):
            return WordReader.load(folder)
    raise CheckpointError(
        f"{folder} has neither {SCORER_FILE} nor a masked-language model: it was not written by question answering; "
        "run realm-ds qa"
    )


def body_tokens(joint: TokenBatch) -> Tensor:
    """Bool [R, L]: the passage's tokens, which are those of type 1 save the last, which is [SEP]."""
    is_second_RL = joint.types_NL == 1
    next_is_second_RL = nn.functional.pad(is_second_RL[:, 1:], (0, 1))
    return is_second_RL & next_is_second_RL
