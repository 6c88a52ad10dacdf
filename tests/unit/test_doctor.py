"""The doctor's judgement on made-up facts, what a process sees of its host, and who tells it all."""

import io
import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from realm_ds.cluster.checks import judge_hosts, judge_launch, judge_network, look
from realm_ds.cluster.checks.facts import Devices
from realm_ds.cluster.checks.trial import Dial, Link, Trials, Tried, choose_dials
from realm_ds.cluster.doctor import _judge_cards, examine, nearest
from realm_ds.comm.cards import Card
from realm_ds.comm.code import code_name
from realm_ds.comm.network import check_interfaces, gloo_address
from realm_ds.comm.shared_folder import leave_token, sees_token
from realm_ds.comm.waiting import Clock
from realm_ds.comm.world import World, launched_rank
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError, LaunchError
from realm_ds.models.devices import Gpus
from realm_ds.observe.checks import Check, print_checks
from tests.support.facts import GIB, GPU, WORLD, facts_of
from tests.support.tiny import make_data, tiny_config


def judged(
    trials: Trials | None = None, *, ranks: Sequence[int] = (2,), **changes: dict[str, Any] | None
) -> dict[str, Check]:
    """Every check of WORLD, with parts of these ranks' facts changed; None takes a part away."""
    facts = {rank: facts_of(rank) for rank in range(4)}
    for rank, (part, change) in product(ranks, changes.items()):
        there = getattr(facts[rank], part)
        facts[rank] = replace(facts[rank], **{part: change if change is None else replace(there, **change)})
    checks = [
        *judge_launch.judge_launch(WORLD, facts),
        *judge_network.judge_network(WORLD, facts, trials or Trials()),
        *judge_hosts.judge_hosts(WORLD, facts, roles_are_known=True, wants_run=True, wants_data=True),
    ]
    return {check.name: check for check in checks}


def test_all_is_well() -> None:
    checks = judged()
    # Nothing was tried.
    assert {name for name, check in checks.items() if check.state != "ok"} == {"messages", "network", "clocks"}
    assert checks["one world"].found == "4 ranks on 2 hosts (a: 2, b: 2)"
    assert checks["GPUs"].found == "2 x H100 of 80.0 GiB on a, b"
    assert checks["cores"].found == "2 ranks with 4 threads on 4 cores"
    assert judge_launch.roles_text(WORLD) == "2 trainers, 2 index ranks: 1 trainer + 1 index on 2 hosts"


@pytest.mark.parametrize(
    ("part", "change", "name", "state", "words"),
    [
        ("software", {"mpi": "Open MPI"}, "MPI", "warn", "MPICH 5, thread level FUNNELED on a, b; Open MPI"),
        ("software", {"libraries": {"torch": "2.9.0"}}, "libraries", "warn", "torch is 2.8.0 on a, b, 2.9.0 on b"),
        ("network", {"fault": "GLOO_SOCKET_IFNAME=x"}, "network", "fail", "GLOO_SOCKET_IFNAME=x"),
        ("process", {"threads": 9}, "cores", "warn", "b: a rank has OMP_NUM_THREADS=9 but may use 4 core"),
        ("process", {"threads": 4}, "cores", "warn", "b: 2 ranks with 6 threads share 4 core"),
        ("process", {"open_files": 1024}, "open files", "warn", "b: a rank may open 1024 files"),
        ("host", {"free_memory_bytes": GIB}, "memory", "warn", "b: 1.0 GiB are free for 2 ranks"),
        ("host", {"free_shm_bytes": 64 << 20}, "/dev/shm", "warn", "b: /dev/shm has 0.1 GiB free"),
        ("host", {"free_disk_bytes": 0}, "local disk", "warn", "b: /tmp has 0.0 GiB free"),
        ("host", {"locks": {"/c/lock": 5.0}}, "compile locks", "warn", "/c/lock: less than 10 minutes old"),
        ("host", {"locks": {"/c/lock": 7200.0}}, "compile locks", "fail", "/c/lock: left 120 minutes ago"),
        ("devices", {"gpus": Gpus()}, "GPUs", "fail", "torch sees none of the 2 on b"),
        ("devices", {"gpus": replace(GPU, free_bytes=GIB)}, "GPUs", "warn", "b: a GPU has 1.0 GiB of 80.0 GiB free"),
        ("run", {"is_seen": False}, "run folder", "fail", "b does not see what world rank 0 on a wrote in /r"),
        ("run", {"written_bytes_per_s": 1e6}, "run folder", "warn", "written at 1 MB/s"),
        ("data", {"faults": ("no /corpus",)}, "data", "fail", "b: no /corpus"),
        ("data", {"digests": {"data.corpus": "d" * 64}}, "data", "fail", "cccccccccccc on a; dddddddddddd on b"),
    ],
)  # fmt: skip
def test_one_thing_is_wrong(part: str, change: dict[str, Any], name: str, state: str, words: str) -> None:
    checks = judged(**{part: change})
    assert (checks[name].state, words in checks[name].found) == (state, True), checks[name]
    assert {other for other, check in checks.items() if check.state != "ok"} == {name, "messages", "network", "clocks"}


