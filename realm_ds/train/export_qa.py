"""A run of `qa train`, or its export, as transformers' RealmReader and RealmForOpenQA, passages and vectors among it.

    OUT/{reader, openqa}/    README.md    manifest.json, written last

Other layouts and other runs are export.py's business.
"""

from pathlib import Path

import torch
from torch import Tensor

from realm_ds.data.batches import query_batch
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.corpus import tensors
from realm_ds.eval.exported import CARD, Exported, find_export, open_export
from realm_ds.eval.hf_openqa import write_hf_openqa
from realm_ds.eval.pairs import joint_tokens
from realm_ds.models.hf_block_records import BLOCK_RECORDS, read_block_records
from realm_ds.models.hf_realm_qa import HF_OPENQA, read_hf_qa, span_reader_of
from realm_ds.models.names import READER
from realm_ds.models.qa import QaModel
from realm_ds.models.towers import embed
from realm_ds.sealed import recover_sealed, sealed_folder
from realm_ds.train.export import KIND, REMEDY, Dtype, Layout, Say, default_folder, round_to
from realm_ds.train.export_card import qa_card, scores_of
from realm_ds.train.export_check import BOUNDS, NUM_SAMPLES, compare
from realm_ds.train.export_source import Step


def answers_questions(folder: Path) -> bool:
    """Is it a run that `qa train` has ended, or an export that answers?"""
    return any((place / READER).is_dir() for place in (folder, folder / "export"))


def export_qa(
    folder: Path, *, layout: Layout, step: Step, out: Path | None, dtype: Dtype, verify: bool, faiss_file: bool,
    licence: str, say: Say,
) -> Path:  # fmt: skip
    """Write `out`, by default FOLDER/export-hf-realm, whole or not at all; an older export there is replaced, anything
    else left alone (ConfigError).

    Raises CheckpointError where `verify` finds that what was written answers otherwise.
    """
    if layout != "hf-realm":
        raise ConfigError(
            f"{folder} answers questions, and {find_export(folder)} is its export already; of that, --layout hf-realm "
            "makes what transformers opens"
        )
    if faiss_file or step != "latest":
        raise ConfigError(
            f"{folder} answers questions: its export is of its last step, and has no file for faiss; leave --step and "
            "--faiss-file out"
        )
    out = out or default_folder(folder, "hf-realm")
    recover_sealed(out, what="export of layout hf-realm", kind=KIND, layout="hf-realm")
    exported = open_export(find_export(folder))
    model = QaModel.load(exported.folder).eval()
    span_reader_of(model)  # before anything is written
    with sealed_folder(
        out, what="the export", remedy=REMEDY, kind=KIND, layout="hf-realm", stage="qa", dtype=dtype
    ) as unfinished:
        say(f"writing {exported.folder}: {len(exported.corpus)} passages and the models that answer from them")
        expected = outputs(model, exported) if verify else {}
        round_to(model, dtype)
        write_hf_openqa(exported, model, unfinished)
        del model  # so that there is room for what was written
        if verify:
            _verify(unfinished / HF_OPENQA, exported, expected, dtype=dtype, say=say)
        text = qa_card(
            layout="hf-realm", corpus=exported.shards, sizes=exported.settings.sizes, dtype=dtype, licence=licence,
            made=f"Made by `realm-ds export` of {exported.folder.parent.name}/{exported.folder.name}",
            scores=scores_of(folder, exported.folder),
        )  # fmt: skip
        (unfinished / CARD).write_text(text, encoding="utf-8")
    return out


@torch.inference_mode()
def outputs(model: QaModel, exported: Exported) -> dict[str, Tensor]:
    """What both networks make of the first sentence of some passages as a question, and of it with the passage."""
    special, sizes, here = exported.tokenizer.special, exported.settings.sizes, torch.device("cpu")
    passages = list(exported.shards.passages(0, min(NUM_SAMPLES, exported.shards.count)))
    questions = [passage.body_ids[slice(*passage.sentences[0])] for passage in passages]
    pairs = [(question, passage.body_ids) for question, passage in zip(questions, passages, strict=True)]
    joint, _ = joint_tokens(pairs, special=special, sizes=sizes)
    queries = query_batch(questions, special=special, max_tokens=sizes.question_tokens)
    return {
        "query vectors": embed(model.query_tower, tensors(queries, here)),
        "logits of answers": span_reader_of(model)(tensors(joint, here))[0].flatten(1),
    }


def _verify(folder: Path, exported: Exported, expected: dict[str, Tensor], *, dtype: Dtype, say: Say) -> None:
    back = read_hf_qa(folder)
    for line in compare(expected, outputs(back.model, exported), bound=BOUNDS[dtype]):
        say(line)
    records = read_block_records(folder / BLOCK_RECORDS)
    are_same = all(
        record == passage.text
        for record, passage in zip(records, exported.shards.passages(verify=False), strict=True)
    )  # fmt: skip
    if not are_same or not torch.equal(back.vectors_NP, torch.from_numpy(exported.corpus.vectors_NP)):
        raise CheckpointError(f"{folder} does not hold the passages of {exported.folder}; nothing was written")
    say(f"verified: {len(exported.corpus)} passages with their vectors, the same")
