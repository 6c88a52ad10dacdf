"""Open-domain question answering on top of a pre-trained retriever and encoder: the networks and the objective.

How answers are read from passages, and its loss, is readers.py's; which passages are found and what in them is right is
eval/'s and data/'s.

Shapes: B questions, N passages retrieved for each, K of them read, P embedding.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from realm_ds.models.names import PASSAGE_TOWER, QUERY_TOWER, READER
from realm_ds.models.objectives import Measures
from realm_ds.models.reader import retriever_loss
from realm_ds.models.readers import FoundPassages, Reader, SpanReader, WordReader, load_reader
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import DTYPES, Embedder, TokenBatch

Dtype = Literal["fp32", "bf16"]
"""What a reader's encoder computes in. In fp16 the states of some encoders overflow."""


class QaBatch(NamedTuple):
    """B questions, and which of the training questions they are."""

    questions: TokenBatch
    numbers: tuple[int, ...]


Find = Callable[[QaBatch, Tensor], FoundPassages]
"""Passages for questions and their vectors."""


class QaModel(nn.Module):
    """All that fine-tuning changes: query tower, reader, and the passage tower where passages are refreshed.

    Towers may be shared. Where passages are frozen, the shared tower goes on as query tower alone, and the index keeps
    what it made of them before. Where they are refreshed, it learns from both sides, and every new version of the index
    is of the same weights as the queries were embedded with at its launch.
    """

    def __init__(self, query_tower: Embedder, reader: Reader, passage_tower: Embedder | None = None) -> None:
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
        """This model with weights by name; what is shared need be there only once, under its first name."""
        own, every = dict(self.named_parameters()), dict(self.named_parameters(remove_duplicate=False))
        assert own.keys() <= weights.keys() <= every.keys(), "the weights of another model"
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
        return self

    def save(self, folder: Path) -> None:
        """Write query_tower/ and reader/, transformers folders with safetensors files of our own beside, and
        passage_tower/ if it was trained: nobody needs it to answer."""
        self.query_tower.save(folder / QUERY_TOWER)
        if self.passage_tower is not None:
            self.passage_tower.save(folder / PASSAGE_TOWER)
        self.reader.save(folder / READER)

    @classmethod
    def load(cls, folder: Path) -> "QaModel":
        """Open what `save` wrote. Raises CheckpointError if it is not such a folder."""
        reader = load_reader(folder / READER)
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


def build_word_model(realm: RealmModel, *, trains_passages: bool = False) -> QaModel:
    """Query tower and encoder of a pre-trained model with its vocabulary head: nothing in it starts anew."""
    return QaModel(realm.query_tower, WordReader(realm.encoder), realm.passage_tower if trains_passages else None)


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
        read = self.model.reader.learn(found, retrieved_BN.gather(1, found.read_BK))
        retrieve_B = retriever_loss(retrieved_BN, found.holds_answer_BN)
        loss = (read.loss_B + retrieve_B).mean()
        with torch.no_grad():
            means = {
                "loss": loss.detach(),
                "reader_loss": read.loss_B.mean(),
                "retriever_loss": retrieve_B.mean(),
                "holds_answer": found.holds_answer_BN.any(dim=1).float().mean(),
                **read.means,
            }
        return Measures(loss, {name: (mean, float(len(query_BP))) for name, mean in means.items()})

    def _embed(self, tower: Embedder, found: FoundPassages) -> Tensor:
        """Vectors (B, K, P) of the passages that are read."""
        return found.in_order([tower(part.passages) for part in found.parts])