@pytest.mark.parametrize(
    ("part", "change", "name", "found"),
    [
        ("host", {"free_memory_bytes": GIB}, "memory", "a, b: 1.0 GiB are free for 2 ranks"),
        ("host", {"free_shm_bytes": 64 << 20}, "/dev/shm", "a, b: /dev/shm has 0.1 GiB free"),
        ("host", {"free_disk_bytes": 0}, "local disk", "a, b: /tmp has 0.0 GiB free"),
        ("process", {"open_files": 1024}, "open files", "a, b: a rank may open 1024 files"),
        ("devices", {"gpus": replace(GPU, free_bytes=GIB)}, "GPUs", "a, b: a GPU has 1.0 GiB of 80.0 GiB free"),
    ],
)
def test_every_host_with_which_the_same_is_wrong_is_named(
    part: str, change: dict[str, Any], name: str, found: str
) -> None:
    assert judged(ranks=(0, 2), **{part: change})[name].found == found


def test_index_ranks_may_be_where_a_trainer_may_not() -> None:
    """On hosts without the trainers' network, whose GPUs are not for them: a run starts there, and so may this."""
    world = World(world_rank=0, hosts=("a", "b", "c"), roles=("trainer", "trainer", "index"))
    facts = {rank: replace(facts_of(0), world_rank=rank) for rank in range(3)}
    assert facts[2].network is not None
    facts[2] = replace(
        facts[2], network=replace(facts[2].network, fault="no interface ib0"), devices=Devices(nodes=2, gpus=Gpus())
    )
    assert {(one.source, one.to) for one in choose_dials(world, facts)} == {(0, 1), (1, 0)}
    assert judge_network.judge_interfaces(world, facts, Trials()).state == "skip"
    check = judge_hosts.judge_gpus(world, facts, roles_are_known=True)
    assert (check.state, check.found) == (
        "warn", "torch sees none of the 2 on c, where index and builder ranks run on CPUs then"
    )  # fmt: skip
    as_trainer = replace(world, roles=("trainer",) * 3)
    assert judge_hosts.judge_gpus(as_trainer, facts, roles_are_known=False).state == "fail"
    assert judge_network.judge_interfaces(as_trainer, facts, Trials()).found == "no interface ib0"


def test_trainers_on_cpus_beside_an_index_on_gpus() -> None:
    facts = {rank: facts_of(rank) for rank in range(4)}
    for rank in (0, 2):
        facts[rank] = replace(facts[rank], devices=Devices(nodes=0, gpus=Gpus()))
    check = judge_hosts.judge_gpus(WORLD, facts, roles_are_known=True)
    assert (check.state, check.found) == ("ok", "none on a trainer's host: training is on CPUs, over gloo")


