"""What every section of settings is made of. The sections themselves are schema.py's, stages.py's and index.py's."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

StageName = Literal["ict", "pretrain", "qa"]
"""Stages of training; each has the section of settings of its name."""
MarginalForm = Literal["joint", "per_token"]
"""Where the sum over candidates is taken (PretrainConfig.marginal)."""
MaskingKind = Literal["salient", "bert", "random_span"]
"""Which part of x is hidden (PretrainConfig.masking)."""
AnswerBy = Literal["span", "masked_word"]
"""What an answer to a question is (QaConfig.answer_by)."""

TrackerName = Literal["none", "wandb", "mlflow"]
"""Where metrics can go beside the run folder."""

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
