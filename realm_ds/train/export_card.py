"""The README.md of an export or import: a model card as Hugging Face's hub shows it."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from textwrap import indent

from realm_ds.comm.code import library_versions
from realm_ds.config.base import AnswerBy
from realm_ds.config.load import dump
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import Shards
from realm_ds.errors import ConfigError
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.train.export_networks import Written
from realm_ds.train.export_source import Source

OPENING = {
    "realm": """\
import json
import tarfile
from pathlib import Path

import numpy as np
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from realm_ds.models.towers import Embedder, TokenBatch

folder = Path(".")  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
encoder = AutoModelForMaskedLM.from_pretrained(folder / "encoder")
bert = AutoModel.from_pretrained(folder / "query_tower")  # without the projection
query_tower = Embedder.load(folder / "query_tower").eval()  # with it
vectors = np.concatenate([np.load(part) for part in sorted(folder.glob("index/version-*/*.npy"))])
passages = []
for shard in sorted(folder.glob("passages/*.tar")):
    with tarfile.open(shard) as tar:
        passages += [json.load(tar.extractfile(member)) for member in tar]

question = tokenizer("what is the capital of iceland?", return_tensors="pt")
vector = query_tower(TokenBatch(**{
    "ids_NL": question["input_ids"],
    "mask_NL": question["attention_mask"],
    "types_NL": question["token_type_ids"],
})).detach().numpy()[0]
for place in np.argsort(-(vectors @ vector))[:5]:
    print(vectors[place] @ vector, passages[place]["title"], passages[place]["text"])
""",
    "hf-realm": """\
from transformers import AutoTokenizer, RealmEmbedder, RealmKnowledgeAugEncoder, RealmScorer  # 4.16 to 4.57

tokenizer = AutoTokenizer.from_pretrained("encoder")
embedder = RealmEmbedder.from_pretrained("embedder")  # of passages
scorer = RealmScorer.from_pretrained("scorer")  # one tower for both
encoder = RealmKnowledgeAugEncoder.from_pretrained("encoder")
""",
    "sentence-transformers": """\
from sentence_transformers import SentenceTransformer

query_tower, passage_tower = SentenceTransformer("query_tower"), SentenceTransformer("passage_tower")
queries = query_tower.encode(["what is the capital of iceland?"])
passages = passage_tower.encode([("reykjavik", "it is the capital of iceland.")])
print(query_tower.similarity(queries, passages))
""",
}
"""How to open each layout, in code that runs in the export's folder."""
OPENING_QA = {
    "realm": """\
from realm_ds.eval.answerer import RealmForQA

(answered,) = RealmForQA.from_pretrained(".").answer(["what is the capital of iceland?"])
for answer in answered.answers:
    print(answer.text, answer.p, answer.passage.title)
""",
    "hf-realm": """\
import os

os.environ["TRUST_REMOTE_CODE"] = "True"  # block_records.npy is a pickle, which transformers opens only so

from transformers import RealmForOpenQA, RealmRetriever  # 4.16 to 4.57

retriever = RealmRetriever.from_pretrained("openqa")
model = RealmForOpenQA.from_pretrained("openqa", retriever=retriever)
question = retriever.tokenizer(["what is the capital of iceland?"], return_tensors="pt")
print(retriever.tokenizer.decode(model(**question).predicted_answer_ids))
""",
}
"""Likewise of models that answer questions."""
_FOLDERS_QA = {
    "realm": """\
| `query_tower` | BERT, with the projection beside it |
{reader}| `tokenizer` | WordPiece |
| `index` | float32 vectors of all passages, in the order of the tar shards |
| `passages` | the corpus as WebDataset tar shards |
""",
    "hf-realm": """\
| `reader` | a RealmReader |
| `openqa` | a RealmForOpenQA with the passages and their vectors; `realm-ds import` makes of it what `realm-ds ask` \
answers from |
""",
}
_READERS: dict[AnswerBy, str] = {
    "span": "| `reader` | BERT, with the span scorer beside it |\n",
    "masked_word": "| `reader` | BERT with its vocabulary head (`AutoModelForMaskedLM`) |\n",
}
_READ: dict[AnswerBy, str] = {
    "span": "The answer is a span of one of them",
    "masked_word": "The answer is the wordpiece that is likeliest at a [MASK] after the question, summed over them",
}
_FOLDERS = {
    "realm": """\
| `query_tower`, `passage_tower` | BERT of each tower; `projection.safetensors` holds W, b and the LayerNorm |
| `encoder` | knowledge-augmented encoder, [CLS] x [SEP] passage [SEP] |
| `tokenizer` | WordPiece, also in each model folder |
""",
    "hf-realm": """\
| `embedder`, `scorer`, `encoder` | REALM as transformers had it until 4.57: the passage tower, both, the \
knowledge-augmented encoder |
""",
    "sentence-transformers": """\
| `query_tower`, `passage_tower` | the towers as sentence-transformers opens them |
""",
}
_TWO_TOWERS = '"scorer")  # one tower for both', '"scorer", query_embedder=RealmEmbedder(embedder.config))'
"""RealmScorer makes one tower of two unless it is told."""
UNKNOWN = "unknown"
"""A licence, as the hub knows it."""
LICENCES = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0",
    "eupl-1.1", "eupl-1.2", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "h-research", "intel-research", "isc", "lgpl",
    "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c",
    "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0", "pddl",
    "postgresql", "unlicense", "wtfpl", "zlib", "other", "unknown",
}  # fmt: skip
"""The hub's names; `other` is for all the rest."""
_UNLICENSED = (
    "Not known: it depends on the text above and on what the models started from. Before you publish this, say \
it in `license` at the top of this file."
)
_FAISS = """\
`index.faiss` has the same vectors in the same order: `faiss.read_index("index.faiss").search(vector[None], 5)`.

"""


