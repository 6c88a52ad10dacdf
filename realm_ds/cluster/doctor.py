"""Looks at a launch before a big run, under the same launcher: joins as a run does, looks, tries, judges.

What is looked at is in checks/. A launch that cannot work is a finding here, where a run would end with it.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from realm_ds.cluster.checks import look
from realm_ds.cluster.checks.facts import Facts
from realm_ds.cluster.checks.judge_hosts import judge_hosts
from realm_ds.cluster.checks.judge_launch import judge_launch, roles_text, tried
from realm_ds.cluster.checks.judge_network import judge_network
from realm_ds.cluster.checks.trial import KINDS, Listener, answer, conduct, first_ranks
from realm_ds.comm.cards import Card, check_code, check_settings, exchange_cards
from realm_ds.comm.roles import BUILDER, INDEX, TRAINER, Role, assign
from realm_ds.comm.world import (
    World,
    is_launched,
    launched_rank,
    own_card,
    settings_text,
    size_of,
    start_mpi,
    world_of,
)
from realm_ds.config.base import StageName
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError, LaunchError
from realm_ds.launch.stages import num_processes
from realm_ds.observe.checks import Check

CODE = "code"
TOKEN_FILE = ".realm-ds-doctor"
JOIN_TIMEOUT_S = 60.0
FACTS_TIMEOUT_S = 60.0
"""After the slowest look of rank 0, which has a deadline of its own."""
SEEN_TIMEOUT_S = 10.0


def examine(*, load_config: Callable[[], RealmConfig | None], stage: StageName, run: Path | None) -> list[Check] | None:
    """What was found, on the rank that tells it; None on all others. Collective over the launch.

    Returns once the others have left, unless they hang: then their world is ended by the exit code.
    """
    try:
        mpi = start_mpi()
    except ConfigError as error:  # singletons, or no threads: each process is told alone, and one speaks
        return [Check(name="one world", state="fail", found=str(error))] if launched_rank(os.environ) == 0 else None
    config, size = load_config(), size_of(mpi)
    place = None if run is None else nearest(run)
    try:
        cards, run_fault = _join(mpi, size, config=config, stage=stage, place=place)
    except LaunchError as error:
        return [Check(name="one world", state="fail", found=str(error))]
    agreed, roles = _judge_cards(cards, config=config, stage=stage)
    world = world_of(cards, roles or (TRAINER,) * size, mpi)
    if any(check.state == "fail" for check in agreed if check.name == CODE):
        # Ranks that speak differently cannot be asked any more.
        _part(world, None)
        return agreed if world.world_rank == 0 else None
    facts, trials_checks = _look_and_try(world, mpi, config=config, place=place, token=cards[0].token)
    if facts is None:
        return None
    checks = judge_launch(world, facts)
    checks[1:1] = agreed
    hosts = judge_hosts(
        world, facts, roles_are_known=config is not None and roles is not None, wants_run=place is not None,
        wants_data=config is not None, run_fault=run_fault,
    )  # fmt: skip
    return [*checks, *trials_checks, *hosts]


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _join(
    mpi: Any, size: int, *, config: RealmConfig | None, stage: StageName, place: Path | None
) -> tuple[list[Card], Check | None]:
    """Every rank's card, and what is wrong with the run's place if not even rank 0 can write there."""
    comm = mpi.COMM_WORLD if size > 1 else None
    settings = "no --config"
    if config is not None:
        wanted = _counts(config, stage)
        settings = settings_text(wanted[INDEX], wanted[BUILDER], config.index.placement)
    fault = None
    try:
        card = own_card(comm, mpi, settings=settings, token_file=place and place / TOKEN_FILE)
    except OSError as error:
        card = own_card(comm, mpi, settings=settings)
        found = f"{place} cannot be written: {error.strerror or error}"
        fault = Check(name="run folder", state="fail", found=found, fix="name another folder with --run")
    return exchange_cards(comm, card, timeout_s=JOIN_TIMEOUT_S) if comm else [card], fault


def _counts(config: RealmConfig, stage: StageName) -> dict[Role, int]:
    """Index and builder ranks of a stage."""
    is_pretrain = stage == "pretrain"
    return {INDEX: config.index.num_shards * is_pretrain, BUILDER: config.index.builders * is_pretrain}


def _judge_cards(
    cards: Sequence[Card], *, config: RealmConfig | None, stage: StageName
) -> tuple[list[Check], tuple[Role, ...] | None]:
    """What joining a run would find, and the roles if they add up."""
    checks = [
        tried(CODE, partial(check_code, cards), ok=f"{cards[0].code} on every rank"),
        tried("settings", partial(check_settings, cards), ok=f"{cards[0].settings} on every rank"),
    ]
    hosts, overrides = [card.host for card in cards], [card.role or None for card in cards]
    if config is not None and len(cards) == 1 and not is_launched(os.environ):
        wanted = _counts(config, stage)
        started = f"{num_processes(stage, config)} ranks: {wanted[INDEX]} index, {wanted[BUILDER]} builder"
        text = f"no launcher: a run here would start {started}, the others train"
        return [*checks, Check(name="roles", state="ok", found=text)], (TRAINER,)
    said = {role: overrides.count(role) for role in (INDEX, BUILDER)}
    wanted = said if config is None else _counts(config, stage)
    roles: list[tuple[Role, ...]] = []

    def deal() -> None:
        placement = config.index.placement if config is not None else "tail"
        roles.append(
            assign(
                hosts, num_shards=wanted[INDEX], num_builders=wanted[BUILDER], placement=placement, overrides=overrides
            )
        )

    dealt = tried("roles", deal, ok="")
    if roles and config is None and not any(overrides):
        dealt = Check(name="roles", state="skip", found="no --config")
    elif roles:
        text = roles_text(World(world_rank=0, hosts=tuple(hosts), roles=roles[0]))
        dealt = Check(name="roles", state="ok", found=text)
    return [*checks, dealt], roles[0] if roles else None


def _look_and_try(
    world: World, mpi: Any, *, config: RealmConfig | None, place: Path | None, token: str
) -> tuple[dict[int, Facts] | None, list[Check]]:
    """On rank 0 all facts and what came of the trials; None elsewhere."""
    mailbox = world.mailbox(KINDS, timeout_s=JOIN_TIMEOUT_S)
    is_first = world.world_rank in first_ranks(world.hosts)
    listener = Listener(world.world_rank) if is_first and len(set(world.hosts)) > 1 else None
    looks: dict[str, Callable[[], Any]] = {
        "software": partial(look.software, mpi),
        "network": partial(look.network, world=world, environ=os.environ, port=listener.port if listener else 0),
        "process": partial(look.process, environ=os.environ),
        "devices": partial(look.devices, world.device_number),
    }
    if is_first:
        looks["host"] = partial(look.host, environ=os.environ)
        if place is not None and token:
            looks["run"] = partial(look.run_folder, place / TOKEN_FILE, token, timeout_s=SEEN_TIMEOUT_S)
        if config is not None:
            looks["data"] = partial(look.data, config, timeout_s=look.LOOK_TIMEOUT_S)
    mine = look.look_around(world_rank=world.world_rank, looks=looks)
    if world.world_rank > 0:
        answer(mailbox, mine)
        _part(world, listener)
        return None, []
    facts, trials = conduct(world, mailbox, mine, timeout_s=FACTS_TIMEOUT_S)
    if place is not None and token:
        (place / TOKEN_FILE).unlink(missing_ok=True)
    if len(facts) == world.world_size:
        mailbox.flush(timeout_s=JOIN_TIMEOUT_S)
        _part(world, listener)
    return facts, judge_network(world, facts, trials)


def _part(world: World, listener: Listener | None) -> None:
    """All leave together: none is killed for the exit code of the one that tells."""
    if listener is not None:
        listener.close()
    world.barrier(timeout_s=JOIN_TIMEOUT_S, waiting_for="all ranks to finish")
    world.leave()
