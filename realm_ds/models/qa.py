"""Open-domain question answering on top of a pre-trained retriever and encoder: the networks and the objective.

The span head and its losses are reader.py's; which passages are found and what in them is right is eval/'s and data/'s.

Shapes: B questions, N passages retrieved for each, K of them read, L tokens, W span widths, P embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

from realm_ds.errors import CheckpointError
from realm_ds.models.encoder import load_bare_encoder
from realm_ds.models.names import PASSAGE_TOWER, QUERY_TOWER, READER
from realm_ds.models.objectives import Measures
from realm_ds.models.reader import IMPOSSIBLE, SpanScorer, reader_logits, reader_loss, retriever_loss
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import DTYPES, Embedder, TokenBatch, takes_types

SCORER_FILE = "span_scorer.safetensors"
Dtype = Literal["fp32", "bf16"]
"""What a reader's encoder computes in. In fp16 the states of some encoders overflow."""


class QaBatch(NamedTuple):
    """B questions, and which of the training questions they are."""

    questions: TokenBatch
    numbers: tuple[int, ...]


class ReadPart(NamedTuple):
    """Some of the B x K sequences [CLS] question [SEP] body [SEP], of like length."""

    joint: TokenBatch
    rows_R: Tensor
    """The place of each among the B x K, K after K."""
    passages: TokenBatch | None = None
    """The same passages as their tower reads them; None where it is not trained."""


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
    is_gold_BKLW: Tensor
    """bool: spans that are an answer."""

    def in_order(self, of_parts: Sequence[Tensor]) -> Tensor:
        """What was made of the sequences of each part, [B, K, ...]."""
        order_R = torch.argsort(torch.cat([part.rows_R for part in self.parts]))
        return torch.cat(list(of_parts))[order_R].unflatten(0, self.read_BK.shape)


Find = Callable[[QaBatch, Tensor], FoundPassages]
"""Passages for questions and their vectors."""


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


def body_tokens(joint: TokenBatch) -> Tensor:
    """Bool [R, L]: the passage's tokens, which are those of type 1 save the last, which is [SEP]."""
    is_second_RL = joint.types_NL == 1
    next_is_second_RL = nn.functional.pad(is_second_RL[:, 1:], (0, 1))
    return is_second_RL & next_is_second_RL


