"""The tokenizer beside a model, as files. What is in them is data/tokenizer.py's business."""

import shutil
from pathlib import Path

FILES = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer's files and no others: in a model's folder, its weights lie beside them. Makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
