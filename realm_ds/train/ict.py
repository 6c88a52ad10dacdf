"""The inverse cloze task: warm start of the towers, and of the encoder if it starts from scratch (ORQA section 4)."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from realm_ds.comm.gather import gather_with_gradient
from realm_ds.config.base import StageName
from realm_ds.config.stages import IctConfig
from realm_ds.data.ict import IctExample, IctSettings, ict_batches
from realm_ds.data.masking import MaskedExample, mask_more, masked_examples
from realm_ds.data.records import Passage
from realm_ds.data.redeal import StreamState
from realm_ds.data.stream import MemoryStream, PassageStream
from realm_ds.errors import DataError
from realm_ds.models.objectives import ClozeObjective
from realm_ds.train.engine import Engine
from realm_ds.train.loop import Ending, StepInfo, run_steps, seed_step
from realm_ds.train.optimizer import rate_of
from realm_ds.train.resume import Resumed, go_on
from realm_ds.train.stage import Stage

STAGE: StageName = "ict"
PASSAGES, WARMUP = "passages", "warmup"
"""The streams of passages to find, and of sentences for the encoder."""
Warmup = Iterator[tuple[tuple[MaskedExample, Passage], StreamState]]


def train_ict(stage: Stage, *, deepspeed_json: Mapping[str, Any], resume: bool) -> Ending:
    """Train to ict.steps, from the newest checkpoint if `resume`."""
    settings = stage.config.ict
    model = stage.model()
    engine = Engine(
        ClozeObjective(model, gather=gather_with_gradient, symmetric=settings.symmetric),
        stage=settings,
        optimizer=stage.config.optimizer,
        deepspeed_json=deepspeed_json,
        num_trainers=stage.trainers.size,
        learning_rate_of=partial(_learning_rate, settings=settings),
    )
    resumed = go_on(engine, stage, STAGE) if resume else Resumed()
    steps = _steps(stage, engine, resumed)
    return run_steps(steps, name=STAGE, stage=stage, engine=engine, settings=settings, first_step=resumed.step)


def _learning_rate(name: str, *, settings: IctConfig) -> float:
    """Of a parameter by its name. An encoder that is not warmed up stands still: not even weight decay touches it."""
    if not name.startswith("model.encoder."):
        return rate_of(name, stage=settings)
    return rate_of(name, stage=settings) if settings.encoder_warmup else 0.0


def _steps(stage: Stage, engine: Engine, resumed: Resumed) -> Iterator[StepInfo]:
    settings, seed, collator = stage.config.ict, stage.config.runtime.seed, stage.collator()
    batches = _cloze_batches(stage, resumed.stream(PASSAGES))
    warmup_size = settings.warmup_micro_batch_size or settings.micro_batch_size
    warmup = _warmup(stage, resumed.stream(WARMUP)) if settings.encoder_warmup else None
    for step in range(resumed.step, settings.steps):
        seed_step(seed, trainer_rank=stage.trainers.rank, step=step)
        with stage.timer.phase("data"):
            micro_batches = list(islice(batches, settings.gradient_accumulation_steps))
            streams = {PASSAGES: micro_batches[-1][1]}
            inputs = []
            for examples, _ in micro_batches:
                drawn = list(islice(warmup, warmup_size)) if warmup else []
                if drawn:
                    streams[WARMUP] = drawn[-1][1]
                inputs.append(collator.cloze(examples, [pair for pair, _ in drawn]))
        measures = engine.train_step(inputs, step=step, timer=stage.timer)
        yield StepInfo(
            step=step + 1,
            streams=streams,
            measures=measures,
        )


def _cloze_batches(stage: Stage, states: Sequence[StreamState]) -> Iterator[tuple[list[IctExample], StreamState]]:
    settings, config = stage.config.ict, stage.config
    stream = PassageStream(
        stage.corpus,
        seed=config.runtime.seed,
        reader=stage.trainers.rank,
        num_readers=stage.trainers.size,
        passages_per_article=settings.passages_per_article,
        max_tokens=config.data.passage_tokens,
        shuffle_shards=config.data.shuffle_shards,
        shuffle_records=config.data.shuffle_records,
        timeout_s=config.runtime.wait_timeout_s,
    )
    stream.go_on(states)
    making = IctSettings(
        mask_rate=settings.mask_rate,
        keep_single_sentences=settings.keep_single_sentences,
        query_dropout=settings.query_dropout,
    )
    return ict_batches(stream, batch_size=settings.micro_batch_size, settings=making, seed=config.runtime.seed)


def _warmup(stage: Stage, states: Sequence[StreamState]) -> Warmup:
    """Masked sentences of X beside the passages they were cut from; both are held in memory for it."""
    config, special, seed = stage.config, stage.tokenizer.special, stage.config.runtime.seed
    longest = config.data.passage_tokens
    passages = {passage.uid: passage for passage in stage.corpus.passages(max_tokens=longest)}
    shards = stage.pretrain_shards()
    examples = [example for example in shards.examples() if example.origin_uid in passages]
    if not examples:
        raise DataError(
            f"ict.encoder_warmup needs examples cut from the corpus, but no origin_uid in {shards} is a "
            f"passage of {stage.corpus}; set ict.encoder_warmup=false, or write both from the same text"
        )
    stream = MemoryStream(examples, seed=seed, reader=stage.trainers.rank, num_readers=stage.trainers.size)
    stream.go_on(states)
    max_masks, rate = config.data.max_masks, config.ict.warmup_mask_rate
    masked = masked_examples(
        stream, special=special, query_tokens=config.data.query_tokens, max_masks=max_masks, seed=seed
    )
    more = mask_more(masked, special=special, longest_rate=rate, max_masks=max_masks, seed=seed)
    return (((example, passages[example.origin_uid]), state) for example, state in more)
