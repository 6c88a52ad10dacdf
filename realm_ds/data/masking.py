"""Masks part of a sentence, another one each epoch: a salient span, or, as in the paper's ablations, wordpieces or a
span at random. Every choice is a pure function of (seed, epoch, id). Finding salient spans is prepare/spans.py's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from realm_ds.config.base import MaskingKind
from realm_ds.data.chance import chosen, fraction, permutation, pick
from realm_ds.data.records import NO_ARTICLE, Example, SpecialIds, article_id
from realm_ds.data.redeal import StreamState
from realm_ds.errors import DataError

MAX_IDLE_EPOCHS = 2
"""Epochs in which nothing could be used before we say so, rather than read for ever."""


MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of BERT's chosen wordpieces: how many become [MASK], and how many another wordpiece; the rest stays (BERT, 3.1)."""
SPAN_STOPS, LONGEST_SPAN = 0.2, 10
"""SpanBERT's lengths (section 3.1): geometric, cut at ten and normalised again; 3.8 wordpieces on average."""


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which part of x is hidden."""

    kind: MaskingKind = "salient"
    rate: float = 0.15
    """bert: each wordpiece is chosen with this probability."""
    vocab_size: int = 0
    """bert: random wordpieces are among so many."""
    again_each_epoch: bool = True
    """False: the first epoch's choice in all epochs."""


SALIENT = Masking()


@dataclass(frozen=True, kw_only=True)
class MaskedExample:
    """x as the query tower and the encoder see it: [CLS] x [SEP], part of it replaced by [MASK]."""

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
    """The sentence of one span with it masked, a pure function of (seed, epoch, id); None if no span can be masked.

    Spans that the longest query would cut off are left out before the choice, not after it as in Google's release, so
    that an example is not lost in some epochs; likewise spans with [UNK], which nobody could predict. The first epoch's
    span is uniform over seeds and later epochs go round, so n epochs mask each of n spans once.
    """
    longest = query_tokens - 2
    choices = [
        (sentence, start, end)
        for sentence in example.sentences
        for start, end in example.spans
        if sentence[0] <= start and end <= min(sentence[1], sentence[0] + longest)
        and special.unk not in example.ids[start:end]
    ]  # fmt: skip
    if not choices:
        return None
    (first, last), start, end = choices[(pick(len(choices), seed, "span", example.id) + epoch) % len(choices)]
    places = range(start - first, end - first)
    hidden = dict.fromkeys(places, special.mask)
    x = replace(example, ids=example.ids[first:last])
    return _with_hidden(x, hidden, scored=places[:max_masks], special=special, longest=longest)


def mask_wordpieces(
    example: Example, *, special: SpecialIds, query_tokens: int, max_masks: int, seed: int, epoch: int, masking: Masking
) -> MaskedExample | None:
    """A sentence with wordpieces chosen as BERT does, at least one and at most `max_masks`; None if all is [UNK].

    Where the rate chooses more, those that count are drawn from them and the others stay as they are.
    """
    made_for = (seed, epoch, example.id)
    example = _any_sentence(example, *made_for)
    ids = example.ids[: query_tokens - 2]
    known = [place for place, piece in enumerate(ids) if piece not in _fixed(special)]
    if not known:
        return None
    is_chosen = chosen(len(ids), masking.rate, "bert masks", *made_for)
    places = [place for place in known if is_chosen[place]] or [known[pick(len(known), "only mask", *made_for)]]
    kept = permutation(len(places), "kept bert masks", *made_for)[:max_masks]
    places = [places[number] for number in sorted(kept.tolist())]
    hidden = {}
    for place in places:
        share = fraction("replacement", place, *made_for)
        if share < MASKED_SHARE:
            hidden[place] = special.mask
        elif share < MASKED_SHARE + RANDOM_SHARE:
            hidden[place] = _random_wordpiece(masking.vocab_size, special, "wordpiece", place, *made_for)
        else:
            hidden[place] = ids[place]
    return _with_hidden(example, hidden, scored=places, special=special, longest=query_tokens - 2)


