"""Every setting of a run, typed, checked and explained: the whole, and the sections that all parts share.

The text under a field is its help: `realm-ds config` prints it, so it must teach. Stages of training are stages.py's,
the index is index.py's, reading files and overrides is load.py's business.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from realm_ds.config.base import Count, Probability, Rate, Seconds, Section, StageName, Steps, TrackerName
from realm_ds.config.index import IndexConfig, RefreshConfig
from realm_ds.config.places import checked_place
from realm_ds.config.stages import EvaluateConfig, IctConfig, PretrainConfig, QaConfig
from realm_ds.errors import ConfigError


class DataConfig(Section):
    """Where the shards are, how they are shuffled, and how long sequences may be (wordpieces, special tokens included).

    A folder of tar shards may be one here, a URL (s3://bucket/corpus, gs://, https://), or a command that writes a file
    of it to its output, with {name} for the file's name: "pipe:ssh host cat /data/corpus/{name}". What is elsewhere is
    read under the deadline runtime.wait_timeout_s; docs/data.md tells the rest.
    """

    corpus: Path | str
    """Folder of corpus tar shards (Z), here or elsewhere: the passages that are indexed."""
    pretrain: Path | str | None = None
    """Folder of pre-training tar shards (X), here or elsewhere: sentences with salient spans."""
    held_out: Path | str | None = None
    """Folder of pre-training tar shards that are never trained on, here or elsewhere: what section evaluate
    measures."""
    shuffle_shards: Count = 16
    """Tar shards that are read side by side, a slice of each at a time: more of them mix articles that stand far apart,
    fewer are opened by fewer trainers at once. Of shards elsewhere each is a transfer that stays open and idle between
    slices, and a server that drops it ends the run: copy shards here to train for long."""
    shuffle_records: Count = 8192
    """Records that are shuffled together. A trainer holds twice as many in memory, some 2 KB each, since the next are
    read while it trains."""
    tokenizer: Path
    """Folder of a transformers WordPiece tokenizer, the one the shards were made with."""
    query_tokens: Count = 96
    """Longest query, [CLS] x [SEP]; longer sentences are skipped if a mask would be cut off."""
    passage_tokens: Count = 288
    """Longest passage, [CLS] title [SEP] body [SEP]; the joint sequence is at most the sum of both."""
    max_masks: Count = 10
    """Masked wordpieces of one example that count in the loss; spans of more are masked but not scored beyond this."""

    @field_validator("corpus", "pretrain", "held_out")
    @classmethod
    def command_takes_a_name(cls, place: Path | str | None) -> Path | str | None:
        return checked_place(place)

    @property
    def pretrain_place(self) -> Path | str:
        """`pretrain`, which has no default. Raises ConfigError if it is not set."""
        if self.pretrain is None:
            raise ConfigError("data.pretrain is not set: name the folder of pre-training tar shards (X)")
        return self.pretrain

    @property
    def joint_tokens(self) -> int:
        """Wordpieces of the longest joint sequence, x and a passage."""
        return self.query_tokens + self.passage_tokens


class ModelConfig(Section):
    """The two towers and the knowledge-augmented encoder, all BERT-like."""

    encoder: Path | str | None = None
    """A BERT-like transformers model to start all three encoders from: its folder, or its name on the Hugging Face hub,
    fetched before ranks start. It brings its own layers, hidden_size, heads and intermediate_size: those below are then
    not looked at. null builds a BERT of these."""
    num_layers: Count = 12
    hidden_size: Count = 768
    num_heads: Count = 12
    intermediate_size: Count = 3072
    projection_size: Count = 128
    """Width P of query and passage vectors; the index is this wide."""
    share_towers: bool = True
    """One tower embeds queries and passages, as in Google's release; false trains two."""
    start: Literal["bert", "narrow"] = "bert"
    """Weights of a model from scratch. bert: N(0, 0.02) throughout. narrow: what lets a model of some 100 hidden units
    learn to match and to copy in minutes; see models/start.py."""
    dropout: Probability = 0.1
    """Inside the encoders, and after the projection's LayerNorm, while training."""
    projection_norm: bool = True
    """A LayerNorm behind the projection, as in the released code; the paper's text has a bare linear map."""
    projection_norm_eps: Rate = 1e-12
    """Epsilon of the projection's LayerNorm: 1e-12 as the released embedder and Hugging Face, 1e-3 as open ICT code."""
    start_from: Path | None = None
    """Weights to start from, in any stage: the export of an earlier run (ict, pretrain) or its best/, or a folder with
    Google's REALM as transformers had it: in it embedder/ (its embedder or scorer) and encoder/. They must be of the
    sizes given here, and take the place of those of `encoder`."""
    encoder_from: Path | None = None
    """An export that the knowledge-augmented encoder comes from in place of all else, while the towers start as the
    settings above say: the retriever of one run with the encoder of another, as in the paper's Table 2."""

    @model_validator(mode="after")
    def heads_divide_hidden(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self


class OptimizerConfig(Section):
    """AdamW; the learning rate and its schedule belong to each stage."""

    kind: Literal["adamw", "bert"] = "adamw"
    """adamw: with bias correction, torch's or DeepSpeed's. bert: without, as BERT's and REALM's original optimizer."""
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    eps: Rate = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled; biases and LayerNorms are excluded."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    clip: Literal["global", "local"] = "global"
    """global: gradients are combined over trainers, then clipped. local: each trainer clips its own before they are
    combined, as the original did on its TPU cores; needs ZeRO 0 or 1, where a trainer has its whole gradient."""


class RuntimeConfig(Section):
    """How the ranks of one run work together."""

    seed: int = 0
    trainers: Count | None = None
    """Trainers to start when realm-ds itself launches on this machine; null under srun, mpiexec or deepspeed, where
    every rank that is not an index rank trains."""
    deepspeed: Path | None = None
    """DeepSpeed JSON (ZeRO stage, offload, precision, communication): a path, or the name of one in ds_configs, such as
    zero3-bf16; null is zero2."""
    threads_per_rank: Annotated[int, Field(ge=0)] = 0
    """CPU threads of each rank; 0 takes OMP_NUM_THREADS, else divides the machine's cores by the ranks on it."""
    wait_timeout_s: Seconds = 600.0
    """No wait for another rank is longer, but for answers of the index and an export (index.build_timeout_s), nor one
    for the next byte of shards that are elsewhere; what was waited for is in the error."""
    stacks_after_s: Seconds = 120.0
    """A rank that waits longer than this for one thing writes the stacks of its threads to its log."""
    keep_last: Count = 2
    """Newest checkpoints kept; the newest of all is never removed."""
    keep_every_steps: Steps | None = None
    """Checkpoints at multiples of this step are kept as well, for ever, with the index versions that they need."""
    activation_checkpointing: bool = False
    """Compute the layers' activations again in the backward pass instead of keeping them: less memory, a third more
    work."""
    compile: bool = False
    """Compile the encoders with torch.compile: faster steps after some minutes. Not with ZeRO-3."""
    tracker: TrackerName = "none"
    """Also send metrics of trainer 0 there; needs that library, works offline as it does."""


class RealmConfig(Section):
    """One run: what `config.yaml` in its folder holds."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ict: IctConfig = IctConfig()
    pretrain: PretrainConfig = PretrainConfig()
    refresh: RefreshConfig = RefreshConfig()
    index: IndexConfig = IndexConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    qa: QaConfig = QaConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def has_index_ranks(self, stage: StageName) -> bool:
        """Whether index ranks stand beside the trainers of a stage, and builder ranks if index.builders says so."""
        return stage == "pretrain" or (stage == "qa" and self.qa.index == "sharded")

    @model_validator(mode="after")
    def search_ahead_names_launched_versions(self) -> Self:
        if self.pretrain.search_ahead > self.refresh.adopt_after_steps:
            raise ValueError(
                f"pretrain.search_ahead {self.pretrain.search_ahead} is more than refresh.adopt_after_steps "
                f"{self.refresh.adopt_after_steps}: a query would name a version not yet launched; lower search_ahead"
            )
        return self
