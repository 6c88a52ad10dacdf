"""Settings: files, recipes and overrides, and what a person reads when one is wrong."""

import json
from pathlib import Path

import pytest

from realm_ds.config.deepspeed import (
    check_deepspeed,
    load_deepspeed,
    needs_nvme,
    packaged_deepspeed,
    packaged_names,
    zero_stage,
)
from realm_ds.config.fields import explain, field_names, help_of
from realm_ds.config.load import dump, load
from realm_ds.config.recipes import recipe_names
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError

DATA = ["data.corpus=corpus", "data.tokenizer=tokenizer"]


def _file(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _refusal(source: str | Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, [*DATA, *overrides])
    return str(caught.value)


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_loads(recipe: str) -> None:
    config = load(recipe, DATA)
    assert isinstance(config, RealmConfig)
    for stage in (config.ict, config.pretrain, config.qa):
        assert stage.num_warmup_steps < stage.steps


def test_the_base_recipe_has_the_papers_settings() -> None:
    config = load("realm-base", DATA)
    assert (config.pretrain.steps, config.pretrain.learning_rate, config.pretrain.candidates) == (200_000, 3e-5, 8)
    assert (config.ict.steps, config.ict.learning_rate, config.ict.mask_rate) == (100_000, 1e-4, 0.9)
    assert (config.refresh.every_steps, config.model.projection_size) == (500, 128)
    assert 64 * config.pretrain.micro_batch_size == 512
    assert 64 * config.ict.micro_batch_size == 4096


def test_a_file_may_start_from_a_recipe(tmp_path: Path) -> None:
    config = load(_file(tmp_path, "recipe: demo\npretrain:\n  steps: 7\n"), DATA)
    assert config.pretrain.steps == 7
    assert config.model == load("demo", DATA).model


def test_overrides_win_and_are_typed(tmp_path: Path) -> None:
    path = _file(tmp_path, "ict: {steps: 3}\nindex.num_shards: 4\n")
    config = load(
        path, [*DATA, "ict.steps=9", "ict.learning_rate=1e-3", "runtime.trainers=null", "--index.factory=SQ8"]
    )
    assert (config.ict.steps, config.ict.learning_rate, config.index.num_shards) == (9, 1e-3, 4)
    assert (config.runtime.trainers, config.index.factory) == (None, "SQ8")


def test_relative_paths_belong_to_what_names_them(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    path = _file(tmp_path / "conf", "data: {corpus: ../shards, tokenizer: tok, pretrain: /abs}\n")
    config = load(path, ["model.start_from=bert"], cwd=tmp_path / "here")
    assert config.data.corpus == tmp_path / "shards"
    assert config.data.tokenizer == tmp_path / "conf" / "tok"
    assert config.data.pretrain == Path("/abs")
    assert config.model.start_from == tmp_path / "here" / "bert"


def test_an_encoder_is_a_folder_or_a_name_on_the_hub(tmp_path: Path) -> None:
    """An existing folder wins over a name; what cannot be a name is a path, so that its absence is told as such."""
    (tmp_path / "org" / "here").mkdir(parents=True)
    path = _file(tmp_path, "model: {encoder: org/here}")
    assert load(path, DATA).model.encoder == tmp_path / "org" / "here"
    for name in ("org/elsewhere", "bert-base-uncased"):
        config = load(path, [*DATA, f"model.encoder={name}"], cwd=tmp_path)
        assert config.model.encoder == name
        assert load(_file(tmp_path, dump(config), "config.yaml")).model.encoder == name
    for written in ("./elsewhere", "a/b/c", str(tmp_path / "none")):
        found = load(path, [*DATA, f"model.encoder={written}"], cwd=tmp_path).model.encoder
        assert found == tmp_path / written


def test_shards_may_be_elsewhere(tmp_path: Path) -> None:
    places = {
        "data.corpus": "pipe:ssh host cat /data/{name}",
        "data.pretrain": "s3://bucket/x/",
        "data.held_out": "held",
    }
    config = load(None, [f"{name}={place}" for name, place in places.items()] + ["data.tokenizer=t"], cwd=tmp_path)
    assert config.data.corpus == places["data.corpus"]
    assert config.data.pretrain_place == "s3://bucket/x/"
    assert config.data.held_out == tmp_path / "held"
    _file(tmp_path, dump(config), "config.yaml")
    assert load(tmp_path) == config


def test_a_command_must_take_the_name_of_a_shard() -> None:
    message = _refusal(None, "data.corpus=pipe:cat x", "data.tokenizer=t")
    assert message.startswith("data.corpus: 'pipe:cat x' runs one command whatever the file: write {name} where the")


def test_a_dumped_config_loads_to_the_same_and_a_run_folder_is_a_source(tmp_path: Path) -> None:
    config = load("demo", [*DATA, "ict.learning_rate=0.0001", "optimizer.eps=1e-12"])
    _file(tmp_path, dump(config), "config.yaml")
    assert load(tmp_path) == config
    assert dump(load(tmp_path)) == dump(config)


def test_an_unknown_key_has_a_place_and_a_hint(tmp_path: Path) -> None:
    path = _file(tmp_path, "pretrain:\n  steps: 5\n  micro_batch: 3\n")
    assert _refusal(path) == f"pretrain.micro_batch ({path}:3) is no setting; did you mean pretrain.micro_batch_size?"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("pretrain.stepz=1", "pretrain.steps"),
        ("num_shards=1", "index.num_shards"),
        ("pretrain.num_shards=1", "index.num_shards"),
        ("refresh.adopt_after=1", "refresh.adopt_after_steps"),
        ("batch_tokens=1", "index.embed_batch_tokens"),
    ],
)
def test_hints(wrong: str, hint: str) -> None:
    assert f"did you mean {hint}?" in _refusal(None, wrong)


