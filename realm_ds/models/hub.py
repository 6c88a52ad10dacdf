"""A model by its name on the Hugging Face hub: found once, before ranks start; ranks read local files only."""

from collections.abc import Sequence
from pathlib import Path

from realm_ds.errors import ConfigError

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""Of a repository; others hold the same weights for other frameworks."""
TAGGER_FILES = (*MODEL_FILES, "tokenizer*.json", "special_tokens_map.json", "vocab.*", "merges.txt")
"""Of one whose tokenizer is wanted too."""
OLD_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""What older ones have instead."""


def encoder_folder(encoder: Path | str, *, download: bool = False) -> Path:
    """The folder of `model.encoder`: itself, or where the hub's cache on this host keeps the model of that name.

    With `download` it is fetched where it is not there yet. Raises ConfigError if there is none.
    """
    return encoder if isinstance(encoder, Path) else _fetch(encoder, MODEL_FILES, "model.encoder=", download=download)


def tagger_folder(model: str) -> Path:
    """The folder of a token-classification model: itself, or what the hub has under that name, fetched if need be."""
    return Path(model) if Path(model).is_dir() else _fetch(model, TAGGER_FILES, "--model ", download=True)


def _fetch(model: str, files: Sequence[str], setting: str, *, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(model, allow_patterns=list(patterns), local_files_only=not download))

    try:
        folder = fetch(*files)
        return folder if any(folder.glob("*.safetensors")) else fetch(*files, *OLD_FILES)
    except Exception as error:  # The hub's client raises many kinds; all mean that there is no model.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        where = "neither a folder here nor a model that the hub gives" if download else "not in this host's hub cache"
        raise ConfigError(
            f"{setting}{model} is {where} ({reason}): run `hf download {model}` where there is a network, "
            "with HF_HOME on a disk that all ranks see, or name a folder"
        ) from error
