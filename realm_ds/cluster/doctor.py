"""Looks at a launch before a big run, under the same launcher: joins as a run does, looks, tries, judges.

What is looked at is in checks/. A launch that cannot work is a finding here, where a run would end with it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from realm_ds.cluster.checks import look
from realm_ds.cluster.checks.facts import Facts
from realm_ds.cluster.checks.judge_hosts import judge_hosts
from realm_ds.cluster.checks.judge_launch import judge_launch, roles_text, tried
from realm_ds.cluster.checks.judge_network import judge_network
from realm_ds.cluster.checks.trial import FACTS_TIMEOUT_S, KINDS, Listener, answer, conduct, first_ranks, trainer_firsts
from realm_ds.comm.cards import Card, check_code, check_settings, exchange_cards
from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.roles import BUILDER, INDEX, TRAINER, Role, assign
from realm_ds.comm.shared_folder import leave_token, new_token
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
from realm_ds.errors import ConfigError, LaunchError, RealmError
from realm_ds.launch.stages import num_processes
from realm_ds.observe.checks import Check

CODE = "code"
JOIN_TIMEOUT_S = 60.0
SEEN_TIMEOUT_S = 10.0
PART_TIMEOUT_S = 20.0
"""Of rank 0, twice at most; the others wait longer, and do not end the world before it has told what it found."""


def examine(*, load_config: Callable[[], RealmConfig | None], stage: StageName, run: Path | None) -> list[Check] | None:
    """What was found, on the rank that tells it; None on all others. Collective over the launch.

    Returns once the others have left, unless they hang: then their world is ended by the exit code. Raises LaunchError
    on a rank that rank 0 does not hear of.
    """
    try:
        mpi = start_mpi()
    except ConfigError as error:  # singletons, or no threads: each process is told alone, and one speaks
        return [Check(name="one world", state="fail", found=str(error))] if launched_rank(os.environ) == 0 else None
    config, comm = load_config(), mpi.COMM_WORLD if size_of(mpi) > 1 else None
    leads = comm is None or comm.Get_rank() == 0
    place = None if run is None else nearest(run)
    with _token_left(place if leads else None) as (token, run_fault):
        settings = "no --config" if config is None else _settings(config, stage)
        card = own_card(mpi, settings=settings, token=token)
        try:
            cards = exchange_cards(comm, card, timeout_s=JOIN_TIMEOUT_S) if comm else [card]
        except LaunchError as error:
            if not leads:
                raise
            return [Check(name="one world", state="fail", found=str(error))]
        return _judge(mpi, cards, config=config, stage=stage, place=place, run_fault=run_fault)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


@contextmanager
def _token_left(place: Path | None) -> Iterator[tuple[str, Check | None]]:
    """What rank 0 leaves there for the others to see, until all is done, and what is wrong if not even it can."""
    token, fault = "", None
    if place is not None:
        token = new_token()
        try:
            leave_token(_token_file(place, token), token=token)
        except OSError as error:
            token, found = "", f"{place} cannot be written: {error.strerror or error}"
            fault = Check(name="run folder", state="fail", found=found, fix="name another folder with --run")
    try:
        yield token, fault
    finally:
        if place is not None and token:
            with suppress(OSError):
                _token_file(place, token).unlink(missing_ok=True)


def _token_file(place: Path, token: str) -> Path:
    """Another for each doctor: two may look at one folder."""
    return place / f".realm-ds-doctor-{token}"


def _settings(config: RealmConfig, stage: StageName) -> str:
    wanted = _counts(config, stage)
    return settings_text(wanted[INDEX], wanted[BUILDER], config.index.placement)


def _judge(
    mpi: Any,
    cards: Sequence[Card],
    *,
    config: RealmConfig | None,
    stage: StageName,
    place: Path | None,
    run_fault: Check | None,
) -> list[Check] | None:
    """What `examine` returns of a launch whose ranks have heard of each other."""
    agreed, roles = _judge_cards(cards, config=config, stage=stage)
    world = world_of(cards, roles or (TRAINER,) * len(cards), mpi)
    if any(check.state == "fail" for check in agreed if check.name == CODE):
        # Ranks that speak differently cannot be asked any more.
        left = _part(world)
        return [*agreed, *left] if world.world_rank == 0 else None
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


def _counts(config: RealmConfig, stage: StageName) -> dict[Role, int]:
    """Index and builder ranks of a stage."""
    has_index = config.has_index_ranks(stage)
    return {INDEX: config.index.num_shards * has_index, BUILDER: config.index.builders * has_index}


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
        least = sum(wanted.values()) + 1
        if "SLURM_STEP_ID" in os.environ and least > 1:
            text = f"srun has started one task, and the run needs {least} ranks or more"
            fix = "unless this is a shell in a job: give srun -N and --ntasks-per-node as the run will have them"
            return [*checks, Check(name="roles", state="warn", found=text, fix=fix)], (TRAINER,)
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
    listeners = trainer_firsts(world)
    listener = Listener(world.world_rank) if world.world_rank in listeners and len(listeners) > 1 else None
    looks: dict[str, Callable[[], Any]] = {
        "software": partial(look.software, mpi),
        "network": partial(look.network, world=world, environ=os.environ, port=listener.port if listener else 0),
        "process": partial(look.process, environ=os.environ),
        "devices": partial(look.devices, world.device_number),
    }
    if is_first:
        looks["host"] = partial(look.host, environ=os.environ)
        if place is not None and token:
            looks["run"] = partial(look.run_folder, _token_file(place, token), token, timeout_s=SEEN_TIMEOUT_S)
        if config is not None:
            looks["data"] = partial(look.data, config, timeout_s=look.LOOK_TIMEOUT_S)
    mine = look.look_around(world_rank=world.world_rank, looks=looks)
    if world.world_rank > 0:
        answer(mailbox, mine)
        _part(world, listener=listener)
        return None, []
    facts, trials = conduct(world, mailbox, mine, timeout_s=FACTS_TIMEOUT_S)
    checks = judge_network(world, facts, trials)
    if len(facts) == world.world_size:
        checks += _part(world, mailbox=mailbox, listener=listener)
    return facts, checks


def _part(world: World, *, mailbox: Mailbox | None = None, listener: Listener | None = None) -> list[Check]:
    """All leave together: none is killed for the exit code of the one that tells. On rank 0, what kept them."""
    if listener is not None:
        listener.close()
    tells = world.world_rank == 0
    try:
        if mailbox is not None:
            mailbox.flush(timeout_s=PART_TIMEOUT_S)
        timeout_s = PART_TIMEOUT_S if tells else PART_TIMEOUT_S + JOIN_TIMEOUT_S
        world.barrier(timeout_s=timeout_s, waiting_for="all ranks to finish")
    except RealmError as error:
        if not tells:
            raise
        fix = "look at the hosts that messages or network name"
        return [Check(name="leaving", state="fail", found=str(error), fix=fix)]
    world.leave()
    return []
