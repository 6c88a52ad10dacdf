"""Fine-tuning asks its questions in one order, whoever asks them, and however often the number of trainers changes."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.question_files import question_order
from realm_ds.train import qa
from realm_ds.train.resume import Resumed
from realm_ds.train.timing import StepTimer

QUESTIONS, SIZE, ACCUMULATED = 11, 2, 3


def asked(resumed: Resumed, *, trainers: int, steps: int) -> tuple[list[int], Resumed]:
    """The questions of some steps, in the order that they have in a global batch, and where it goes on."""
    last = resumed.step + steps
    by_trainer: list[list[tuple[int, ...]]] = []
    states: list[Any] = []
    for rank in range(trainers):
        batches: list[tuple[int, ...]] = []
        stage: Any = SimpleNamespace(
            config=SimpleNamespace(
                qa=SimpleNamespace(
                    micro_batch_size=SIZE, gradient_accumulation_steps=ACCUMULATED, steps=last, question_tokens=8
                ),
                runtime=SimpleNamespace(seed=5),
            ),
            trainers=SimpleNamespace(rank=rank, size=trainers),
            timer=StepTimer(),
            collator=lambda: SimpleNamespace(queries=lambda ids, max_tokens: None),
        )
        engine: Any = SimpleNamespace(
            train_step=lambda parts, step, timer, batches=batches: batches.extend(part.numbers for part in parts)
        )
        finder: Any = SimpleNamespace(question_ids=list(range(QUESTIONS)), take_digest=lambda: 0)
        index: Any = SimpleNamespace(prepare_step=lambda step: True, take_step=lambda: (0.0, {}, {}))
        questions: Any = [None] * QUESTIONS
        infos = list(qa._steps(stage, engine, questions, finder, index, resumed, measure_before=lambda: True))
        by_trainer.append(batches)
        states.append(infos[-1].streams[qa.QUESTIONS])
    numbers = [number for micro in zip(*by_trainer, strict=True) for part in micro for number in part]
    return numbers, Resumed(step=last, streams={qa.QUESTIONS: tuple(states)})


@given(worlds=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_the_order_of_questions_goes_on_whatever_the_number_of_trainers(worlds: list[tuple[int, int]]) -> None:
    numbers, resumed = [], Resumed()
    for trainers, steps in worlds:
        more, resumed = asked(resumed, trainers=trainers, steps=steps)
        numbers += more
    assert numbers == question_order(QUESTIONS, start=0, stop=len(numbers), seed=5)
    assert len(numbers) == sum(trainers * steps * SIZE * ACCUMULATED for trainers, steps in worlds)
