"""The study of ablations as a graph: its rows and cells, the folders they need, what makes those."""

from pathlib import Path
from typing import Any

import pytest

from realm_ds.ablate.parts import EXPORT, parts_of
from realm_ds.ablate.variants import VARIANTS, Grid, choose, choose_cell
from realm_ds.config.load import load
from realm_ds.errors import ConfigError
from tests.support.ablated import cell

OUT = Path("/study")
PREPARE = [("prepare", "demo", "/study/data")]


def base_config(**changes: str) -> Any:
    names = ("corpus", "pretrain", "tokenizer")
    given = [f"{section.replace('_', '.', 1)}={value}" for section, value in changes.items()]
    return load("ablate", [*(f"data.{name}=/study/data/{name}" for name in names), "qa.data=/study/data/qa", *given])


def test_every_part_comes_once_and_after_what_it_needs() -> None:
    parts = parts_of(Grid(seeds=3).cells, base=base_config(), out=OUT, data=PREPARE)
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    # Data, 3 warm starts, 9 rows that pre-train, 12 that are fine-tuned, with 3 seeds.
    assert len(names) == 1 + 3 + 3 * 9 + 3 * 12
    for place, part in enumerate(parts):
        assert set(part.needs) <= set(names[:place])
        if part.stage is not None:
            assert f"runtime.seed={part.name[-1]}" in part.commands[0]


def settings(name: str, *rows: str) -> list[str]:
    parts = parts_of([cell(row) for row in rows], base=base_config(), out=OUT, data=())
    words = next(part.commands[0] for part in parts if part.name == name)
    return [word for word in words if "=" in word and not word.startswith("runtime.seed")]


def test_a_row_differs_from_realm_in_what_it_is_named_for() -> None:
    ict, realm = f"/study/ict/seed-0/{EXPORT}", f"/study/pretrain/realm-seed-0/{EXPORT}"
    start = f"model.start_from={ict}"
    assert settings("pretrain/realm-seed-0", "realm") == [start]
    assert settings("pretrain/no-ict-seed-0", "no-ict") == [f"model.encoder_from={ict}"]
    every = base_config().refresh.every_steps
    assert settings("pretrain/stale-seed-0", "stale") == [start, f"refresh.every_steps={30 * every}"]
    assert settings("pretrain/trivial-seed-0", "trivial") == [start, "index.exclude=nothing"]
    assert settings("qa/baseline-seed-0", "baseline") == [start]
    assert settings("qa/realm-retriever-seed-0", "realm-retriever") == [
        f"model.start_from={realm}", f"model.encoder_from={ict}",
    ]  # fmt: skip
    assert settings("qa/realm-encoder-seed-0", "realm-encoder") == [start, f"model.encoder_from={realm}"]


def test_all_rows_are_settings_that_go_together() -> None:
    base, data = base_config(), ["data.corpus=c", "data.tokenizer=t"]
    for variant in VARIANTS:
        overrides = variant.overrides(base)
        assert (load("ablate", [*data, *overrides]) != load("ablate", data)) == bool(overrides), variant.name


def test_a_mix_alone_brings_realm_with_it_and_the_baseline_no_pretraining() -> None:
    of_mix = parts_of([cell("realm-encoder")], base=base_config(), out=OUT, data=())
    assert [part.name for part in of_mix] == ["ict/seed-0", "pretrain/realm-seed-0", "qa/realm-encoder-seed-0"]
    of_baseline = parts_of([cell("baseline")], base=base_config(), out=OUT, data=())
    assert [part.name for part in of_baseline] == ["ict/seed-0", "qa/baseline-seed-0"]


def test_only_models_that_no_other_row_starts_from_are_released() -> None:
    parts = parts_of(Grid(seeds=1).cells, base=base_config(), out=OUT, data=())
    released = [name for part in parts for name in part.releases]
    for name in released:
        assert [part.name for part in parts if name in part.needs] == [f"qa/{name.removeprefix('pretrain/')}"]
    assert "pretrain/realm-seed-0" not in released
    assert "ict/seed-0" not in released


def test_an_interval_that_is_no_number_cannot_be_multiplied() -> None:
    base = base_config(refresh_every_steps="auto")
    with pytest.raises(ConfigError, match=r"row stale .* 30 times less often.*refresh\.every_steps=auto.*give one"):
        parts_of([cell("stale")], base=base, out=OUT, data=())


def test_rows_and_cells_by_name() -> None:
    assert [variant.name for variant in choose("stale, realm")] == ["realm", "stale"]
    assert choose(None) == VARIANTS
    cells = Grid(variants=choose("realm,stale"), seeds=2).cells
    assert [str(one) for one in cells] == ["realm:0", "realm:1", "stale:0", "stale:1"]
    assert choose_cell("3", cells) == cells[3]
    assert choose_cell("uniform:7", cells) == cell("uniform", 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4", "--cell 4: the study has 4 cells, 0 to 3"),
        ("realm", "--cell 'realm': write ROW:SEED, such as realm:0, or a number below 4"),
        ("stail:0", "there is no row 'stail' in the study: .*did you mean stale?"),
    ],
)
def test_cells_that_are_not_there(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        choose_cell(text, Grid(variants=choose("realm,stale"), seeds=2).cells)


def test_no_row_at_all() -> None:
    with pytest.raises(ConfigError, match="--only ' , ' names no row: give some of realm, "):
        choose(" , ")


def test_a_grid_is_only_ever_widened() -> None:
    wide = Grid(variants=choose("stale,uniform"), seeds=5).with_all_of(Grid(variants=choose("realm,stale"), seeds=2))
    assert wide == Grid(variants=choose("realm,uniform,stale"), seeds=5)
