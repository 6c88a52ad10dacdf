"""Settings of the index and of its refresh. The text under a field is its help."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from realm_ds.config.base import Count, Seconds, Section, Steps


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
    exclude: Literal["passage", "article", "nothing"] = "passage"
    """What is never retrieved for a sentence: the passage that it was cut from, or all of that passage's article.
    nothing: its own passage may be found, in which the answer can be copied without any knowledge (section 3.4)."""
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
    embed_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers in which index and builder ranks compute passage vectors; they are kept as `vectors` says. On GPUs bf16,
    of which an H100 does 15 times as many products a second. It rounds which candidates are found, not the loss, which
    embeds these anew."""
    snapshot_chunk_bytes: Count = 4 * 2**20
    """Snapshots, and vectors of builder ranks, travel in messages of at most this size, between searches."""
    build_timeout_s: Seconds = 3600.0
    """No answer is waited for longer than this, a rebuild that it needs included, nor the export at the end of
    fine-tuning; a rank that dies is noticed by the launcher long before."""