def card(
    *, config: RealmConfig, corpus: Shards, source: Source, written: Written, code: str, layout: str, dtype: str,
    licence: str, has_faiss_file: bool,
) -> str:  # fmt: skip
    """The whole file."""
    opening = OPENING[layout] if written.shares_towers else OPENING[layout].replace(*_TWO_TOWERS)
    measured = "".join(
        f"| {name.removeprefix('held_out_')} | {value:.4g} |\n" for name, value in source.metrics.items()
    )
    held_out = f"On held-out data at that step:\n\n| | |\n|---|---|\n{measured}" if measured else ""
    return f"""---
library_name: {"sentence-transformers" if layout == "sentence-transformers" else "transformers"}
license: {licence}
tags:
- realm
- retrieval
- fill-mask
---
# REALM: {written.num_parameters / 1e6:.1f} million parameters, {corpus.count} passages

Towers ({"one for questions and passages" if written.shares_towers else "one for questions, one for passages"}) and \
knowledge-augmented encoder after {source.step} steps of {source.stage}: {source.why}, `{source.folder.name}`, \
saved on {source.saved_on}. Weights are {dtype}.{_untrained(source, config)}

{held_out}
## What is here

| | |
|---|---|
{_FOLDERS[layout]}| `index` | float32 vectors of all passages, in the order of the tar shards |
| `passages` | the corpus as WebDataset tar shards |

A vector is LayerNorm(W pooler_output + b); a passage's score for a query is their inner product. The sha256 of every
file, as it was written, is in `manifest.json`.

```python
{opening}```

{_FAISS if has_faiss_file else ""}## Data

{corpus.manifest.source}

{licence_section(licence)}

{_provenance(f"Trained with {code}", config)}"""


def qa_card(
    *, layout: str, corpus: Shards, sizes: ReadingSizes, made: str, dtype: str = "fp32", licence: str = UNKNOWN,
    scores: Mapping[str, Mapping[str, float]] | None = None, config: RealmConfig | None = None,
    answer_by: AnswerBy = "span",
) -> str:  # fmt: skip
    """The whole file, of models that answer questions. `scores` are by split; `config` is of the run that made them."""
    splits, names = scores or {}, list(dict.fromkeys(name for values in (scores or {}).values() for name in values))
    table = "".join(
        f"| {name} | {' | '.join(f'{values[name]:.4g}' if name in values else '' for values in splits.values())} |\n"
        for name in names
    )
    head = f"| | {' | '.join(splits)} |\n|{'---|' * (1 + len(splits))}\n"
    measured = f"All questions of a split answered:\n\n{head}{table}\n" if splits else ""
    return f"""---
library_name: transformers
license: {licence}
tags:
- realm
- question-answering
---
# REALM that answers questions, from {corpus.count} passages

{made}. {sizes.read} passages are read for each question. {_READ[answer_by]}. Weights are {dtype}.

{measured}## What is here

| | |
|---|---|
{_FOLDERS_QA[layout].format(reader=_READERS[answer_by])}
The sha256 of every file, as it was written, is in `manifest.json`.

```python
{OPENING_QA[layout]}```

## Data

{corpus.manifest.source}

{licence_section(licence)}

{_provenance(made, config)}"""


def scores_of(run_folder: Path, export: Path) -> dict[str, dict[str, float]]:
    """By split, where a run has answered its questions after the export was written."""
    # With faiss, which trainers, who write models, need not.
    from realm_ds.eval.exported import SETTINGS_FILE

    written_at, found = (export / SETTINGS_FILE).stat().st_mtime, {}
    for path in sorted((run_folder / "qa").glob("*.json")):
        # SPLIT.before.json is of the retriever before it was fine-tuned.
        if not path.stem.endswith(".before") and path.stat().st_mtime >= written_at:
            scores = json.loads(path.read_bytes())
            found[path.stem] = {name: value for name, value in scores.items() if isinstance(value, float)}
    return found


def licence_section(licence: str) -> str:
    """What a card says of it beside its name at the top."""
    return f"## Licence\n\n{f'`{licence}`, as who exported it said.' if licence != UNKNOWN else _UNLICENSED}"


def code_of(run_folder: Path) -> str:
    """Version and commit of the code that the run was started with, from its code.txt."""
    path = run_folder / "code.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return ", ".join(line for line in lines[:2] if line) or "realm-ds of an unknown version"


def check_licence(licence: str) -> None:
    """Raise ConfigError unless it is one of the hub's names, which a card must have."""
    if licence not in LICENCES:
        close = get_close_matches(licence.lower(), sorted(LICENCES), n=1)
        hint = f"did you mean {close[0]}?" if close else "such as apache-2.0 or cc-by-sa-4.0;"
        raise ConfigError(f"--license {licence!r} is none of the hub's names: {hint} `other` is for all the rest")


def _provenance(made: str, config: RealmConfig | None) -> str:
    versions = library_versions()
    text = (
        f"## Provenance\n\n{made}; exported with torch {versions['torch']} and transformers {versions['transformers']}."
    )
    return f"{text} The settings of the run:\n\n{indent(dump(config), '    ')}" if config is not None else f"{text}\n"


def _untrained(source: Source, config: RealmConfig) -> str:
    if source.stage != "ict" or config.ict.encoder_warmup:
        return ""
    return " This stage trains the towers alone: the encoder is as the run began with it."