class QaModel(nn.Module):
    """All that fine-tuning changes: query tower, reader, and the passage tower where passages are refreshed.

    Towers may be shared. Where passages are frozen, the shared tower goes on as query tower alone, and the index keeps
    what it made of them before. Where they are refreshed, it learns from both sides, and every new version of the index
    is of the same weights as the queries were embedded with at its launch.
    """

    def __init__(self, query_tower: Embedder, reader: SpanReader, passage_tower: Embedder | None = None) -> None:
        super().__init__()
        self.query_tower = query_tower
        self.passage_tower = passage_tower
        self.reader = reader

    def answering(self, device: torch.device | str, *, dtype: Dtype = "fp32") -> "QaModel":
        """This model as it answers there: without dropout, the reader's encoder in `dtype`. All else stays float32:
        what is found does not change, and spans are scored and compared in full."""
        self.reader.encoder.to(DTYPES[dtype])
        return self.eval().to(device)

    def with_weights(self, weights: Mapping[str, Tensor]) -> "QaModel":
        """This model with weights by name; what is shared is there once, under its first name."""
        own = dict(self.named_parameters())
        assert own.keys() == weights.keys(), "the weights of another model"
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
        return self

    def save(self, folder: Path) -> None:
        """Write query_tower/ and reader/, transformers folders each with a safetensors file of our own beside, and
        passage_tower/ if it was trained: nobody needs it to answer."""
        self.query_tower.save(folder / QUERY_TOWER)
        if self.passage_tower is not None:
            self.passage_tower.save(folder / PASSAGE_TOWER)
        self.reader.encoder.save_pretrained(folder / READER, safe_serialization=True)
        scorer = {name: value.detach().contiguous() for name, value in self.reader.scorer.state_dict().items()}
        metadata = {"format": "pt", "max_span_tokens": str(self.reader.scorer.max_span_tokens)}
        save_file(scorer, folder / READER / SCORER_FILE, metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> "QaModel":
        """Open what `save` wrote. Raises CheckpointError if it is not such a folder."""
        path = folder / READER / SCORER_FILE
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: {folder} was not written by question answering; run realm-ds qa")
        weights = load_file(path)
        with safe_open(path, framework="pt") as file:
            max_span_tokens = int(file.metadata()["max_span_tokens"])
        config = AutoConfig.from_pretrained(folder / READER, local_files_only=True)
        reader = SpanReader(
            load_bare_encoder(folder / READER, config),
            hidden_size=config.hidden_size,
            span_hidden_size=len(weights["norm.weight"]),
            max_span_tokens=max_span_tokens,
        )
        reader.scorer.load_state_dict(weights)
        return cls(Embedder.load(folder / QUERY_TOWER), reader)


def build_qa_model(
    realm: RealmModel, *, span_hidden_size: int, max_span_tokens: int, seed: int, trains_passages: bool = False
) -> QaModel:
    """Query tower and encoder of a pre-trained model, which they go on sharing, and a span scorer drawn from `seed`."""
    torch.manual_seed(seed)
    encoder = realm.encoder.mlm.base_model
    reader = SpanReader(
        encoder,
        hidden_size=encoder.config.hidden_size,
        span_hidden_size=span_hidden_size,
        max_span_tokens=max_span_tokens,
    )
    return QaModel(realm.query_tower, reader, realm.passage_tower if trains_passages else None)


class QaObjective(nn.Module):
    """Reader loss plus early retriever update (spec: ORQA 6.3), a mean over questions.

    The questions' vectors are made once: `find` searches with them, and the loss goes through them to the query tower.
    Where there is a passage tower, those passages that are read are embedded anew, so that it goes through them too;
    all others stand in the loss as the index has them, some steps old.
    """

    def __init__(self, model: QaModel, *, find: Find) -> None:
        super().__init__()
        self.model = model
        self.find = find

    def forward(self, batch: QaBatch) -> Measures:
        query_BP = self.model.query_tower(batch.questions)
        found = self.find(batch, query_BP.detach())
        retrieved_BN = torch.einsum("bp,bnp->bn", query_BP.float(), found.vectors_BNP)
        if self.model.passage_tower is not None:
            anew_BK = torch.einsum("bp,bkp->bk", query_BP.float(), self._embed(self.model.passage_tower, found))
            retrieved_BN = retrieved_BN.scatter(1, found.read_BK, anew_BK)
        spans_BKLW, possible_BKLW = self._read(found)
        is_gold_BKLW = found.is_gold_BKLW & possible_BKLW
        logits_BKLW = reader_logits(spans_BKLW, possible_BKLW, retrieved_BN.gather(1, found.read_BK))
        read_B = reader_loss(logits_BKLW, is_gold_BKLW)
        retrieve_B = retriever_loss(retrieved_BN, found.holds_answer_BN)
        loss = (read_B + retrieve_B).mean()
        return Measures(loss, _values(loss, read_B, retrieve_B, logits_BKLW, is_gold_BKLW, found))

    def _embed(self, tower: Embedder, found: FoundPassages) -> Tensor:
        """Vectors (B, K, P) of the passages that are read."""
        return found.in_order([tower(part.passages) for part in found.parts])

    def _read(self, found: FoundPassages) -> tuple[Tensor, Tensor]:
        """(logits, possible), both (B, K, L, W), of all buckets."""
        num_tokens = found.is_gold_BKLW.shape[2]
        logits, possible = [], []
        for part in found.parts:
            logits_RLW, possible_RLW = self.model.reader(part.joint)
            missing = (0, 0, 0, num_tokens - logits_RLW.shape[1])
            logits.append(nn.functional.pad(logits_RLW, missing, value=IMPOSSIBLE))
            possible.append(nn.functional.pad(possible_RLW, missing, value=False))
        return found.in_order(logits), found.in_order(possible)


@torch.no_grad()
def _values(
    loss: Tensor, read_B: Tensor, retrieve_B: Tensor, logits_BKLW: Tensor, is_gold_BKLW: Tensor, found: FoundPassages
) -> dict[str, tuple[Tensor, float]]:
    num_questions = float(len(read_B))
    best_B1 = logits_BKLW.flatten(1).argmax(dim=1, keepdim=True)
    is_gold_BX = is_gold_BKLW.flatten(1)
    means = {
        "loss": loss.detach(),
        "reader_loss": read_B.mean(),
        "retriever_loss": retrieve_B.mean(),
        "holds_answer": found.holds_answer_BN.any(dim=1).float().mean(),
        "reads_answer": is_gold_BX.any(dim=1).float().mean(),
        "span_accuracy": is_gold_BX.gather(1, best_B1).float().mean(),
    }
    return {name: (mean, num_questions) for name, mean in means.items()}
