"""What transformers' own classes make of folders that we wrote: loaded, and computed with.

    python load_hf_realm.py FOLDER      in an environment with transformers 4.57.6 (realm_ds/bench/peer.py makes it)

FOLDER holds inputs.npz, pretrained/{embedder, scorer, encoder} and qa/{reader, openqa, questions.json}; outputs.npz and
info.json are written there. It stands alone: nothing of this project is imported.

Shapes: B queries, C candidates, L tokens, K passages read.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TRUST_REMOTE_CODE"] = "True"  # block_records.npy is a pickle; this one is our own

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    RealmEmbedder,
    RealmForOpenQA,
    RealmKnowledgeAugEncoder,
    RealmReader,
    RealmRetriever,
    RealmScorer,
)
from transformers.utils import logging

PARTS = ("input_ids", "attention_mask", "token_type_ids")


def main() -> None:
    logging.set_verbosity_error()
    folder = Path(sys.argv[1])
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        inputs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    info: dict[str, object] = {}
    with torch.no_grad():
        outputs = pretrained(folder / "pretrained", inputs, info) | answering(folder / "qa", inputs, info)
    np.savez(folder / "outputs.npz", **{name: value.numpy() for name, value in outputs.items()})
    (folder / "info.json").write_text(json.dumps(info))


def load(kind: type, folder: Path, info: dict[str, object], **options: object) -> torch.nn.Module:
    model, loading = kind.from_pretrained(folder, output_loading_info=True, **options)
    info[kind.__name__] = {name: list(loading[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    info[kind.__name__]["tokenizer"] = AutoTokenizer.from_pretrained(folder).vocab_size
    return model.eval()


def tokens(inputs: dict[str, torch.Tensor], name: str, *, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{part}": inputs[f"{name}_{part}"] for part in PARTS}


def pretrained(folder: Path, inputs: dict[str, torch.Tensor], info: dict[str, object]) -> dict[str, torch.Tensor]:
    embedder = load(RealmEmbedder, folder / "embedder", info)
    two_towers = {"query_embedder": RealmEmbedder(embedder.config)}
    scorer = load(RealmScorer, folder / "scorer", info, **two_towers)
    encoder = load(RealmKnowledgeAugEncoder, folder / "encoder", info)
    passages = {name: value.flatten(0, 1) for name, value in tokens(inputs, "passage").items()}
    relevance_BC = scorer(**tokens(inputs, "query"), **tokens(inputs, "passage", prefix="candidate_")).relevance_score
    loss = encoder(
        **tokens(inputs, "joint"),
        relevance_score=relevance_BC,
        labels=inputs["labels_BL"],
        mlm_mask=inputs["mlm_mask_BL"],
    ).loss
    return {
        "passage_vectors": embedder(**passages).projected_score,
        "query_vectors": scorer.query_embedder(**tokens(inputs, "query")).projected_score,
        "relevance_BC": relevance_BC,
        "loss": loss,
    }


def answering(folder: Path, inputs: dict[str, torch.Tensor], info: dict[str, object]) -> dict[str, torch.Tensor]:
    reader = load(RealmReader, folder / "reader", info)
    read = tokens(inputs, "read")
    next_type = torch.nn.functional.pad(read["token_type_ids"][:, 1:], (0, 1))
    is_passage_KL = read["token_type_ids"].bool() & next_type.bool()  # the last is [SEP]
    read_logits, _, _ = reader.qa_outputs(reader.realm(**read)[0], is_passage_KL)
    retriever = RealmRetriever.from_pretrained(folder / "openqa")
    openqa = load(RealmForOpenQA, folder / "openqa", info, retriever=retriever)
    tokenizer = retriever.tokenizer
    info["answers"] = []
    for question in json.loads((folder / "questions.json").read_text()):
        asked = tokenizer([question], return_tensors="pt")
        info["answers"].append(tokenizer.decode(openqa(**asked).predicted_answer_ids))
    info["blocks"] = [block.decode() for block in retriever.block_records]
    return {"read_logits": read_logits}


if __name__ == "__main__":
    main()
