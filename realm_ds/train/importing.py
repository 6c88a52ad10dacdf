"""Others' REALM as an export of ours, for model.start_from: transformers' folders, and Google's own checkpoints.

    OUT/{query_tower, passage_tower, encoder, tokenizer}/    README.md    manifest.json

There is no index in it, as there is no corpus; a model that answers questions has both (importing_qa.py). The formats
are models/hf_realm.py's and models/tf_realm.py's business.
"""

import tempfile
from pathlib import Path

from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.exported import CARD
from realm_ds.models.hf_block_records import BLOCK_RECORDS
from realm_ds.models.hf_realm import read_config, weights_file
from realm_ds.models.names import HF_EMBEDDER, HF_ENCODER, TF_ENCODER, hf_towers, is_hf_realm
from realm_ds.models.realm import RealmModel, open_hf_realm
from realm_ds.models.tf_realm import checkpoint_prefix, write_tf_as_hf
from realm_ds.sealed import recover_sealed, sealed_folder
from realm_ds.train.export import REMEDY, Say, write_models
from realm_ds.train.export_card import UNKNOWN, licence_section
from realm_ds.train.importing_qa import check_vocabulary, find_openqa, import_qa

KIND = "import"


def look(source: Path) -> list[str]:
    """What is in a folder to import, a line each, without reading weights. Raises CheckpointError if nothing."""
    if is_tensorflow(source):
        parts = (HF_EMBEDDER, TF_ENCODER)
        return [
            "Google's REALM, TensorFlow's checkpoints",
            *(f"  {checkpoint_prefix(source / name)}" for name in parts),
        ]
    if openqa := find_openqa(source):
        folders = [openqa]
        lines = [f"REALM that answers questions, in transformers' layout, with its passages: {openqa / BLOCK_RECORDS}"]
    elif is_hf_realm(source):
        folders = [hf_towers(source), source / HF_ENCODER]
        lines = ["Google's REALM in transformers' layout"]
    else:
        raise CheckpointError(_what_is_wanted(source))
    for folder in folders:
        config, path = read_config(folder), weights_file(folder)
        lines.append(
            f"  {path}: {path.stat().st_size / 1e6:.0f} MB, {config['num_hidden_layers']} layers of "
            f"{config['hidden_size']}, {config['vocab_size']} wordpieces"
        )
    return lines


def import_model(source: Path, out: Path, *, tokenizer_folder: Path | None = None, say: Say = print) -> None:
    """Write the models in `source` to `out`, whole or not at all; an earlier import there is replaced.

    The tokenizer is that of `tokenizer_folder`, else the one beside the weights. Raises ConfigError, CheckpointError or
    DataError.
    """
    for line in look(source):
        say(line)
    recover_sealed(out, what="import", kind=KIND)
    tokenizer_folder = tokenizer_folder or _own_tokenizer(source)
    if openqa := find_openqa(source):
        import_qa(openqa, out, tokenizer_folder=tokenizer_folder, kind=KIND, say=say)
        say(f"imported to {out}: ask it with `realm-ds ask QUESTION --model {out}`")
        return
    tokenizer = load_tokenizer(tokenizer_folder)
    with (
        sealed_folder(out, what="the import", remedy=REMEDY, kind=KIND, source=source.name) as unfinished,
        tempfile.TemporaryDirectory(prefix=f"{out.name}.tmp-", dir=out.parent) as scratch,
    ):
        tokenizer.save(Path(scratch) / "tokenizer")  # in the form that we write, whatever it came in
        realm = _open(source, Path(scratch))
        check_vocabulary(realm.query_tower, tokenizer, tokenizer_folder)
        write_models(realm, unfinished, tokenizer_folder=Path(scratch) / "tokenizer")
        (unfinished / CARD).write_text(_card(source, realm), encoding="utf-8")
    say(f"imported to {out}: name it in model.start_from, with {_settings(realm)}")


def is_tensorflow(source: Path) -> bool:
    """Does the folder hold Google's own modules?"""
    return not is_hf_realm(source) and (source / HF_EMBEDDER).is_dir() and (source / TF_ENCODER).is_dir()


def _open(source: Path, scratch: Path) -> RealmModel:
    if is_tensorflow(source):
        write_tf_as_hf(source, scratch, tokenizer_folder=scratch / "tokenizer")
        source = scratch
    return open_hf_realm(source)


def _what_is_wanted(source: Path) -> str:
    return (
        f"{source} holds no REALM to import. Wanted: of transformers' models, the embedder (or scorer) in "
        f"{HF_EMBEDDER}/ and the encoder in {HF_ENCODER}/, or a RealmForOpenQA with its {BLOCK_RECORDS}; of Google's "
        f"own, {HF_EMBEDDER}/ and {TF_ENCODER}/ as released"
    )


def _own_tokenizer(source: Path) -> Path:
    names = ("tokenizer.json", "vocab.txt")
    places = sorted({path.parent for name in names for path in source.rglob(name)}, key=lambda path: str(path))
    if not places:
        raise ConfigError(f"{source} has no tokenizer ({' or '.join(names)}): name its folder with --tokenizer")
    return places[0]


def _settings(realm: RealmModel) -> str:
    """What a run must say to have the same shape."""
    bert = realm.query_tower.bert.config
    settings = {
        "num_layers": bert.num_hidden_layers, "hidden_size": bert.hidden_size, "num_heads": bert.num_attention_heads,
        "intermediate_size": bert.intermediate_size, "projection_size": realm.query_tower.dense.out_features,
        "share_towers": str(realm.shares_towers).lower(),
    }  # fmt: skip
    return " ".join(f"model.{name}={value}" for name, value in settings.items())


def _card(source: Path, realm: RealmModel) -> str:
    towers = "one tower for queries and passages" if realm.shares_towers else "two towers"
    return f"""---
library_name: transformers
license: {UNKNOWN}
tags: [realm, retrieval, fill-mask]
---
# REALM, imported from {source.name}

Made by `realm-ds import`: {towers} and the knowledge-augmented encoder. To train or embed with them:

    model.start_from=HERE {_settings(realm)}

{licence_section(UNKNOWN)}
"""
