"""Settings of the stages of training and of what is measured meanwhile. The text under a field is its help."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from realm_ds.config.base import AnswerBy, Count, MarginalForm, MaskingKind, Probability, Rate, Section, Steps
from realm_ds.errors import ConfigError


class ModuleRates(Section):
    """Peak learning rates of single modules, where they are not the stage's learning_rate (null)."""

    towers: Rate | None = None
    """Of both towers, but for their projections."""
    projection: Rate | None = None
    """Of the towers' projections and their LayerNorms; null takes that of the towers."""
    encoder: Rate | None = None
    """Of the knowledge-augmented encoder, in fine-tuning the reader's."""
    head: Rate | None = None
    """Of what stands on top of the encoder: the masked-language-model head, in fine-tuning by spans their scorer. null
    takes that of the encoder."""


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
    rates: ModuleRates = ModuleRates()
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Linear warm-up; null takes BERT's min(10000, max(100, steps / 10))."""
    save_every_steps: Steps
    """Write a checkpoint at every multiple of this step, and at the end."""
    log_every_steps: Steps = 10
    """Write metrics at every multiple of this step."""

    @property
    def num_warmup_steps(self) -> int:
        """`warmup_steps`, or BERT's."""
        return min(10_000, max(100, self.steps // 10)) if self.warmup_steps is None else self.warmup_steps


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
    symmetric: bool = False
    """Also find each passage's sentence among those of the global batch; the loss is the mean of both directions."""
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
    save_every_steps: Steps = 1_000
    candidates: Annotated[int, Field(ge=2)] = 8
    """Candidates per query, the null passage included where there is one."""
    null_passage: bool = True
    """One candidate of each query is the empty passage (index 0), so that credit for a sentence that needs no knowledge
    has a place to go (section 3.4). Without it retrieval utility has nothing to be measured against."""
    temperature: Rate = 1.0
    """The relevance of every candidate is divided by it before the softmax; the paper has none."""
    marginal: MarginalForm = "joint"
    """joint: product over masked tokens, then sum over candidates (paper Eq. 1). per_token: Google's released code."""
    masking: MaskingKind = "salient"
    """salient: one salient span of x (section 3.4). bert: single wordpieces at random, mask_rate of them. random_span:
    one span anywhere, of random length. The latter two are the paper's ablations (Table 2)."""
    mask_rate: Annotated[float, Field(gt=0, le=1)] = 0.15
    """masking bert: share of the wordpieces that are predicted, at least one and at most data.max_masks."""
    remask: bool = True
    """Mask another part of x in every epoch; false: the same in all."""
    search_ahead: Annotated[int, Field(ge=0)] = 2
    """Steps between sending a query and needing its answer; hides the search behind training. At most
    refresh.adopt_after_steps. Results do not depend on it where queries come from the index's own snapshot; with
    retrieve_with current it is 0."""
    retrieve_with: Literal["snapshot", "current"] = "snapshot"
    """The query tower that chooses candidates. snapshot: that of the index's own weights, so that query and passage
    vectors go together. current: that of the weights as they are before the step, copied at every step; its search
    cannot hide behind training (search_ahead 0). Evaluation, probes and an auto schedule ask with the snapshot's either
    way: what they find in an index version is comparable between runs."""

    @property
    def num_retrieved(self) -> int:
        """Passages to find for each query."""
        return self.candidates - self.null_passage

    @model_validator(mode="after")
    def current_weights_are_not_known_ahead(self) -> Self:
        if self.retrieve_with == "current" and self.search_ahead:
            raise ValueError(
                f"retrieve_with current searches with the weights of the step itself, and search_ahead "
                f"{self.search_ahead} would ask before they are there: set pretrain.search_ahead=0"
            )
        return self


class EvaluateConfig(Section):
    """What pre-training measures, while it goes on, on sentences and questions that it never trains on."""

    every_steps: Steps | None = None
    """Measure at every multiple of this step, and at the end; null: never. Needs data.held_out, questions, or both."""
    examples: Count = 256
    """Sentences of data.held_out, over all trainers: marginal likelihood, retrieval utility, null share, entropy. Which
    ones, and what is masked in them, is the same for every run, whatever its seed."""
    questions: Path | None = None
    """JSONL file of {"question", "answers"} records: recall@k in the live index, before any fine-tuning. Right is a
    passage of the record's gold_uids or, where it has none, one whose body holds an answer."""
    max_questions: Count = 512
    """At most so many of them, the first of the file."""
    probes: Path | None = None
    """JSONL file of {"question"} records, statements with [MASK] or questions: what every index version finds for them
    is recorded, for `realm-ds report`. With "answers" or "gold_uids" it is also told what is right. null takes the
    first of `questions` and of data.held_out."""
    num_probes: Annotated[int, Field(ge=0)] = 6
    """At most so many; 0: none. They take some milliseconds of the step in which a version is adopted."""
    keep_best: bool = True
    """Keep the models with the highest retrieval utility yet in RUN/best, as Google's trainer did (not the lowest
    loss). Without a null passage the likelihood decides, without data.held_out recall@5. best.json says which."""


class QaConfig(StageConfig):
    """Fine-tuning on open-domain questions: reader and query tower (ORQA section 5), passage vectors frozen unless
    refresh_passages."""

    data: Path | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl of {"question", "answers"} records."""
    steps: Steps = 10_000
    micro_batch_size: Count = 4
    learning_rate: Rate = 1e-5
    save_every_steps: Steps = 1_000
    question_tokens: Count = 64
    """Longest question, [CLS] q [SEP]."""
    answer_by: AnswerBy = "span"
    """span: an answer is a span of a passage that is read, found by a span scorer that starts anew (ORQA). masked_word:
    it is one wordpiece, named at a [MASK] after the question by the pre-trained encoder and its own head, p(y|q) = the
    sum over the passages read of p(z|q) p(y|z, q), as in pre-training. Questions that no one wordpiece answers are left
    out of its training, and are wrong in its evaluation, which also tells the scores of the others. A question with a
    [MASK] of its own is answered there."""
    retrieve: Count = 5000
    """Passages scored by the early-update retriever loss."""
    read: Count = 5
    """Passages read for the answer."""
    read_one_with_answer: bool = False
    """While training, where none of the passages to read holds an answer, read the best retrieved that does in place
    of the last. ORQA does not; a retriever that starts weak leaves its reader nothing to learn from otherwise."""
    max_span_tokens: Count = 10
    """answer_by span: the widest."""
    answered: tuple[Literal["dev", "test"], ...] = ("dev", "test")
    """Splits whose questions are answered once training is over; nothing is chosen by either. [dev] leaves the test
    questions unseen while settings are still being chosen."""
    span_hidden_size: Count = 256
    """answer_by span: width of the span scorer."""
    index: Literal["in_process", "sharded"] = "in_process"
    """in_process: every trainer holds the corpus and its vectors, and searches all of them. sharded: index ranks stand
    beside the trainers as in pre-training (section index); for corpora that one process cannot hold or search."""
    refresh_passages: bool = False
    """Train the passage tower too, by the passages that are read, and rebuild the index meanwhile, as section refresh
    says; questions are answered from a last version, of the trained tower. REALM did not, and supposed that it would
    help (section 3.3). Needs index sharded."""

    @model_validator(mode="after")
    def refreshed_by_index_ranks(self) -> Self:
        if self.refresh_passages and self.index == "in_process":
            raise ValueError("refresh_passages needs index ranks that rebuild the index: set qa.index=sharded")
        return self

    @property
    def folder(self) -> Path:
        """`data`, which has no default. Raises ConfigError if it is not set."""
        if self.data is None:
            raise ConfigError("qa.data is not set: name the folder of train.jsonl, dev.jsonl and test.jsonl")
        return self.data
