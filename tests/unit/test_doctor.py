"""The doctor's judgement on made-up facts, what ranks try with each other, and what a process sees of its host."""

import io
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from realm_ds.cluster.checks import judge_hosts, judge_launch, judge_network, look, trial
from realm_ds.cluster.checks.facts import Data, Devices, Facts, Host, Network, Process, Run, Software
from realm_ds.cluster.checks.trial import Dial, Link, Listener, Trials, Tried, choose_dials, choose_links, dial
from realm_ds.cluster.doctor import examine, nearest
from realm_ds.comm.code import code_name
from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.network import check_interfaces, gloo_address
from realm_ds.comm.shared_folder import leave_token, sees_token
from realm_ds.comm.waiting import Clock
from realm_ds.comm.world import World, launched_rank
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError
from realm_ds.models.devices import Gpus
from realm_ds.observe.checks import Check, print_checks
from tests.support.tiny import make_data, tiny_config

GIB = 1 << 30
WORLD = World(world_rank=0, hosts=("a", "a", "b", "b"), roles=("trainer", "index") * 2)
HOST = Host(
    memory_bytes=64 * GIB, free_memory_bytes=60 * GIB, cores=8, shm_bytes=32 * GIB, free_shm_bytes=32 * GIB,
    disk="/tmp", free_disk_bytes=99 * GIB, locks={},
)  # fmt: skip
GPU = Gpus(names=("H100", "H100"), free_bytes=79 * GIB, total_bytes=80 * GIB)


def facts_of(world_rank: int) -> Facts:
    """Of a rank of WORLD with which all is well; the first of each host tells of the host."""
    is_first = world_rank % 2 == 0
    host = WORLD.hosts[world_rank]
    return Facts(
        world_rank=world_rank,
        software=Software(mpi="MPICH 5", thread_level="FUNNELED", folder="/x", libraries={"torch": "2.8.0+cpu"}),
        network=Network(
            interfaces={"lo": ["127.0.0.1"], "eth0": [f"10.0.0.{host}"]}, fault="", address=f"10.0.0.{host}",
            port=7 + world_rank, store="10.0.0.a" if world_rank == 0 else "",
        ),
        process=Process(cores=(0, 1, 2, 3), threads=2, open_files=65536),
        devices=Devices(nodes=2, gpus=GPU),
        host=HOST if is_first else None,
        run=Run(folder="/r", is_seen=True, free_bytes=99 * GIB, written_bytes_per_s=5e8) if is_first else None,
        data=Data(digests={"data.corpus": "c" * 64}, faults=()) if is_first else None,
    )  # fmt: skip


def judged(trials: Trials | None = None, **changes: dict[str, Any] | None) -> dict[str, Check]:
    """Every check of WORLD, with parts of rank 2's facts changed; None takes a part away."""
    facts = {rank: facts_of(rank) for rank in range(4)}
    for part, change in changes.items():
        there = getattr(facts[2], part)
        facts[2] = replace(facts[2], **{part: change if change is None else replace(there, **change)})
    checks = [
        *judge_launch.judge_launch(WORLD, facts),
        *judge_network.judge_network(WORLD, facts, trials or Trials()),
        *judge_hosts.judge_hosts(WORLD, facts, roles_are_known=True, wants_run=True, wants_data=True),
    ]
    return {check.name: check for check in checks}


def test_all_is_well() -> None:
    checks = judged()
    assert {name for name, check in checks.items() if check.state != "ok"} == {"messages"}  # none was tried
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
    assert {other for other, check in checks.items() if check.state != "ok"} == {name, "messages"}


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


def test_links_go_from_trainers_to_index_ranks_elsewhere() -> None:
    assert choose_links(WORLD) == [(0, 3), (2, 1)]
    assert choose_links(replace(WORLD, roles=("trainer",) * 4)) == [(0, 2)]
    assert choose_links(World(world_rank=0, hosts=("a", "a"), roles=("index", "trainer"))) == [(0, 1)]
    assert choose_links(World(world_rank=0, hosts=("a",), roles=("trainer",))) == []
    many = World(world_rank=0, hosts=("a",) * 64 + ("b",) * 64, roles=("trainer",) * 100 + ("index",) * 28)
    assert len(choose_links(many)) == 4


def test_ranks_try_each_other() -> None:
    """Over queues; a rank that is silent is left out, and nothing waits for it."""
    world = World(world_rank=0, hosts=("a", "b", "b"), roles=("trainer", "index", "trainer"))
    hub = LoopbackHub(3, trial.KINDS)
    others = [
        threading.Thread(target=trial.answer, args=(hub.mailbox(rank), facts_of(rank)), daemon=True) for rank in (1, 2)
    ]
    for thread in others:
        thread.start()
    facts, trials = trial.conduct(world, hub.mailbox(0), facts_of(0), timeout_s=20)
    for thread in others:
        thread.join(20)
        assert not thread.is_alive()
    assert facts == {rank: Facts.from_json(facts_of(rank).to_json()) for rank in range(3)} | {0: facts_of(0)}
    assert [(link.source, link.to, link.tried.fault) for link in trials.links] == [(0, 1, ""), (2, 1, "")]
    assert all(0 < link.tried.latency_s < 5 and link.tried.bytes_per_s > 0 for link in trials.links)
    assert list(trials.skews_s) == ["b"]
    assert abs(trials.skews_s["b"]) < 5
    assert [one.fault == "" for one in trials.dials] == [False] * len(trials.dials)  # nobody listens at 10.0.0.b

    alone, trials = trial.conduct(world, LoopbackHub(3, trial.KINDS).mailbox(0), facts_of(0), timeout_s=0.01)
    assert (list(alone), trials) == ([0], Trials())


def test_whoever_answers_a_call_must_be_the_one() -> None:
    listener = Listener(5)
    assert dial("127.0.0.1", listener.port, answer=5) == ""
    assert dial("127.0.0.1", listener.port, answer=6) == "another program answers there"
    listener.close()
    assert "refused" in dial("127.0.0.1", listener.port, answer=5)


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
    assert look.host(environ={}).memory_bytes > 0
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


def test_alone_with_a_config_it_says_what_a_run_would_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.cluster.doctor.start_mpi", lambda: None)
    make_data(tmp_path, num_facts=1)
    config = tiny_config(tmp_path)
    checks = examine(load_config=lambda: config, stage="pretrain", run=tmp_path / "run")
    assert checks is not None
    found = {check.name: check for check in checks}
    assert found["roles"].found.startswith("no launcher: a run here would start ")
    assert (found["data"].state, found["MPI"].state) == ("ok", "warn")
    assert not (tmp_path / ".realm-ds-doctor").exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> str:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("realm_ds.cluster.doctor.start_mpi", lambda: None)
    monkeypatch.setattr("realm_ds.comm.world.leave_token", full)
    checks = examine(load_config=lambda: None, stage="pretrain", run=tmp_path)
    (check,) = [check for check in checks or [] if check.name == "run folder"]
    assert (check.state, check.found) == ("fail", f"{tmp_path} cannot be written: No space left on device")


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
