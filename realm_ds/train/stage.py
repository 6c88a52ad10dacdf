"""What every stage of training has at hand, opened and checked once: data, tokenizer, model, device, metrics."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from realm_ds.comm.trainers import Trainers, init_trainers
from realm_ds.comm.world import World
from realm_ds.config.base import StageName
from realm_ds.config.schema import RealmConfig
from realm_ds.data.masking import MaskedExample, Masking, masked_examples
from realm_ds.data.records import Example
from realm_ds.data.redeal import StreamState
from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.observe.notice import Notice
from realm_ds.observe.pulse import Pulse
from realm_ds.observe.sinks import Sinks
from realm_ds.sealed import sha256
from realm_ds.train.collate import Collator
from realm_ds.train.engine import join
from realm_ds.train.timing import StepTimer
from realm_ds.train.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One trainer of one stage of a run."""

    config: RealmConfig
    folder: Path
    world: World
    trainers: Trainers
    device: torch.device
    tokenizer: Tokenizer
    corpus: Shards
    sinks: Sinks
    notice: Notice
    pulse: Pulse
    timer: StepTimer
    writer: Writer
    """For what trainer 0 writes behind the training; on the others it has nothing to do."""

    def pretrain_shards(self) -> Shards:
        return self._examples(self.config.data.pretrain_place)

    def held_out_shards(self) -> Shards:
        assert self.config.data.held_out is not None
        return self._examples(self.config.data.held_out)

    def must_leave(self) -> bool:
        """Whether any trainer was asked to end, the same on all. Collective."""
        return self.trainers.any(self.notice.is_given, waiting_for="all trainers to say whether they were asked to end")

    def collator(self) -> Collator:
        data = self.config.data
        return Collator(
            special=self.tokenizer.special,
            query_tokens=data.query_tokens,
            passage_tokens=data.passage_tokens,
            max_masks=data.max_masks,
            device=self.device,
            has_null=self.config.pretrain.null_passage,
        )

    def masked(
        self, stream: Iterable[tuple[Example, StreamState]], *, seed: int
    ) -> Iterator[tuple[MaskedExample, StreamState]]:
        """Sentences of X as pre-training masks them."""
        data, pretrain = self.config.data, self.config.pretrain
        return masked_examples(
            stream,
            special=self.tokenizer.special,
            query_tokens=data.query_tokens,
            max_masks=data.max_masks,
            seed=seed,
            masking=Masking(
                kind=pretrain.masking, rate=pretrain.mask_rate, vocab_size=self.tokenizer.vocab_size,
                again_each_epoch=pretrain.remask,
            ),
        )  # fmt: skip

    def fixed_settings(self, name: StageName) -> dict[str, str]:
        """What may not change between a run and its resumption, by setting; contents of files by their digest. Reads
        them."""
        config = self.config
        fixed: dict[str, object] = {"runtime.seed": config.runtime.seed, "data.corpus": self.corpus.digest[:12]}
        if name != "qa":
            fixed |= {
                f"data.{setting}": getattr(config.data, setting) for setting in ("shuffle_shards", "shuffle_records")
            }
        if name == "pretrain":
            fixed["data.pretrain"] = self.pretrain_shards().digest[:12]
        if name == "pretrain" or (name == "qa" and config.qa.refresh_passages):
            names = ["every_steps", "adopt_after_steps"]
            if config.refresh.every_steps == "auto":
                names += ["target_change", "shortest_steps", "longest_steps", "probe_queries"]
            fixed |= {f"refresh.{setting}": getattr(config.refresh, setting) for setting in names}
        if name == "ict":
            fixed["ict.passages_per_article"] = config.ict.passages_per_article
            if config.ict.encoder_warmup:
                fixed["data.pretrain"] = self.pretrain_shards().digest[:12]
        if name == "qa":
            # Which versions of refreshed passages are launched depends on the last step.
            names = ["index", "answer_by", "refresh_passages", *(["steps"] if config.qa.refresh_passages else [])]
            fixed |= {f"qa.{setting}": getattr(config.qa, setting) for setting in names}
        if name == "qa" and config.qa.data is not None:
            fixed["qa.data/train.jsonl"] = sha256(config.qa.data / "train.jsonl")[:12]
        return {key: str(value) for key, value in fixed.items()}

    def model(self) -> RealmModel:
        """The starting weights, on this trainer's device, the same on all trainers; run as the settings have it."""
        model = starting_model(self.config, vocab_size=self.tokenizer.vocab_size).to(self.device)
        runtime = self.config.runtime
        run_encoders(model, checkpointed=runtime.activation_checkpointing, compiled=runtime.compile)
        return model

    def _examples(self, place: Path | str) -> Shards:
        return open_shards(
            place,
            kind="pretrain",
            fingerprint=self.tokenizer.fingerprint,
            timeout_s=self.config.runtime.wait_timeout_s,
        )


def open_stage(world: World, config: RealmConfig, *, folder: Path, sinks: Sinks, notice: Notice, pulse: Pulse) -> Stage:
    """Join the trainers and open what they share. Raises DataError or ConfigError for what does not fit."""
    tokenizer = load_tokenizer(config.data.tokenizer)
    corpus = open_shards(
        config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=config.runtime.wait_timeout_s
    )
    trainers = init_trainers(world, timeout_s=config.runtime.wait_timeout_s)
    device = join(world.local_rank)
    return Stage(
        config=config,
        folder=folder,
        world=world,
        trainers=trainers,
        device=device,
        tokenizer=tokenizer,
        corpus=corpus,
        sinks=sinks,
        notice=notice,
        pulse=pulse,
        timer=StepTimer(device),
        writer=Writer(timeout_s=config.runtime.wait_timeout_s),
    )


def starting_model(config: RealmConfig, *, vocab_size: int) -> RealmModel:
    """The weights that a run with this config starts from."""
    return build_model(
        config.model, vocab_size=vocab_size, max_tokens=config.data.joint_tokens, seed=config.runtime.seed
    )


def run_encoders(model: RealmModel, *, checkpointed: bool, compiled: bool) -> None:
    """Switch how the three BERTs of a model are run, in place: the names of their weights stay what they are.

    To be done before DeepSpeed takes the model. Checkpointing draws the same dropout again in the backward pass.
    """
    towers = (model.query_tower, model.passage_tower)
    for bert in dict.fromkeys([*(tower.bert for tower in towers), model.encoder.mlm.base_model]):
        if checkpointed:
            # transformers 5 has renamed it; the argument is for torch.utils.checkpoint, first in both.
            enable = getattr(bert, "activation_checkpointing_enable", None) or bert.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if compiled:
            bert.compile(dynamic=True)  # else every new length of a batch would be compiled again
