"""Masks one salient span of an example, another one each epoch. Finding the spans is spans.py's business."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from realm_ds.data.chance import chosen, fraction, permutation, pick
from realm_ds.data.records import NO_ARTICLE, Example, SpecialIds, article_id
from realm_ds.data.redeal import StreamState
from realm_ds.errors import DataError

MAX_IDLE_EPOCHS = 2
"""Epochs in which nothing could be used before we say so, rather than read for ever."""


@dataclass(frozen=True, kw_only=True)
class MaskedExample:
    """x as the query tower and the encoder see it: [CLS] x [SEP], one salient span replaced by [MASK]."""

    id: str
    ids: tuple[int, ...]
    """Special tokens included, never longer than the longest query."""
    mask_positions: tuple[int, ...]
    """Places in `ids` whose targets count in the loss; at most max_masks, though more may be masked."""
    targets: tuple[int, ...]
    """What stood there."""
    origin_uid: int
    plain_ids: tuple[int, ...] = ()
    """x before it was masked, without special tokens: what near-duplicates are known by."""
    origin_article: int = NO_ARTICLE
    """The id of the article that x was cut from (data/records.py)."""


def mask_span(
    example: Example, *, special: SpecialIds, query_tokens: int, max_masks: int, seed: int, epoch: int
) -> MaskedExample | None:
    """The example with one span masked, a pure function of (seed, epoch, id); None if no span can be masked.

    Spans that the longest query would cut off are left out before the choice, not after it as in Google's release, so
    that an example is not lost in some epochs; likewise spans with [UNK], which nobody could predict. The first epoch's
    span is uniform over seeds and later epochs go round, so n epochs mask each of n spans once.
    """
    longest = query_tokens - 2
    spans = [
        (start, end) for start, end in example.spans if end <= longest and special.unk not in example.ids[start:end]
    ]
    if not spans:
        return None
    start, end = spans[(pick(len(spans), seed, "span", example.id) + epoch) % len(spans)]
    ids = example.ids[:start] + (special.mask,) * (end - start) + example.ids[end:longest]
    scored_end = min(end, start + max_masks)
    return MaskedExample(
        id=example.id,
        ids=(special.cls, *ids, special.sep),
        mask_positions=tuple(range(1 + start, 1 + scored_end)),
        targets=example.ids[start:scored_end],
        origin_uid=example.origin_uid,
        plain_ids=example.ids[:longest],
        origin_article=article_id(example.origin_article),
    )


def masked_examples(
    stream: Iterable[tuple[Example, StreamState]],
    *,
    special: SpecialIds,
    query_tokens: int,
    max_masks: int,
    seed: int,
) -> Iterator[tuple[MaskedExample, StreamState]]:
    """The stream's examples, masked, without those that have nothing to mask; DataError if that is all of them."""
    sizes = {"query_tokens": query_tokens, "max_masks": max_masks}
    last_epoch = None
    for example, state in stream:
        masked = mask_span(example, special=special, seed=seed, epoch=state.epoch, **sizes)
        if masked is not None:
            last_epoch = state.epoch
            yield masked, state
            continue
        last_epoch = state.epoch if last_epoch is None else last_epoch
        if state.epoch - last_epoch >= MAX_IDLE_EPOCHS:
            raise DataError(
                f"no pre-training example has a salient span within data.query_tokens={query_tokens}; "
                "raise that, or write pretrain shards that have spans"
            )


def mask_more(
    stream: Iterable[tuple[MaskedExample, StreamState]],
    *,
    special: SpecialIds,
    longest_rate: float,
    max_masks: int,
    seed: int,
) -> Iterator[tuple[MaskedExample, StreamState]]:
    """The stream with further wordpieces masked as targets, up to `max_masks` in all.

    The rate of each example is drawn uniformly from 0 to `longest_rate`; [UNK], which nobody could predict, is left.
    """
    for masked, state in stream:
        if not longest_rate:
            yield masked, state
            continue
        made_for = (seed, state.epoch, masked.id)
        rate = longest_rate * fraction("mask rate", *made_for)
        is_chosen = chosen(len(masked.ids), rate, "masks", *made_for)
        fixed = {0, len(masked.ids) - 1}
        positions = [
            place
            for place, piece in enumerate(masked.ids)
            if is_chosen[place] and place not in fixed and piece not in (special.mask, special.unk)
        ]
        order = permutation(len(positions), "kept masks", *made_for)[: max_masks - len(masked.targets)]
        positions = [positions[place] for place in sorted(order.tolist())]
        ids = list(masked.ids)
        for place in positions:
            ids[place] = special.mask
        yield (
            replace(
                masked,
                ids=tuple(ids),
                mask_positions=(*masked.mask_positions, *positions),
                targets=(*masked.targets, *(masked.ids[place] for place in positions)),
            ),
            state,
        )
