"""Questions answered by transformers' own RealmForOpenQA, as its documentation calls it.

    python peer_qa.py FOLDER      in an environment with transformers 4.57.6; peer.py makes that and starts this

It stands alone: nothing of this package is there. FOLDER holds work.json and openqa/; a line "MODE FIRST END" on its
input answers those questions of work.json, and a line of JSON on its output tells of them. MODE is what it retrieves:
"retrieve", searcher_beam_size passages, as in training, or "read", reader_beam_size, those that it reads.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ["TRUST_REMOTE_CODE"] = "True"  # block_records.npy is a pickle; this one is our own

import torch
from transformers import RealmForOpenQA, RealmRetriever
from transformers.utils import logging


def main() -> None:
    logging.set_verbosity_error()  # It tells of deprecation.
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    work = json.loads((folder / "work.json").read_text())
    torch.set_num_threads(work["threads"])
    retriever = RealmRetriever.from_pretrained(folder / "openqa")
    model = RealmForOpenQA.from_pretrained(
        folder / "openqa", retriever=retriever, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    for line in sys.stdin:
        mode, first, end = line.split()
        model.train(mode == "retrieve")  # this alone says how many it retrieves, as there is no dropout
        started_at = time.perf_counter()
        answers = [answer(model, question) for question in work["questions"][int(first) : int(end)]]
        print(json.dumps({"took_s": time.perf_counter() - started_at, "answers": answers}), flush=True)


@torch.no_grad()
def answer(model: RealmForOpenQA, question: str) -> str:
    tokenizer = model.retriever.tokenizer
    return tokenizer.decode(model(**tokenizer([question], return_tensors="pt")).predicted_answer_ids)


if __name__ == "__main__":
    main()
