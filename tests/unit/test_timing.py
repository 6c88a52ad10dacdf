"""Where the time of a step goes, and what is made of it in figures: against counts of torch's own."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.config.schema import ModelConfig
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.flops import cost_of
from realm_ds.models.readers import SpanReader
from realm_ds.models.realm import tower_of
from realm_ds.models.towers import TokenBatch, bert_config
from realm_ds.observe import table
from realm_ds.train.figures import Workload, memory, peak_flops
from realm_ds.train.timing import OTHER, PHASES, TIMES, StepTimer

MODEL = ModelConfig(
    num_layers=2, hidden_size=32, num_heads=2, intermediate_size=64, projection_size=16, dropout=0.0
)  # fmt: skip
CONFIG = bert_config(MODEL, vocab_size=50, max_tokens=64)


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def test_phases_and_the_rest_add_up_to_the_step() -> None:
    clock = Clock()
    timer = StepTimer(clock=clock)
    for phase, seconds in (("data", 0.5), ("forward", 1.0), ("forward", 1.0), ("backward", 2.0)):
        with timer.phase(phase):
            clock.now += seconds
    timer.move(0.4, source="data", to="wait_for_index")
    clock.now += 0.5
    times = timer.drain(2)
    assert times == pytest.approx(
        {
            "data_ms": 50.0, "queries_ms": 0.0, "wait_for_index_ms": 200.0, "forward_ms": 1000.0, "backward_ms": 1000.0,
            "optimizer_ms": 0.0, "snapshot_ms": 0.0, "evaluate_ms": 0.0, "checkpoint_ms": 0.0, "other_ms": 250.0,
            "step_ms": 2500.0,
        }
    )  # fmt: skip
    assert tuple(times) == TIMES
    assert sum(times.values()) == pytest.approx(2 * times["step_ms"])
    with timer.phase("queries"):
        clock.now += 1.0
        with timer.phase("data"):
            clock.now += 2.0
            with timer.phase("checkpoint"):
                clock.now += 4.0
        clock.now += 1.0
        with timer.phase("data"):
            clock.now += 2.0
    times = timer.drain(1)
    assert [times[f"{name}_ms"] for name in ("queries", "data", "checkpoint", "other")] == [2000, 4000, 4000, 0]
    timer.add("snapshot", 3.0)
    clock.now += 3.0
    assert timer.drain(1)["other_ms"] == 0.0


class Device:
    """A GPU beside its host: it works off what it is given in turn, and marks when it comes to an event."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.free_at = clock, clock.now
        monkeypatch.setattr(torch.cuda, "Event", lambda *, enable_timing: DeviceEvent(self))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.wait())

    def give(self, seconds: float) -> None:
        self.free_at = max(self.free_at, self.clock.now) + seconds

    def wait(self) -> None:
        self.clock.now = max(self.free_at, self.clock.now)


class DeviceEvent:
    def __init__(self, device: Device) -> None:
        self.device, self.at = device, 0.0

    def record(self) -> None:
        self.at = max(self.device.free_at, self.device.clock.now)

    def elapsed_time(self, end: "DeviceEvent") -> float:
        return 1e3 * (end.at - self.at)


def test_what_the_host_does_within_a_phase_of_the_gpu_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    timer, device = StepTimer(torch.device("cuda"), clock=clock), Device(clock, monkeypatch)
    with timer.phase("forward"):
        device.give(1.0)  # the questions are embedded
        device.wait()
        with timer.phase("queries"):
            clock.now += 2.0
            with timer.phase("wait_for_index"):
                clock.now += 4.0
            clock.now += 1.0
        device.give(8.0)  # what was found is read, while the host goes on
    with timer.phase("backward"):
        device.give(16.0)
    with timer.phase("data"):
        clock.now += 0.5
    times = timer.drain(1)
    names = ("forward", "queries", "wait_for_index", "backward", "data", "step")
    assert [times[f"{name}_ms"] for name in names] == [9000, 3000, 4000, 16000, 500, 32000]
    assert times["other_ms"] == -500  # the data was read meanwhile


