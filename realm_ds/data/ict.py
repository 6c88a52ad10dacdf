"""Inverse cloze examples: a sentence as the query, the passage it was taken from as its answer (ORQA section 3).

Which passages come together in a batch is the order of stream.PassageStream.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from realm_ds.data.chance import happens, pick
from realm_ds.data.masking import MAX_IDLE_EPOCHS
from realm_ds.data.records import Passage
from realm_ds.data.stream import StreamState
from realm_ds.errors import DataError


@dataclass(frozen=True, kw_only=True)
class IctExample:
    """A query and the passage to find for it, as wordpieces without special tokens."""

    uid: int
    article: str
    query_ids: tuple[int, ...]
    title_ids: tuple[int, ...]
    """Always there, also where the sentence was removed."""
    body_ids: tuple[int, ...]
    is_masked: bool
    """The sentence was removed from the body."""


def ict_example(passage: Passage, *, mask_rate: float, seed: int, epoch: int) -> IctExample | None:
    """One sentence against its passage, a pure function of (seed, epoch, uid).

    None if the sentence is to be removed and is all that the passage has. As in Google's release such a passage is left
    out only then: in the other 1 - mask_rate of the epochs it teaches, as all do, to match words.
    """
    num_sentences = len(passage.sentences)
    is_masked = happens(mask_rate, seed, epoch, "mask", passage.uid)
    if num_sentences == 0 or (is_masked and num_sentences == 1):
        return None
    start, end = passage.sentences[pick(num_sentences, seed, epoch, "sentence", passage.uid)]
    body_ids = passage.body_ids
    return IctExample(
        uid=passage.uid,
        article=passage.article,
        query_ids=body_ids[start:end],
        title_ids=passage.title_ids,
        body_ids=body_ids[:start] + body_ids[end:] if is_masked else body_ids,
        is_masked=is_masked,
    )


def ict_batches(
    stream: Iterable[tuple[Passage, StreamState]], *, batch_size: int, mask_rate: float, seed: int
) -> Iterator[tuple[list[IctExample], StreamState]]:
    """Batches in the order of the stream, each with the state to go on from.

    A passage comes at most once in a batch, though a batch may span two epochs: in-batch softmax would count its
    other place as wrong.
    """
    batch: dict[int, IctExample] = {}
    first_epoch = None
    for passage, state in stream:
        first_epoch = state.epoch if first_epoch is None else first_epoch
        if state.epoch - first_epoch > MAX_IDLE_EPOCHS:
            raise DataError(
                f"a trainer's part of the corpus gives only {len(batch)} inverse-cloze examples, but "
                f"ict.micro_batch_size={batch_size}; lower it, or use passages of several sentences"
            )
        if passage.uid in batch:
            continue
        example = ict_example(passage, mask_rate=mask_rate, seed=seed, epoch=state.epoch)
        if example is not None:
            batch[passage.uid] = example
        if len(batch) == batch_size:
            yield list(batch.values()), state
            batch, first_epoch = {}, None