def test_what_could_not_be_looked_at_is_told() -> None:
    checks = judged(host=None)
    assert checks["memory"].state == "ok"
    facts = {0: facts_of(0), 2: replace(facts_of(2), run=None, faults={"run": "not done within 30 s"})}
    silent, fault, *_ = judge_launch.judge_launch(WORLD, facts)
    assert (silent.state, "world rank(s) 1, 3 on a, b joined, then said nothing" in silent.found) == ("fail", True)
    assert (fault.name, fault.found) == ("run", "world rank(s) 2 on b: not done within 30 s")


def test_a_trainer_that_sees_too_few_gpus() -> None:
    world = World(world_rank=0, hosts=("a", "a"), roles=("trainer", "trainer"))
    one = Devices(nodes=2, gpus=replace(GPU, names=("H100",)))
    facts = {rank: replace(facts_of(0), world_rank=rank, devices=one) for rank in range(2)}
    check = judge_hosts.judge_gpus(world, facts, roles_are_known=True)
    assert check.state == "fail"
    assert check.found.startswith(
        "trainer 1 (world rank 1 on a) is the trainer number 1 of its host, from 0, and sees 1"
    )
    assert "not --gpus-per-task" in check.fix


def test_connections_messages_and_clocks() -> None:
    way = Dial(source=0, to=2, address="10.0.0.b", port=9)
    good = Link(source=0, to=3, tried=Tried(latency_s=1e-4, bytes_per_s=2e9))
    checks = judged(Trials(links=(good,), dials=(way,), skews_s={"b": -0.004}))
    assert {check.state for check in checks.values()} == {"ok"}
    assert checks["messages"].found == "trainer 0 (a) - index 1 (b): 0.10 ms, 2.00 GB/s"
    assert checks["network"].found == "each host is reached by another: b 10.0.0.b (eth0)"
    assert checks["clocks"].found == "at most 4 ms apart"
    slow = replace(good, tried=Tried(latency_s=0.05, bytes_per_s=2e9))
    lost = replace(way, fault="Connection refused")
    checks = judged(Trials(links=(slow,), dials=(lost,), skews_s={"b": 90.0}))
    assert (checks["messages"].state, checks["clocks"].state, checks["network"].state) == ("warn", "warn", "fail")
    assert checks["network"].found == "a does not reach b by 10.0.0.b (eth0): Connection refused"
    assert checks["network"].fix.startswith("set GLOO_SOCKET_IFNAME to the interface")
    dead = replace(good, tried=Tried(fault="waited 10 s"))
    assert judged(Trials(links=(dead,)))["messages"].state == "fail"


def test_clocks_are_compared_with_each_other() -> None:
    world = World(world_rank=0, hosts=("a", "b", "c"), roles=("trainer",) * 3)
    check = judge_network.judge_clocks(world, Trials(skews_s={"b": 0.9, "c": -0.9}))
    assert (check.state, check.found) == ("warn", "that of b is 1.8 s ahead of that of c")
    check = judge_network.judge_clocks(world, Trials(skews_s={"b": 0.9, "c": 0.5}))
    assert (check.state, check.found) == ("ok", "at most 900 ms apart")


def test_a_host_that_answers_no_ping_is_told() -> None:
    good = Link(source=0, to=1, tried=Tried(latency_s=1e-4, bytes_per_s=2e9))
    checks = judged(Trials(links=(good,), skews_s={"b": math.nan}))
    assert (checks["messages"].state, checks["messages"].found) == (
        "fail", "world rank 0 on a heard no answer from b"
    )  # fmt: skip
    assert checks["clocks"].state == "skip"


def test_trials_for_which_no_time_was_left_are_told() -> None:
    checks = judged(Trials(num_skipped=3))
    assert (checks["trials"].state, checks["trials"].found) == ("warn", "3 more were left out, those before took 60 s")