def test_a_name_like_nothing_points_to_the_list() -> None:
    assert "`realm-ds config explain` lists them all" in _refusal(None, "xyzzy.quux=1")


def test_an_unknown_section_is_one_mistake(tmp_path: Path) -> None:
    path = _file(tmp_path, "pretraining:\n  steps: 5\n  candidates: 3\n")
    assert _refusal(path).startswith(f"pretraining ({path}:1) is no section of settings")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, "ict:\n  steps: 5\n  steps: 6\n")
    assert _refusal(path) == f"ict.steps is set twice, in {path}:2 and {path}:3; keep one"


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    path = _file(tmp_path, "index: {num_shards: 0}\nbogus: 1\n")
    text = _refusal(path, "ict.learning_rate=fast", "nothing")
    assert text.startswith("4 settings are wrong:\n")
    assert f"index.num_shards is 0 ({path}:1), but the input should be greater than or equal to 1" in text
    assert "ict.learning_rate is 'fast' (override 'ict.learning_rate=fast'), but the input should be" in text
    assert f"bogus ({path}:2) is no setting" in text
    assert "override 'nothing' is not of the form section.name=value" in text


def test_settings_that_do_not_fit_each_other() -> None:
    assert "adopt_after_steps 250 is more than every_steps 100" in _refusal(None, "refresh.every_steps=100")
    message = _refusal(None, "qa.refresh_passages=true")
    assert "refresh_passages needs index ranks that rebuild the index: set qa.index=sharded" in message
    assert "lower search_ahead" in _refusal(None, "pretrain.search_ahead=300")
    ahead = _refusal(None, "pretrain.retrieve_with=current")
    assert "search_ahead 2 would ask before they are there: set pretrain.search_ahead=0" in ahead
    assert "hidden_size 768 is not a multiple of num_heads 7" in _refusal(None, "model.num_heads=7")


def test_a_missing_setting_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"data\.tokenizer is missing \(Folder of a .*give it .*data.tokenizer=VALUE"):
        load(None, ["data.corpus=x"])
    with pytest.raises(ConfigError, match=r"2 settings are wrong:\n  data\.corpus is missing \("):
        load(None)


def test_a_section_is_not_a_value() -> None:
    assert "model (override 'model=3') is a section of settings, not a value: 3" in _refusal(None, "model=3")


def test_unreadable_configs(tmp_path: Path) -> None:
    assert "no config 'dmo'" in _refusal("dmo")
    assert "did you mean demo?" in _refusal("dmo")
    path = _file(tmp_path, "ict: [1,\n")
    assert f"{path}:2 is not YAML" in _refusal(path)
    assert "holds no settings" in _refusal(_file(tmp_path, "- 1\n"))
    assert "recipe 'demos' (" in _refusal(_file(tmp_path, "recipe: demos\n"))
    path.write_bytes(b"\xff\xfe\x00")
    assert f"cannot read the config {path}" in _refusal(path)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(_file(tmp_path, "# nothing\n"), DATA).pretrain.steps == 200_000