def mask_random_span(
    example: Example, *, special: SpecialIds, query_tokens: int, max_masks: int, seed: int, epoch: int
) -> MaskedExample | None:
    """One of its sentences with a span masked, of SpanBERT's length and uniform start; None if all of it is [UNK].

    A span never holds [UNK]; where no place has room for the length that was drawn, it is the longest that has one.
    """
    longest = query_tokens - 2
    example = _any_sentence(example, seed, epoch, example.id)
    is_known = [piece not in _fixed(special) for piece in example.ids[:longest]]
    for length in range(_span_length(fraction("span length", seed, epoch, example.id)), 0, -1):
        starts = [start for start in range(len(is_known) - length + 1) if all(is_known[start : start + length])]
        if starts:
            start = starts[pick(len(starts), "span start", seed, epoch, example.id)]
            places = range(start, start + length)
            hidden = dict.fromkeys(places, special.mask)
            return _with_hidden(example, hidden, scored=places[:max_masks], special=special, longest=longest)
    return None


def _any_sentence(example: Example, *made_for: int | str) -> Example:
    """The example with one of its sentences as all of its wordpieces."""
    first, last = example.sentences[pick(len(example.sentences), "sentence", *made_for)]
    return replace(example, ids=example.ids[first:last])


def _span_length(share: float) -> int:
    """The length below which this share of all spans is."""
    total = 1.0 - (1.0 - SPAN_STOPS) ** LONGEST_SPAN
    lengths = range(1, LONGEST_SPAN)
    return next((n for n in lengths if share * total < 1.0 - (1.0 - SPAN_STOPS) ** n), LONGEST_SPAN)


def _fixed(special: SpecialIds) -> tuple[int, ...]:
    """What is neither masked, as nobody could predict it, nor put in place of a wordpiece."""
    return (special.pad, special.unk, special.cls, special.sep, special.mask)


def _random_wordpiece(vocab_size: int, special: SpecialIds, *made_for: int | str) -> int:
    """Uniform over the vocabulary without special tokens."""
    fixed = sorted(_fixed(special))
    assert vocab_size > len(fixed)
    piece = pick(vocab_size - len(fixed), *made_for)
    for token in fixed:
        piece += token <= piece
    return piece


def _with_hidden(
    example: Example, hidden: dict[int, int], *, scored: Sequence[int], special: SpecialIds, longest: int
) -> MaskedExample:
    """The example cut to its longest, with other wordpieces at the `hidden` places; `scored` ones are targets."""
    plain_ids = example.ids[:longest]
    ids = [hidden.get(place, piece) for place, piece in enumerate(plain_ids)]
    return MaskedExample(
        id=example.id,
        ids=(special.cls, *ids, special.sep),
        mask_positions=tuple(1 + place for place in scored),
        targets=tuple(plain_ids[place] for place in scored),
        origin_uid=example.origin_uid,
        plain_ids=plain_ids,
        origin_article=article_id(example.origin_article),
    )


def masked_examples(
    stream: Iterable[tuple[Example, StreamState]],
    *,
    special: SpecialIds,
    query_tokens: int,
    max_masks: int,
    seed: int,
    masking: Masking = SALIENT,
) -> Iterator[tuple[MaskedExample, StreamState]]:
    """The stream's examples, masked, without those that have nothing to mask; DataError if that is all of them."""
    functions: dict[MaskingKind, Callable[..., MaskedExample | None]] = {
        "salient": mask_span,
        "bert": partial(mask_wordpieces, masking=masking),
        "random_span": mask_random_span,
    }
    sizes = {"query_tokens": query_tokens, "max_masks": max_masks}
    last_epoch = None
    for example, state in stream:
        epoch = state.epoch if masking.again_each_epoch else 0
        masked = functions[masking.kind](example, special=special, seed=seed, epoch=epoch, **sizes)
        if masked is not None:
            last_epoch = state.epoch
            yield masked, state
            continue
        last_epoch = state.epoch if last_epoch is None else last_epoch
        if state.epoch - last_epoch >= MAX_IDLE_EPOCHS:
            raise DataError(_nothing_to_mask(masking.kind, query_tokens=query_tokens))


def _nothing_to_mask(kind: MaskingKind, *, query_tokens: int) -> str:
    if kind == "salient":
        return (
            f"no pre-training example has a salient span within data.query_tokens={query_tokens}; "
            "raise that, or write pretrain shards that have spans"
        )
    return (
        f"no pre-training example has a known wordpiece within data.query_tokens={query_tokens} "
        f"(pretrain.masking={kind}); write pretrain shards with data.tokenizer"
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
        fixed = {0, len(masked.ids) - 1, *masked.mask_positions}
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
