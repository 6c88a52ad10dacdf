"""An export that answers questions as transformers' RealmForOpenQA and RealmReader.

The weights are models/hf_realm_qa.py's business; what comes from such folders is train/importing_qa.py's.
"""

from pathlib import Path

from realm_ds.eval.exported import TOKENIZER, Exported
from realm_ds.models.hf_realm_qa import write_hf_qa
from realm_ds.models.qa import QaModel


def write_hf_openqa(exported: Exported, model: QaModel, folder: Path) -> None:
    """Both of its folders. Raises ConfigError if transformers' classes cannot compute what the model does."""
    sizes = exported.settings.sizes
    write_hf_qa(
        model, folder, tokenizer_folder=exported.folder / TOKENIZER, vectors_NP=exported.corpus.vectors_NP,
        bodies=(passage.text for passage in exported.shards.passages(verify=False)), num_read=sizes.read,
        question_tokens=sizes.question_tokens, passage_tokens=sizes.passage_tokens,
    )  # fmt: skip
