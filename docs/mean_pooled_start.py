"""A sentence encoder that takes the mean of its tokens, as an export that realm-ds judges and trains on from.

    python docs/mean_pooled_start.py MODEL CORPUS OUT       MODEL: a BERT with its tokenizer; CORPUS: `prepare corpus`

REALM's towers take [CLS]. One more layer lets [CLS] see the mean of all tokens, so that inner products are the model's
own cosines times SCALE; in the knowledge-augmented encoder that further layer changes nothing. docs/experiments.md uses
it for MiniLM.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel

from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.eval.corpus import embed_with
from realm_ds.eval.exported import AnswerSettings, vectors_sha256, write_corpus, write_settings
from realm_ds.eval.reading import ReadingSizes
from realm_ds.index.embedding import ShardEmbedder
from realm_ds.index.passages import load_shard
from realm_ds.models.tokenizer_files import copy_tokenizer
from realm_ds.models.towers import Embedder
from realm_ds.sealed import seal

MEAN = 30.0
"""The mean's weight beside what [CLS] already is, which a residual connection adds."""
PART = 0.1
"""Of the state that the pooler's tanh sees: where it is almost straight."""
SCALE = 20.0
"""Of a cosine, as sentence encoders are trained with."""
SIZES = ReadingSizes(question_tokens=48, passage_tokens=288, read=5)


def main() -> None:
    source, corpus, out = map(Path, sys.argv[1:])
    bert = AutoModel.from_pretrained(source, local_files_only=True)
    width = bert.config.hidden_size
    config = BertConfig.from_dict({**bert.config.to_dict(), "num_hidden_layers": bert.config.num_hidden_layers + 1})
    tower = Embedder(config, projection_size=width, norm_eps=1e-12, dropout=0.0).eval()
    tower.bert.load_state_dict(with_layer(bert, config, takes_mean=True))
    with torch.no_grad():
        tower.dense.weight.copy_(torch.eye(width))
        tower.norm.weight.fill_((SCALE / width) ** 0.5)
    for name in ("query_tower", "passage_tower"):
        tower.save(out / name)
    encoder = BertForMaskedLM(config)
    encoder.bert.load_state_dict(with_layer(bert, config, takes_mean=False), strict=False)  # it has no pooler
    encoder.save_pretrained(out / "encoder")
    copy_tokenizer(source, out / "tokenizer")
    write_passages(tower, corpus, out)
    seal(out, source=str(source))


def with_layer(bert: BertModel, config: BertConfig, *, takes_mean: bool) -> dict[str, torch.Tensor]:
    """Its weights and those of the further layer: attention to all alike, a feed-forward part that adds nothing."""
    last, own, weights = f"encoder.layer.{bert.config.num_hidden_layers}.", bert.state_dict(), {}
    for name, value in BertModel(config).state_dict().items():
        fresh = torch.ones_like(value) if name.endswith("LayerNorm.weight") else torch.zeros_like(value)
        weights[name] = fresh if name.startswith(last) else own[name]
    identity = torch.eye(config.hidden_size)
    if takes_mean:
        weights[last + "attention.self.value.weight"] = identity
        weights[last + "attention.output.dense.weight"] = MEAN * identity
    return weights | {"pooler.dense.weight": PART * identity, "pooler.dense.bias": torch.zeros(config.hidden_size)}


def write_passages(tower: Embedder, corpus: Path, out: Path) -> None:
    """The passages and their vectors, and what answering needs to know."""
    tokenizer = load_tokenizer(out / "tokenizer")
    shards = open_shards(corpus, kind="corpus", fingerprint=tokenizer.fingerprint)
    passages = load_shard(shards, shard_rank=0, num_shards=1, max_tokens=SIZES.passage_tokens)
    width = tower.dense.out_features
    embedder = ShardEmbedder(
        passages, special=tokenizer.special, passage_tokens=SIZES.passage_tokens, batch_tokens=8192, width=width
    )  # fmt: skip
    vectors_NP = torch.zeros((len(passages), width)).numpy()
    for _ in embedder.run(embed_with(tower), vectors_NP):
        pass
    settings = AnswerSettings(
        sizes=SIZES, null_passage=False, temperature=1.0, tokenizer_fingerprint=tokenizer.fingerprint
    )
    write_corpus(out, shards, [vectors_NP], snapshot_sha256=vectors_sha256([vectors_NP]))
    write_settings(out, settings)


if __name__ == "__main__":
    main()
