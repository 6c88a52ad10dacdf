"""Every setting of a run, typed, checked and explained. Reading files and overrides is load.py's business.

The text under a field is its help: `realm-ds config` prints it, so it must teach.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

StageName = Literal["ict", "pretrain", "qa"]
"""Stages of training; each has the section of settings of its name."""

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(Section):
    """Where the shards are, and how long sequences may be (wordpieces, special tokens included)."""

    corpus: Path
    """Folder of corpus tar shards (Z): the passages that are indexed."""
    pretrain: Path | None = None
    """Folder of pre-training tar shards (X): sentences with salient spans."""
    tokenizer: Path
    """Folder of a transformers WordPiece tokenizer, the one the shards were made with."""
    query_tokens: Count = 96
    """Longest query, [CLS] x [SEP]; longer sentences are skipped if a mask would be cut off."""
    passage_tokens: Count = 288
    """Longest passage, [CLS] title [SEP] body [SEP]; the joint sequence is at most the sum of both."""
    max_masks: Count = 10
    """Masked wordpieces of one example that count in the loss; spans of more are masked but not scored beyond this."""

    @property
    def joint_tokens(self) -> int:
        """Wordpieces of the longest joint sequence, x and a passage."""
        return self.query_tokens + self.passage_tokens


class ModelConfig(Section):
    """The two towers and the knowledge-augmented encoder, all BERT-like."""

    encoder: Path | None = None
    """Folder of a BERT-like transformers model to start all three encoders from; null builds one of the sizes below."""
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
    projection_norm_eps: Rate = 1e-12
    """Epsilon of the projection's LayerNorm: 1e-12 as the released embedder and Hugging Face, 1e-3 as open ICT code."""
    start_from: Path | None = None
    """Export folder of an earlier run (ict, pretrain) whose weights to start from; overrides `encoder`."""

    @model_validator(mode="after")
    def heads_divide_hidden(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self


class OptimizerConfig(Section):
    """AdamW; the learning rate and its schedule belong to each stage."""

    beta1: Probability = 0.9
    beta2: Probability = 0.999
    eps: Rate = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled; biases and LayerNorms are excluded."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Global gradient norm, clipped after gradients are combined over trainers; 0 turns clipping off."""


class StageConfig(Section):
    """What every stage of training shares."""

    steps: Steps
    """Optimizer steps."""
    micro_batch_size: Count
    """Examples per trainer in one forward pass."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimizer step: global batch = trainers x micro batch x this."""
    learning_rate: Rate
    """Peak learning rate, reached after warm-up, then falling linearly to 0 at the last step."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Linear warm-up; null takes BERT's min(10000, max(100, steps / 10))."""
    save_every_steps: Steps
    """Write a checkpoint at every multiple of this step, and at the end."""
    log_every_steps: Steps = 10
    """Write metrics at every multiple of this step."""


class IctConfig(StageConfig):
    """Warm start: inverse cloze for the towers, masked prediction with its own passage at hand for the encoder."""

    steps: Steps = 100_000
    micro_batch_size: Count = 64
    learning_rate: Rate = 1e-4
    save_every_steps: Steps = 5_000
    mask_rate: Probability = 0.9
    """Share of examples whose sentence is removed from its passage (REALM appendix, ORQA section 3)."""
    passages_per_article: Count = 1
    """Passages of one article placed together in a batch: negatives that the title alone cannot tell apart."""
    keep_single_sentences: bool = False
    """Where a passage is one sentence and that is removed, keep its title as the passage; else such examples are
    skipped, as in Google's release. For corpora of short passages, which would otherwise hardly be trained on."""
    query_dropout: Probability = 0.0
    """Each query loses its wordpieces at a rate drawn uniformly from 0 to this: matching must not hang on few words."""
    encoder_learning_rate: Rate | None = None
    """Peak learning rate of the encoder's warm-up; null takes learning_rate."""
    warmup_micro_batch_size: Count | None = None
    """Sentences per trainer in one forward pass of the encoder's warm-up; null takes micro_batch_size."""
    warmup_mask_rate: Probability = 0.0
    """In the encoder's warm-up, further wordpieces of x are masked and predicted, at a rate drawn uniformly from 0 to
    this: more to copy in every example."""
    encoder_warmup: bool = False
    """Also train the knowledge-augmented encoder: predict x's masked span with x's own passage at hand. A start from
    scratch needs it (an encoder that cannot copy gives the retriever noise); a start from BERT does not."""


class PretrainConfig(StageConfig):
    """REALM's objective: marginal likelihood of the masked span over retrieved candidates (paper section 3)."""

    steps: Steps = 200_000
    micro_batch_size: Count = 8
    learning_rate: Rate = 3e-5
    retriever_learning_rate: Rate | None = None
    """Peak learning rate of the towers; null takes learning_rate, which is the encoder's."""
    save_every_steps: Steps = 1_000
    candidates: Annotated[int, Field(ge=2)] = 8
    """Candidates per query, the null passage (index 0) included."""
    marginal: Literal["joint", "per_token"] = "joint"
    """joint: product over masked tokens, then sum over candidates (paper Eq. 1). per_token: Google's released code."""
    search_ahead: Annotated[int, Field(ge=0)] = 2
    """Steps between sending a query and needing its answer; hides the search behind training. At most
    refresh.adopt_after_steps. Results do not depend on it: queries come from the index's own snapshot."""


class RefreshConfig(Section):
    """When the index is rebuilt. An index version is a function of the step, so runs are reproducible."""

    every_steps: Steps | Literal["auto"] = 500
    """Launch a rebuild from a fresh snapshot at every multiple of this step. auto: begin with shortest_steps, then
    lengthen or shorten the interval after each adoption so that target_change of the hits change from one version to
    the next; decided from what all trainers measured together, so as reproducible as a fixed interval."""
    adopt_after_steps: Steps = 250
    """Use the rebuilt index this many steps after its launch; trainers wait if it is late."""
    target_change: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """every_steps auto: the share of the probe queries' hits that should differ between two versions."""
    shortest_steps: Steps = 250
    """every_steps auto: the first interval, and the shortest later on; at least adopt_after_steps."""
    longest_steps: Steps = 2000
    """every_steps auto: no interval is longer."""
    probe_queries: Annotated[int, Field(ge=0)] = 32
    """Sentences of each trainer, the same for the whole run, that are searched in every version at its adoption to tell
    how much of the hits has changed; 0 measures nothing."""
    snapshot_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers in which weights travel to the index ranks and are kept on disk, a version's query tower included: the
    16-bit ones halve both."""

    @property
    def first_interval(self) -> int:
        """Steps between the launches of versions 0 and 1."""
        return self.shortest_steps if self.every_steps == "auto" else self.every_steps

    @model_validator(mode="after")
    def adopted_before_the_next(self) -> Self:
        if self.adopt_after_steps > self.first_interval:
            name = "shortest_steps" if self.every_steps == "auto" else "every_steps"
            raise ValueError(
                f"adopt_after_steps {self.adopt_after_steps} is more than {name} {self.first_interval}: "
                "a third version would be alive at once; lower it"
            )
        return self

    @model_validator(mode="after")
    def auto_can_decide(self) -> Self:
        if self.every_steps == "auto" and not self.probe_queries:
            raise ValueError("every_steps auto decides by what probe_queries tell, and these are 0; set some")
        if self.every_steps == "auto" and self.shortest_steps > self.longest_steps:
            raise ValueError(
                f"shortest_steps {self.shortest_steps} is more than longest_steps {self.longest_steps}: raise that one"
            )
        return self


class IndexConfig(Section):
    """The sharded index of the corpus, one shard on each index rank."""

    num_shards: Count = 1
    """Index ranks; each holds one shard of the passages."""
    placement: Literal["per_node", "tail"] = "per_node"
    """per_node: the last local ranks of every node are index ranks, those before them builder ranks. tail: the last
    ranks of the world are."""
    builders: Annotated[int, Field(ge=0)] = 0
    """Further ranks that only embed passages, for clusters where embedding is the bottleneck of a rebuild; the shards
    then build and serve. 0: every shard embeds its own passages, beside serving."""
    factory: str = "Flat"
    """FAISS factory string of each shard, inner product: Flat, SQfp16, SQ8, IVF1024,Flat, IVF1024,PQ32,
    OPQ32,IVF64,PQ32, HNSW32. auto picks one by the size of the shard, and says why in the log."""
    search_parameters: str = "auto"
    """How wide an approximate index looks, as FAISS writes it: nprobe=32 or efSearch=64. auto: an eighth of the
    cells; efSearch 64."""
    vectors: Literal["fp32", "fp16"] = "fp32"
    """How exact vectors are kept, in memory and on disk. fp16 halves both, and rounds them before they are scored."""
    rerank: Annotated[int, Field(ge=0)] = 4
    """An approximate index fetches so many hits for each one asked for, and the exact vectors choose among them. 0
    takes the index's own order, and keeps no exact vectors in memory unless audit_every needs them."""
    train_passages: Count = 262_144
    """At most so many passages, drawn evenly, train the cells and codes of an approximate index."""
    audit_every: Annotated[int, Field(ge=0)] = 100
    """One search of so many is also done exactly for its first queries, off the critical path: `index_recall` in the
    metrics. Only where the index is approximate; 0 never."""
    exclude: Literal["passage", "article"] = "passage"
    """What is never retrieved for a sentence: the passage that it was cut from, or all of that passage's article."""
    most_shared: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Passages that hold more than this share of a sentence's n-grams are not retrieved for it either: near-duplicates
    of its own passage. 1 excludes nothing."""
    ngram: Annotated[int, Field(ge=1, le=512)] = 5
    """Wordpieces of such an n-gram: fewer make chance matches, more miss copies that were edited."""
    replies: Literal["auto", "whole", "two_phase"] = "auto"
    """whole: every shard sends the tokens of all its hits. two_phase: ids first, then each shard the tokens of those
    that won: fewer bytes with many shards, one more round trip. auto: two_phase where it saves enough bytes."""
    search_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of an index rank for searching; 0 takes all that the rank has. A rebuild runs beside and competes:
    where searches must not slow down meanwhile, let the two add up to the rank's cores."""
    build_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of an index or builder rank for rebuilding, beside those for searching; 0 takes all that it has."""
    embed_batch_tokens: Count = 2048
    """Padded wordpieces per forward pass while embedding passages. On a CPU more is slower, as what is computed no
    longer stays in its caches; a GPU wants 16384 and more."""
    snapshot_chunk_bytes: Count = 4 * 2**20
    """Snapshots, and vectors of builder ranks, travel in messages of at most this size, between searches."""
    build_timeout_s: Seconds = 3600.0
    """No answer is waited for longer than this, a rebuild that it needs included; a rank that dies is noticed by the
    launcher long before."""


class QaConfig(StageConfig):
    """Fine-tuning on open-domain questions: span reader and query tower, passage vectors frozen (ORQA section 5)."""

    data: Path | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl of {"question", "answers"} records."""
    steps: Steps = 10_000
    micro_batch_size: Count = 4
    learning_rate: Rate = 1e-5
    save_every_steps: Steps = 1_000
    question_tokens: Count = 64
    """Longest question, [CLS] q [SEP]."""
    retrieve: Count = 5000
    """Passages scored by the early-update retriever loss."""
    read: Count = 5
    """Passages read for answer spans."""
    read_one_with_answer: bool = False
    """While training, where none of the passages to read holds an answer, read the best retrieved that does in place
    of the last. ORQA does not; a retriever that starts weak leaves its reader nothing to learn from otherwise."""
    max_span_tokens: Count = 10
    """Widest answer span."""
    span_hidden_size: Count = 256


class RuntimeConfig(Section):
    """How the ranks of one run work together."""

    seed: int = 0
    trainers: Count | None = None
    """Trainers to start when realm-ds itself launches on this machine; null under srun, mpiexec or deepspeed, where
    every rank that is not an index rank trains."""
    deepspeed: Path | None = None
    """DeepSpeed JSON (ZeRO stage, offload, precision, communication); null is the packaged zero2.json."""
    threads_per_rank: Annotated[int, Field(ge=0)] = 0
    """CPU threads of each rank; 0 takes OMP_NUM_THREADS, else divides the machine's cores by the ranks on it."""
    wait_timeout_s: Seconds = 600.0
    """No wait for another rank is longer, but for answers of the index (index.build_timeout_s); what was waited for is
    in the error."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept."""


class RealmConfig(Section):
    """One run: what `config.yaml` in its folder holds."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ict: IctConfig = IctConfig()
    pretrain: PretrainConfig = PretrainConfig()
    refresh: RefreshConfig = RefreshConfig()
    index: IndexConfig = IndexConfig()
    qa: QaConfig = QaConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def search_ahead_names_launched_versions(self) -> Self:
        if self.pretrain.search_ahead > self.refresh.adopt_after_steps:
            raise ValueError(
                f"pretrain.search_ahead {self.pretrain.search_ahead} is more than refresh.adopt_after_steps "
                f"{self.refresh.adopt_after_steps}: a query would name a version not yet launched; lower search_ahead"
            )
        return self