def test_a_phase_of_the_gpu_within_one_of_the_host_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    timer, device = StepTimer(torch.device("cuda"), clock=clock), Device(clock, monkeypatch)
    with timer.phase("evaluate"):
        clock.now += 1.0
        with timer.phase("forward"):
            device.give(2.0)
            device.wait()
            with timer.phase("queries"):
                clock.now += 4.0
        clock.now += 8.0
    times = timer.drain(1)
    names = ("evaluate", "forward", "queries", "other")
    assert [times[f"{name}_ms"] for name in names] == [9000, 2000, 4000, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_is_timed_by_its_own_clock() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    timer = StepTimer(device)
    matrix = torch.randn(4096, 4096, device=device)
    with timer.phase("forward"):
        for _ in range(20):
            matrix = matrix @ matrix / 64
    times = timer.drain(1)
    assert 0.5 * times["step_ms"] < times["forward_ms"] <= times["step_ms"] * 1.05
    assert memory(device, Trainers(singleton("here")))["peak_allocated_gib"] > 0


def tokens_of(*lengths: int) -> TokenBatch:
    mask_NL = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return TokenBatch(torch.randint(1, 50, mask_NL.shape), mask_NL, torch.zeros_like(mask_NL))


def counted(run, network: torch.nn.Module) -> float:
    """Of forward and backward, by torch; attention by plain products, which it counts exactly."""
    network.train()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        run().sum().backward()
    return float(flops.get_total_flops())


def test_people_see_every_phase() -> None:
    assert (*PHASES, OTHER) == table.PHASES


def test_operations_are_those_that_torch_counts() -> None:
    tower, encoder = tower_of(MODEL, CONFIG), KnowledgeAugEncoder(CONFIG)
    tokens = tokens_of(12, 12, 12)
    sums = {"tokens": 36.0, "squares": 3 * 144.0, "sequences": 3.0}
    cost = cost_of(tower)
    assert cost is not None
    assert cost.training(**sums, masks=0.0) == counted(lambda: tower(tokens), tower)
    positions, targets = torch.tensor([[1, 5]] * 3), torch.ones(3, 2, dtype=torch.long)
    cost = cost_of(encoder)
    assert cost is not None
    assert cost.training(**sums, masks=6.0) == counted(lambda: encoder(tokens, positions, targets)[0], encoder)
    assert cost_of(torch.nn.Linear(2, 2)) is None


def test_the_span_readers_scorer_is_next_to_nothing() -> None:
    reader = SpanReader(
        KnowledgeAugEncoder(CONFIG).mlm.base_model, hidden_size=32, span_hidden_size=4, max_span_tokens=2
    )
    tokens = tokens_of(12, 12)
    tokens.types_NL[:, 6:] = 1
    cost = cost_of(reader)
    assert cost is not None
    known = cost.training(tokens=24.0, squares=288.0, sequences=2.0, masks=0.0)
    assert known == pytest.approx(counted(lambda: reader(tokens)[0], reader), rel=0.02)


def test_what_is_trained_is_counted_without_padding_and_what_is_looked_up_is_not() -> None:
    tower = tower_of(MODEL, CONFIG)
    workload = Workload(torch.nn.ModuleList([tower]), device=torch.device("cpu"), dtype=torch.float32)
    workload.peak_flops = 1e9
    with torch.no_grad():
        tower(tokens_of(9, 9))
    tower(tokens_of(3, 12))
    rates = workload.drain(2.0)
    cost = cost_of(tower)
    assert cost is not None
    flops = cost.training(tokens=15.0, squares=9.0 + 144.0, sequences=2.0, masks=0.0)
    assert rates == pytest.approx({"tokens_per_s": 7.5, "mfu": flops / 2.0 / 1e9})
    assert workload.drain(1.0) == {"tokens_per_s": 0.0, "mfu": 0.0}


def test_peak_and_memory_are_those_of_a_machine() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32, seconds=0.01) < 1e15
    held = memory(torch.device("cpu"), Trainers(singleton("here")))
    assert 0.05 < held["peak_rss_gib"] < 100