def test_every_setting_is_explained_with_its_default() -> None:
    text = explain()
    for name in field_names():
        assert f"  {name}: " in text
    assert "pretrain.marginal: joint | per_token, default joint" in text
    assert "data.corpus: path or text, required" in text
    assert "runtime.trainers: whole number at least 1 or null, default null" in text
    assert "Optimizer steps." in explain("pretrain")
    assert "qa.answered: list of dev | test, default [dev, test]" in explain("qa.answered")
    assert "ict.steps" not in explain("pretrain")
    assert help_of(("qa", "learning_rate")).startswith("Peak learning rate")
    with pytest.raises(ConfigError, match="did you mean pretrain.steps"):
        explain("pretrain.stepz")


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_deepspeed_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name says what is in the file."""
    monkeypatch.setenv("REALM_NVME", "/scratch")
    settings = load_deepspeed(Path(name))
    assert settings == load_deepspeed(packaged_deepspeed(name))
    assert zero_stage(settings) == int(name[4])
    assert settings["bf16"]["enabled"] == ("bf16" in name)
    assert settings["fp16"]["enabled"] == ("fp16" in name)
    assert ("offload_optimizer" in settings["zero_optimization"]) == ("offload" in name or "nvme" in name)
    assert needs_nvme(settings) == ("nvme" in name)
    readme = (Path(__file__).parents[2] / "ds_configs" / "README.md").read_text()
    assert f"`{name}`" in readme


def test_null_is_the_packaged_zero2() -> None:
    assert load_deepspeed(None) == load_deepspeed(Path("zero2"))


def test_a_shape_is_named_or_is_a_path(tmp_path: Path) -> None:
    config = load(None, [*DATA, "runtime.deepspeed=zero3-bf16"], cwd=tmp_path)
    assert config.runtime.deepspeed == Path("zero3-bf16")
    _file(tmp_path, dump(config), "config.yaml")
    assert load(tmp_path) == config, "a run folder names it too: packages move"
    for path in ("mine.json", "./zero3-bf16"):
        assert load(None, [*DATA, f"runtime.deepspeed={path}"], cwd=tmp_path).runtime.deepspeed == tmp_path / path
    with pytest.raises(ConfigError) as caught:
        load_deepspeed(Path("zero3-bf61"))
    message = str(caught.value)
    assert message.startswith("runtime.deepspeed=zero3-bf61 is no packaged shape, did you mean zero3-bf16? there are ")
    assert ", ".join(packaged_names()) in message
    with pytest.raises(ConfigError, match=r"qqqq is no packaged shape: there are .* as a path, such as \./qqqq\.json"):
        load_deepspeed(Path("qqqq"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer.clip=local", "runtime.deepspeed=zero2"],
            "optimizer.clip=local needs each trainer's whole gradient, but runtime.deepspeed=zero2 is ZeRO 2, which "
            "divides it: choose runtime.deepspeed=zero1, or optimizer.clip=global",
        ),
        (["optimizer.clip=local"], "but runtime.deepspeed=zero2 is ZeRO 2"),
        (
            ["runtime.compile=true", "runtime.deepspeed=zero3-bf16"],
            "runtime.compile=true cannot go with runtime.deepspeed=zero3-bf16: ZeRO 3 gathers weights inside",
        ),
    ],
)
def test_settings_that_deepspeed_cannot_do(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_deepspeed(load(None, [*DATA, *overrides]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer.clip=local", "runtime.deepspeed=zero1"],
        ["optimizer.clip=local", "optimizer.clip_norm=0", "runtime.deepspeed=zero3"],
        ["runtime.compile=true"],
    ],
)
def test_settings_that_deepspeed_can_do(overrides: list[str]) -> None:
    check_deepspeed(load(None, [*DATA, *overrides]))


@pytest.mark.parametrize(
    "more", [{"zero_optimization": {"stage": 1, "overlap_comm": True}}, {"data_types": {"grad_accum_dtype": "fp32"}}]
)
def test_local_clipping_sees_gradients_before_they_are_combined(tmp_path: Path, more: dict) -> None:
    path = _file(tmp_path, json.dumps({"zero_optimization": {"stage": 1}, **more}), "ds.json")
    config = load(None, [*DATA, f"runtime.deepspeed={path}", "optimizer.clip=local"])
    with pytest.raises(ConfigError, match="sets overlap_comm or data_types, with which .*set optimizer.clip=global"):
        check_deepspeed(config)


def test_folders_to_offload_to_may_be_named_by_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REALM_NVME", raising=False)
    nvme = next(name for name in packaged_names() if "nvme" in name)
    with pytest.raises(
        ConfigError, match=r"nvme_path is '\$REALM_NVME', but REALM_NVME is not set: export REALM_NVME="
    ):
        load_deepspeed(Path(nvme))
    monkeypatch.setenv("REALM_NVME", "/scratch/42")
    assert load_deepspeed(Path(nvme))["zero_optimization"]["offload_param"]["nvme_path"] == "/scratch/42"
    zero = {"stage": 3, "offload_optimizer": {"device": "nvme"}}
    path = _file(tmp_path, json.dumps({"zero_optimization": zero}), "ds.json")
    with pytest.raises(ConfigError, match="offload_optimizer.nvme_path is '', but must be a whole path: name a folder"):
        load_deepspeed(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_batch_size": 8}, "remove 'train_batch_size', it is set by trainers x STAGE.micro_batch_size"),
        ({"optimizer": {}}, "remove 'optimizer', it is set by the section optimizer"),
        ({"scheduler": {}}, "it is set by STAGE.learning_rate, STAGE.warmup_steps and STAGE.steps"),
        ({"gradient_clipping": 1.0}, "it is set by optimizer.clip_norm"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4, but must be 0, 1, 2 or 3"),
        ({"zero_optimization": 2}, "zero_optimization.stage is 2, but must be"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "bf16 and fp16 are both enabled"),
        ({"zero_optimization": {"stage": 1, "reduce_bucket_size": "auto"}}, "reduce_bucket_size is 'auto'"),
        ({"fp16": {"enabled": True}}, "fp16 with zero_optimization.stage 0 is trained without loss scaling"),
        ({"activation_checkpointing": {}}, "it is set by runtime.activation_checkpointing"),
        ({"compile": {"deepcompile": True}}, "it is set by runtime.compile"),
        ({"checkpoint": {"load_universal": True}}, "by STAGE.save_every_steps, runtime.keep_last and --resume"),
        ({"zero_force_ds_cpu_optimizer": True}, "it is set by optimizer.kind"),
        ({"gradient_allreduce_op": "sum"}, "it is set by the objectives, whose losses are means over trainers"),
        ({"elasticity": {}}, "remove 'elasticity', there is nothing here that it could work on"),
        ({"zero_optimisation": {}}, "DeepSpeed knows no key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        ({"zero_optimization": {"stage": 1, "overlap_com": True}}, "no key 'zero_optimization.overlap_com'; did you"),
        ({"zero_optimization": {"offload_param": {"devise": "cpu"}}}, "mean 'zero_optimization.offload_param.device'?"),
        ({"bf16": {"enable": True}}, "DeepSpeed knows no key 'bf16.enable'; did you mean 'bf16.enabled'?"),
        ([], "must hold one JSON object, not a list"),
    ],
)  # fmt: skip
def test_deepspeed_settings_that_are_refused(tmp_path: Path, settings: object, message: str) -> None:
    path = _file(tmp_path, json.dumps(settings), "ds.json")
    with pytest.raises(ConfigError) as caught:
        load_deepspeed(path)
    assert f"runtime.deepspeed={path}" in str(caught.value)
    assert message in str(caught.value)


def test_keys_that_the_engine_owns_pass_and_so_do_a_later_deepspeeds(tmp_path: Path) -> None:
    settings = {"zero_optimization": {"stage": 1, "of_next_year": 1}, "communication_data_type": "fp32",
                "prescale_gradients": True, "data_types": {"grad_accum_dtype": "fp32"}, "of_next_year": {}}  # fmt: skip
    assert load_deepspeed(_file(tmp_path, json.dumps(settings), "ds.json")) == settings


def test_deepspeed_settings_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read runtime.deepspeed="):
        load_deepspeed(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_deepspeed(_file(tmp_path, "{", "ds.json"))
