"""The same step by transformers' own REALM: RealmScorer and RealmKnowledgeAugEncoder, as its documentation calls them.

    python peer_step.py FOLDER      in an environment with transformers 4.57.6; peer.py makes that and starts this

It stands alone: nothing of this package is there. FOLDER holds work.json, weights.safetensors and batch-N.npz; a line
with a number on its input makes so many steps, and a line of JSON on its output tells of them.

Shapes: B queries, C candidates, L tokens.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import RealmConfig, RealmKnowledgeAugEncoder, RealmScorer
from transformers.utils import logging

Batch = dict[str, torch.Tensor]


def main() -> None:
    logging.set_verbosity_error()  # It tells of deprecation.
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    work = json.loads((folder / "work.json").read_text())
    torch.set_num_threads(work["threads"])
    scorer, encoder = load_models(folder, work)
    batches = [load_batch(path) for path in sorted(folder.glob("batch-*.npz"))]
    optimizer = adamw(scorer, encoder, work)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    peaks = [group["lr"] for group in optimizer.param_groups]
    done = 0
    for line in sys.stdin:
        told: dict[str, list[float]] = {"took_s": [], "losses": []}
        for _ in range(int(line)):
            started_at = time.perf_counter()
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * work["rate_factors"][done]
            loss = loss_of(scorer, encoder, batches[done % len(batches)])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, work["clip_norm"])
            optimizer.step()
            optimizer.zero_grad()
            told["took_s"].append(time.perf_counter() - started_at)
            told["losses"].append(loss.item())
            done += 1
        print(json.dumps(told), flush=True)


def load_models(folder: Path, work: dict) -> tuple[RealmScorer, RealmKnowledgeAugEncoder]:
    """Both, with our weights under their names; all that a step uses must be there."""
    config = RealmConfig(**work["config"])
    scorer, encoder = RealmScorer(config), RealmKnowledgeAugEncoder(config)
    weights = load_file(folder / "weights.safetensors")
    for model, prefix in ((scorer, "scorer."), (encoder, "encoder.")):
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        missing, unexpected = model.load_state_dict(own, strict=False)
        # The second name of the shared embedder, and heads and poolers that no step goes through.
        idle = ("query_embedder.", "embedder.cls.predictions.", "realm.pooler.", "cls.predictions.decoder.")
        lost = [name for name in missing if not name.startswith(idle)] + list(unexpected)
        if lost:
            raise SystemExit(f"weights do not fit transformers' {type(model).__name__}: {', '.join(lost)}")
        model.train()
    return scorer, encoder


def load_batch(path: Path) -> Batch:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def adamw(scorer: RealmScorer, encoder: RealmKnowledgeAugEncoder, work: dict) -> torch.optim.AdamW:
    """AdamW with a rate for each model; biases and LayerNorms do not decay."""
    groups = []
    for model, rate in ((scorer, work["scorer_rate"]), (encoder, work["encoder_rate"])):
        for decays in (True, False):
            parameters = [parameter for parameter in model.parameters() if (parameter.ndim > 1) == decays]
            groups.append({"params": parameters, "lr": rate, "weight_decay": work["weight_decay"] if decays else 0.0})
    return torch.optim.AdamW(groups, betas=tuple(work["betas"]), eps=work["eps"], fused=True)


def loss_of(scorer: RealmScorer, encoder: RealmKnowledgeAugEncoder, batch: Batch) -> torch.Tensor:
    """REALM's loss: relevance of the candidates, then the masked tokens with each of them."""
    relevance_BC = scorer(
        input_ids=batch["query_ids_BL"], attention_mask=batch["query_mask_BL"], token_type_ids=batch["query_types_BL"],
        candidate_input_ids=batch["passage_ids_BCL"], candidate_attention_mask=batch["passage_mask_BCL"],
        candidate_token_type_ids=batch["passage_types_BCL"],
    ).relevance_score  # fmt: skip
    return encoder(
        input_ids=batch["joint_ids_BCL"], attention_mask=batch["joint_mask_BCL"],
        token_type_ids=batch["joint_types_BCL"], relevance_score=relevance_BC, labels=batch["labels_BL"],
        mlm_mask=batch["mlm_mask_BL"],
    ).loss  # fmt: skip


if __name__ == "__main__":
    main()