def test_the_trainers_store_has_a_variable_of_its_own() -> None:
    facts = {rank: facts_of(rank) for rank in range(4)}
    store = replace(facts[0].network, store="10.9.9.9")  # type: ignore[type-var]
    facts[0] = replace(facts[0], network=store)
    dials = choose_dials(WORLD, facts)
    assert [(one.source, one.to, one.address, one.port) for one in dials] == [
        (0, 2, "10.0.0.b", 9), (2, 0, "10.0.0.a", 7), (2, 0, "10.9.9.9", 7)
    ]  # fmt: skip
    trials = Trials(dials=(replace(dials[-1], fault="no route"),))
    check = judge_network.judge_interfaces(WORLD, facts, trials)
    assert check.fix.startswith("set REALM_MASTER_ADDR to an address of a")
    assert choose_dials(World(world_rank=0, hosts=("a",), roles=("trainer",)), {0: facts[0]}) == []


def test_a_look_that_hangs_or_fails_is_told_and_the_others_go_on() -> None:
    free = threading.Event()

    def fail() -> None:
        raise OSError(5, "Input/output error")

    looks = {"run": free.wait, "data": fail, "process": lambda: look.process(environ={"OMP_NUM_THREADS": "3"})}
    facts = look.look_around(world_rank=3, looks=looks, timeout_s=0.05)
    free.set()
    assert facts.faults == {"run": "not done within 0 s", "data": "OSError: [Errno 5] Input/output error"}
    assert facts.process is not None
    assert (facts.run, facts.data, facts.process.threads) == (None, None, 3)


def test_what_a_process_sees_of_this_machine(tmp_path: Path) -> None:
    here = World(world_rank=0, hosts=("a",), roles=("trainer",))
    network = look.network(world=here, environ={"GLOO_SOCKET_IFNAME": "lo,no"}, port=1)
    assert (network.address, network.store, network.port) == ("127.0.0.1", "", 1)
    assert "no network interface no, it has" in network.fault
    assert look.devices(0, dev=tmp_path) == Devices(nodes=0, gpus=Gpus())
    assert look.host(environ={}).free_memory_bytes > 0
    assert look.software(None).mpi == "no MPI library"
    token = leave_token(tmp_path / "token")
    assert look.run_folder(tmp_path / "token", token, timeout_s=0).is_seen
    assert not look.run_folder(tmp_path / "token", "another", timeout_s=0).is_seen
    assert not look.run_folder(tmp_path / "nowhere" / "token", token, timeout_s=0).is_seen
    assert nearest(tmp_path / "a" / "b") == tmp_path


def test_gpus_as_torch_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda number: f"GPU {number}",
        mem_get_info=lambda number: (number + 1, 10),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    names = ("GPU 0", "GPU 1")
    assert look.devices(1, dev=tmp_path) == Devices(nodes=2, gpus=Gpus(names=names, free_bytes=2, total_bytes=10))
    assert look.devices(2, dev=tmp_path) == Devices(nodes=2, gpus=Gpus(names=names))
    cuda.is_available = lambda: False
    assert look.devices(0, dev=tmp_path) == Devices(nodes=2, gpus=Gpus())


def test_locks_of_compilers(tmp_path: Path) -> None:
    assert look.compile_locks(tmp_path / "none", now=0) == {}
    for folder in ("async_io", "py311_cpu/shm"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "lock").touch()
        os.utime(tmp_path / folder / "lock", (1000, 1000))
    (tmp_path / "py311_cpu" / "done").mkdir()
    expected = {str(tmp_path / folder / "lock"): 60.0 for folder in ("async_io", "py311_cpu/shm")}
    assert look.compile_locks(tmp_path, now=1060) == expected
    assert look.extensions_folder({"TORCH_EXTENSIONS_DIR": "/x"}) == Path("/x")


