"""What ranks tell of themselves when they join a world, and what must be the same on all of them. Roles are not."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from realm_ds.comm.roles import ROLE_VARIABLE
from realm_ds.comm.waiting import Clock, wait_until
from realm_ds.errors import ConfigError, LaunchError

CARD_BYTES = 1024
"""Of fixed size on the wire."""
CARD_TAG = 77
NAMED_RANKS = 8
LATER_S = 5.0
"""The others wait so much longer than rank 0, which knows who is missing."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One rank's."""

    host: str
    role: str = ""
    """REALM_ROLE in its environment."""
    settings: str = ""
    """What it was started with, as far as all must agree."""
    code: str = ""
    token: str = ""
    """Of rank 0: what it has left in the folder that all must see; "" if there is none."""


def exchange_cards(comm: Any, card: Card, *, timeout_s: float, clock: Clock | None = None) -> list[Card]:
    """Every rank's card, by rank. Collective; rank 0 knows at its deadline who is missing, and names them."""
    size, clock = comm.Get_size(), clock or Clock()
    cards = np.zeros((size, CARD_BYTES), np.uint8)
    cards[comm.Get_rank()] = _packed(card)
    sent = None
    if comm.Get_rank() == 0:
        _collect(comm, cards, timeout_s=timeout_s, clock=clock)
        waiting_for = f"all {size} ranks to hear of each other"
    else:
        # Held until it is there: Open MPI reads what it sends only once it has connected.
        sent = comm.Isend(cards[comm.Get_rank()].copy(), dest=0, tag=CARD_TAG)
        waiting_for = f"world rank 0 to hear of all {size} ranks and tell this one"
        timeout_s += LATER_S
    wait_until(comm.Ibcast(cards, root=0).Test, timeout_s=timeout_s, waiting_for=waiting_for, clock=clock,
               fault=LaunchError)  # fmt: skip
    if sent is not None:
        sent.Wait()
    return [_unpacked(raw) for raw in cards]


def check_settings(cards: Sequence[Card]) -> None:
    """Raise ConfigError unless all were started with the same."""
    for world_rank, card in enumerate(cards):
        if card.settings != cards[0].settings:
            raise ConfigError(
                f"world rank {world_rank} was started with {card.settings} but rank 0 with {cards[0].settings}: "
                "give every process the same config"
            )


def check_code(cards: Sequence[Card]) -> None:
    """Raise ConfigError unless all run the same realm_ds."""
    for world_rank, card in enumerate(cards):
        if card.code != cards[0].code:
            raise ConfigError(
                f"world rank {world_rank} on {card.host} runs {card.code}, but rank 0 on {cards[0].host} runs "
                f"{cards[0].code}: install the same realm_ds on every host, or start all ranks from a folder that all "
                "hosts share; PYTHONPATH and the virtual environment say which one a rank finds"
            )


def ranks_text(ranks: Sequence[int]) -> str:
    """The ranks for people, the first of many."""
    return ", ".join(map(str, ranks[:NAMED_RANKS])) + (", ..." if len(ranks) > NAMED_RANKS else "")


def _collect(comm: Any, cards: Any, *, timeout_s: float, clock: Clock) -> None:
    arriving = {rank: comm.Irecv(cards[rank], source=rank, tag=CARD_TAG) for rank in range(1, len(cards))}

    def have_all() -> bool:
        for rank in [rank for rank, request in arriving.items() if request.Test()]:
            del arriving[rank]
        return not arriving

    waiting_for = f"all {len(cards)} ranks to join the world"
    try:
        wait_until(have_all, timeout_s=timeout_s, waiting_for=waiting_for, clock=clock, fault=LaunchError)
    except LaunchError as error:
        raise LaunchError(
            f"{error}: nothing was heard of world rank(s) {ranks_text(list(arriving))}; they may hang on reading files "
            "or loading libraries (the launcher tells their hosts)"
        ) from None


def _packed(card: Card) -> Any:
    raw = json.dumps(asdict(card)).encode()
    if len(raw) > CARD_BYTES:
        raise ConfigError(
            f"host name, {ROLE_VARIABLE} and settings of this rank are longer than {CARD_BYTES} bytes: {raw[:80]!r}"
        )
    packed = np.zeros(CARD_BYTES, np.uint8)
    packed[: len(raw)] = np.frombuffer(raw, np.uint8)
    return packed


def _unpacked(packed: Any) -> Card:
    """Of another version too, for check_code to tell: what only that one knows is left out."""
    said = json.loads(packed.tobytes().rstrip(b"\0"))
    return Card(**{one.name: said[one.name] for one in fields(Card) if one.name in said})
