"""What a trainer holds of a model under one ZeRO stage, counted and seen from outside; the peak of an export. What the
numbers must reach is memory.py's business.

Shapes: B queries, C candidates (null first), U distinct passages, N joint sequences, L tokens, M masks.
"""

import gc
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from realm_ds.bench.corpora import VectorsOf
from realm_ds.bench.processes import Result, write_progress
from realm_ds.bench.resident import peak_bytes, reset_peak
from realm_ds.comm.trainers import init_trainers
from realm_ds.comm.world import World
from realm_ds.config.deepspeed import load_deepspeed
from realm_ds.config.load import load
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.eval.exported import AnswerSettings, write_qa_export
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.models.objectives import MarginalBatch, MaskedBatch
from realm_ds.models.qa import build_qa_model
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.models.towers import TokenBatch
from realm_ds.sealed import seal
from realm_ds.train.best import FOLDER as BEST
from realm_ds.train.best import JUDGED_BY, RECORD, BestRecord
from realm_ds.train.checkpoint import TrainState, save
from realm_ds.train.engine import Engine, join
from realm_ds.train.export import write_models
from realm_ds.train.pretrain import objective_of
from realm_ds.train.writer import Writer

Options = Mapping[str, Any]
STEPS = 2
"""The first makes the optimizer's state, the second is as all later ones."""
TOKENS = 8
MOST_TOKENS = 1024
"""Of a passage that is answered from, and of a question."""
TOKEN_BYTES = 2
"""Of a wordpiece in an index."""


def resident(world: World, config: RealmConfig, options: Options, *, folder: Path) -> Result:
    """Bytes after some steps over short random sequences, of which activations are small."""
    trainers = init_trainers(world, timeout_s=config.runtime.wait_timeout_s)
    join(world.local_rank)
    before = _resident_memory()
    model = build_model(config.model, vocab_size=options["vocabulary"], max_tokens=config.data.joint_tokens, seed=0)
    parameters = _num_parameters(model)  # before ZeRO-3 takes them apart
    engine = _trained(model, config, trainers.size, vocabulary=options["vocabulary"], folder=folder)
    held = engine.resident_bytes()._asdict()
    found = {**held, "process": _resident_memory() - before, "parameters": parameters}
    trainers.close()
    return found


def saved(world: World, config: RealmConfig, options: Options, *, folder: Path) -> Result:
    """A run's checkpoint and its best models, for others to export."""
    timeout_s, run = config.runtime.wait_timeout_s, Path(options["run"])
    trainers = init_trainers(world, timeout_s=timeout_s)
    join(world.local_rank)
    vocabulary = load_tokenizer(config.data.tokenizer).vocab_size
    model = build_model(config.model, vocab_size=vocabulary, max_tokens=config.data.joint_tokens, seed=0)
    engine = _trained(model, config, trainers.size, vocabulary=vocabulary, folder=folder)
    corpus = open_shards(config.data.corpus, kind="corpus", fingerprint=None).digest[:12]
    state = TrainState(
        stage="pretrain", step=STEPS, num_trainers=trainers.size, zero_stage=engine.zero_stage, on_disk=False,
        global_batch=trainers.size, streams={}, groups=engine.groups(), fixed={"data.corpus": corpus},
    )  # fmt: skip
    writer = Writer(timeout_s=timeout_s)
    save(engine, run, state=state, trainers=trainers, writer=writer, keep=lambda steps: steps, timeout_s=timeout_s)
    writer.drain()
    if trainers.rank == 0:
        best = BestRecord(
            step=STEPS, measure=JUDGED_BY[0], value=0.0, measured_on="nothing", corpus=corpus, metrics={}
        )  # fmt: skip
        write_models(model, run / BEST, tokenizer_folder=config.data.tokenizer)
        (run / BEST / RECORD).write_text(json.dumps(asdict(best)))
        seal(run / BEST, kind=BEST, step=STEPS)
    found = {"parameters": _num_parameters(model)}
    trainers.close()
    return found


def answering(options: Options, *, folder: Path) -> Result:
    """An export of a fine-tuned run, for others to export; bytes of what answers, and of the passages' text."""
    config = load(Path(options["config"]))
    tokenizer = load_tokenizer(config.data.tokenizer)
    shards = open_shards(config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint)
    sizes = ReadingSizes(question_tokens=MOST_TOKENS, passage_tokens=MOST_TOKENS, read=2)
    realm = build_model(config.model, vocab_size=tokenizer.vocab_size, max_tokens=2 * MOST_TOKENS, seed=0)
    model = build_qa_model(realm, span_hidden_size=256, max_span_tokens=10, seed=0)
    vectors_NP = VectorsOf(seed=0, width=config.model.projection_size)(0, shards.count)
    write_progress(folder, done=0, total=1, now=f"writing {shards.count} passages")
    write_qa_export(
        Path(options["run"]) / "export", model, shards=shards, vectors=[vectors_NP],
        tokenizer_folder=config.data.tokenizer, settings=AnswerSettings(
            sizes=sizes, null_passage=False, temperature=1.0, tokenizer_fingerprint=tokenizer.fingerprint
        ),
    )  # fmt: skip
    passages = [(len(passage.title_ids) + len(passage.body_ids), len(passage.text)) for passage in shards.passages()]
    num_tokens, text = (sum(column) for column in zip(*passages, strict=True))
    return {"held": 4 * _num_parameters(model) + vectors_NP.nbytes + TOKEN_BYTES * num_tokens, "text": text}


def export(options: Options, *, folder: Path) -> Result:
    """The most that a process holds while it exports a run, above what it does with its libraries loaded."""
    # All that export_run loads itself, when it needs it.
    from realm_ds.index import faiss_index  # noqa: F401
    from realm_ds.train import export_card, export_networks, export_qa, recall  # noqa: F401
    from realm_ds.train.export import export_run

    write_progress(folder, done=0, total=1, now=" ".join(map(str, options["export"].values())))
    before = reset_peak()
    export_run(Path(options["run"]), out=folder / "export", **options["export"])
    return {"peak": peak_bytes() - before}


def _trained(model: RealmModel, config: RealmConfig, num_trainers: int, *, vocabulary: int, folder: Path) -> Engine:
    engine = Engine(
        objective_of(model, config.pretrain), stage=config.pretrain, optimizer=config.optimizer,
        deepspeed_json=load_deepspeed(config.runtime.deepspeed), num_trainers=num_trainers,
    )  # fmt: skip
    for step in range(STEPS):
        engine.train_step([random_batch(vocabulary, seed=step)], step=step)
        write_progress(folder, done=step + 1, total=STEPS, now="training")
    return engine


def _num_parameters(model: RealmModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def random_batch(vocabulary: int, *, seed: int, queries: int = 2, candidates: int = 2) -> MarginalBatch:
    """A step's batch of the smallest shape that has all of its parts."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(rows: int) -> TokenBatch:
        ids_NL = torch.randint(5, vocabulary, (rows, TOKENS), generator=generator)
        return TokenBatch(ids_NL, torch.ones_like(ids_NL), torch.zeros_like(ids_NL))

    rows = queries * candidates
    places_NM = torch.full((rows, 1), 2)
    targets_NM = torch.randint(5, vocabulary, (rows, 1), generator=generator)
    return MarginalBatch(
        queries=tokens(queries), passages=(tokens(rows),),
        passage_rows_BC=torch.arange(rows).view(queries, candidates),
        joint=(MaskedBatch(tokens(rows), torch.arange(rows), places_NM, targets_NM),), masks_BM=torch.ones(queries, 1),
    )  # fmt: skip


def _resident_memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