def test_data_that_a_host_reads(tmp_path: Path) -> None:
    tokenizer = make_data(tmp_path, num_facts=1)
    config: RealmConfig = tiny_config(tmp_path)
    found = look.data(config, timeout_s=5)
    assert set(found.digests) == {"data.tokenizer", "data.corpus", "data.pretrain"}
    assert (found.digests["data.tokenizer"], list(found.faults)) == (tokenizer.fingerprint, [])
    (tmp_path / "corpus" / "manifest.json").unlink()
    gone = tiny_config(tmp_path, **{"model.start_from": tmp_path / "nowhere", "model.encoder": tmp_path / "none"})
    faults = "\n".join(look.data(gone, timeout_s=5).faults)
    for words in ("data.corpus: no ", "nowhere is not an export", f"model.encoder={tmp_path}/none is no folder"):
        assert words in faults


def test_interfaces_by_gloos_and_nccls_rules() -> None:
    here = ["lo", "eth0", "ib0"]
    check_interfaces({"GLOO_SOCKET_IFNAME": "eth0,ib0"}, here=here, hostname="a")
    for good in ("", "ib", "^docker", "=eth0", "^lo,docker0", "^=lo,docker0", "eth,en", "en,ib", "=eth0,eth1"):
        check_interfaces({"NCCL_SOCKET_IFNAME": good}, here=here, hostname="a")
    for bad in ({"GLOO_SOCKET_IFNAME": "eth"}, {"NCCL_SOCKET_IFNAME": "=eth"}, {"NCCL_SOCKET_IFNAME": "en,et0"}):
        with pytest.raises(ConfigError, match="a has no network interface =?e.*it has lo, eth0, ib0"):
            check_interfaces(bad, here=here, hostname="a")

    def unknown(name: str) -> str:
        raise OSError(name)

    found = {"eth0": ["10.0.0.1"], "ib0": []}
    assert gloo_address({"GLOO_SOCKET_IFNAME": "eth0"}, found, hostname="a") == "10.0.0.1"
    assert gloo_address({"GLOO_SOCKET_IFNAME": "ib0"}, found, hostname="a") == ""
    assert gloo_address({}, found, hostname="a", resolve=lambda name: "127.0.1.1") == "127.0.1.1"
    assert gloo_address({}, found, hostname="a", resolve=unknown) == "127.0.0.1"


def test_a_token_that_is_shown_late_is_seen(tmp_path: Path) -> None:
    times, path = iter(range(100)), tmp_path / "run" / "token"
    token = leave_token(tmp_path / "hidden")

    def sleep(seconds: float) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(token)

    clock = Clock(now=lambda: float(next(times)), sleep=sleep)
    assert sees_token(path, token, timeout_s=5, clock=clock)
    assert not sees_token(path, "another", timeout_s=5, clock=clock)


def test_code_is_its_files_wherever_they_are(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "module.py").write_text("x = 1\n")
        (tmp_path / folder / "ignored.pyc").write_text(folder)
    assert code_name(tmp_path / "one") == code_name(tmp_path / "two")
    (tmp_path / "two" / "sub" / "module.py").write_text("x = 2\n")
    assert code_name(tmp_path / "one") != code_name(tmp_path / "two")


def test_the_launchers_number_of_a_process() -> None:
    assert launched_rank({}) == 0
    assert launched_rank({"OMPI_COMM_WORLD_RANK": "3"}) == 3
    assert launched_rank({"SLURM_PROCID": "2"}) == 2


def test_one_task_of_srun_is_told_from_a_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    cards, config = [Card(host="node1")], tiny_config(tmp_path)
    roles = _judge_cards(cards, config=config, stage="pretrain")[0][-1]
    assert (roles.state, roles.found) == ("warn", "srun has started one task, and the run needs 3 ranks or more")
    assert "give srun -N and --ntasks-per-node" in roles.fix
    assert _judge_cards(cards, config=config, stage="ict")[0][-1].state == "ok"
    assert _judge_cards(cards, config=config, stage="qa")[0][-1].state == "ok"
    sharded = tiny_config(tmp_path, **{"qa.index": "sharded"})
    assert _judge_cards(cards, config=sharded, stage="qa")[0][-1].state == "warn"


