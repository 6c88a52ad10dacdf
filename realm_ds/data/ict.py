"""Inverse cloze examples: a sentence as the query, the passage it was taken from as its answer (ORQA section 3).

Which passages come together in a batch is the order of stream.PassageStream.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from realm_ds.data.chance import chosen, fraction, happens, pick
from realm_ds.data.masking import MAX_IDLE_EPOCHS
from realm_ds.data.records import Passage
from realm_ds.data.redeal import StreamState
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


@dataclass(frozen=True, kw_only=True)
class IctSettings:
    """How a passage becomes an example."""

    mask_rate: float
    """Share of examples whose sentence is removed from the passage."""
    keep_single_sentences: bool = False
    """A passage whose only sentence is removed stays, as its title alone."""
    query_dropout: float = 0.0
    """The query loses wordpieces at a rate drawn uniformly from 0 to this; never all of them."""


def ict_example(passage: Passage, *, settings: IctSettings, seed: int, epoch: int) -> IctExample | None:
    """One sentence against its passage, a pure function of (seed, epoch, uid).

    None if the sentence is to be removed and is all that the passage has, unless such passages are kept. As in Google's
    release they are left out only then: in the other 1 - mask_rate of the epochs they teach, as all do, to match words.
    """
    num_sentences = len(passage.sentences)
    is_masked = happens(settings.mask_rate, seed, epoch, "mask", passage.uid)
    if num_sentences == 0 or (is_masked and num_sentences == 1 and not settings.keep_single_sentences):
        return None
    start, end = passage.sentences[pick(num_sentences, seed, epoch, "sentence", passage.uid)]
    body_ids = passage.body_ids
    return IctExample(
        uid=passage.uid,
        article=passage.article,
        query_ids=_thinned(body_ids[start:end], settings.query_dropout, seed, epoch, passage.uid),
        title_ids=passage.title_ids,
        body_ids=body_ids[:start] + body_ids[end:] if is_masked else body_ids,
        is_masked=is_masked,
    )


def _thinned(ids: tuple[int, ...], longest_rate: float, *made_for: int) -> tuple[int, ...]:
    """The wordpieces that query dropout leaves; the whole query where it would leave nothing."""
    if not longest_rate:
        return ids
    rate = longest_rate * fraction("query dropout rate", *made_for)
    is_dropped = chosen(len(ids), rate, "query dropout", *made_for)
    kept = tuple(piece for piece, dropped in zip(ids, is_dropped.tolist(), strict=True) if not dropped)
    return kept or ids


def ict_batches(
    stream: Iterable[tuple[Passage, StreamState]], *, batch_size: int, settings: IctSettings, seed: int
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
        example = ict_example(passage, settings=settings, seed=seed, epoch=state.epoch)
        if example is not None:
            batch[passage.uid] = example
        if len(batch) == batch_size:
            yield list(batch.values()), state
            batch, first_epoch = {}, None