def test_alone_with_a_config_it_says_what_a_run_would_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.cluster.doctor.start_mpi", lambda: None)
    make_data(tmp_path, num_facts=1)
    config = tiny_config(tmp_path)
    checks = examine(load_config=lambda: config, stage="pretrain", run=tmp_path / "run")
    assert checks is not None
    found = {check.name: check for check in checks}
    assert found["roles"].found.startswith("no launcher: a run here would start ")
    assert (found["data"].state, found["MPI"].state) == ("ok", "warn")
    assert not list(tmp_path.glob(".realm-ds-doctor*"))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *, token: str) -> str:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("realm_ds.cluster.doctor.start_mpi", lambda: None)
    monkeypatch.setattr("realm_ds.cluster.doctor.leave_token", full)
    checks = examine(load_config=lambda: None, stage="pretrain", run=tmp_path)
    (check,) = [check for check in checks or [] if check.name == "run folder"]
    assert (check.state, check.found) == ("fail", f"{tmp_path} cannot be written: No space left on device")


def mpi_of(world_rank: int) -> Any:
    """As start_mpi returns it in a world of two."""
    comm = SimpleNamespace(Get_size=lambda: 2, Get_rank=lambda: world_rank)
    return SimpleNamespace(COMM_WORLD=comm, Get_processor_name=lambda: "a")


def test_ranks_that_do_not_all_join_and_only_the_first_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[list[str]] = []

    def late(comm: Any, card: Any, *, timeout_s: float) -> Any:
        left.append([path.name for path in tmp_path.iterdir()])
        raise LaunchError("nothing was heard of world rank(s) 1")

    monkeypatch.setattr("realm_ds.cluster.doctor.exchange_cards", late)
    monkeypatch.setattr("realm_ds.cluster.doctor.start_mpi", lambda: mpi_of(0))
    for _ in range(2):
        checks = examine(load_config=lambda: None, stage="pretrain", run=tmp_path)
        assert [(check.name, check.found) for check in checks or []] == [
            ("one world", "nothing was heard of world rank(s) 1")
        ]
    (first,), (second,) = left
    assert first.startswith(".realm-ds-doctor-")
    assert first != second  # two doctors may look at one folder
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("realm_ds.cluster.doctor.start_mpi", lambda: mpi_of(1))
    with pytest.raises(LaunchError):
        examine(load_config=lambda: None, stage="pretrain", run=tmp_path)
    assert left[-1] == []


def test_other_code_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the others do not leave with rank 0."""

    def hangs(**_: Any) -> None:
        raise LaunchError("waited 20 s for all ranks to finish")

    def exchanged(comm: Any, card: Any, *, timeout_s: float) -> Any:
        assert len(list(tmp_path.iterdir())) == 1
        return [card, replace(card, code="another")]

    monkeypatch.setattr("realm_ds.cluster.doctor.exchange_cards", exchanged)
    monkeypatch.setattr("realm_ds.cluster.doctor.start_mpi", lambda: mpi_of(0))
    world = SimpleNamespace(world_rank=0, barrier=hangs)
    monkeypatch.setattr("realm_ds.cluster.doctor.world_of", lambda *_: world)
    checks = {check.name: check for check in examine(load_config=lambda: None, stage="ict", run=tmp_path) or []}
    assert "world rank 1 on a runs another" in checks["code"].found
    assert (checks["leaving"].state, checks["leaving"].found) == ("fail", "waited 20 s for all ranks to finish")
    assert not list(tmp_path.iterdir())


def test_people_see_what_to_mend_below_what_is_wrong() -> None:
    out = io.StringIO()
    checks = [
        Check(name="MPI", state="ok", found="MPICH", fix="nothing"),
        Check(name="data", state="fail", found="no [corpus]", fix="copy it"),
    ]
    print_checks(checks, out=out)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines == [
        ["ok", "MPI", "MPICH"], ["fail", "data", "no", "[corpus]"], ["->", "copy", "it"],
        ["1", "as", "it", "should", "be,", "1", "to", "mend", "first"],
    ]  # fmt: skip
