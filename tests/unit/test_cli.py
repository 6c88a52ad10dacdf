"""The command line: quick to start, plain about mistakes, and each verb hands on what it was given."""

import ast
import importlib.util
import json
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from realm_ds.cli import main as cli
from realm_ds.config.load import dump
from realm_ds.errors import CheckpointError
from tests.support.tiny import make_data, tiny_config

CLI = Path(cli.__file__).parent
DATA = ["data.corpus=corpus", "data.tokenizer=tokenizer"]
VERBS = (
    "", "demo", "prepare", "prepare demo", "prepare corpus", "prepare pretrain", "prepare qa", "prepare tokenizer",
    "prepare inspect", "ict", "pretrain", "qa", "qa train", "qa eval", "qa retrieval", "export", "config",
    "config explain", "config show", "submit", "why", "doctor", "bench", "bench search", "bench refresh", "bench scale",
    "bench data",
)  # fmt: skip


def _run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    """What the functions behind the verbs were called with; none of them runs."""
    seen: list[tuple[str, dict[str, object]]] = []

    def stand_in(name: str, result: object = None):
        def record(*arguments: object, **options: object) -> object:
            seen.append((name, {"arguments": arguments, **options}))
            return result

        return record

    def module(name: str, **functions: object) -> None:
        fake = types.ModuleType(name)
        vars(fake).update(functions)
        monkeypatch.setitem(sys.modules, name, fake)

    module(
        "realm_ds.launch.stages", show_stage=stand_in("show_stage"),
        stage_command=stand_in("stage_command", ["mpiexec", "-n", "4", "a b"]), check_inputs=stand_in("check_inputs"),
        check_run_folder=stand_in("check_run_folder"),
    )  # fmt: skip
    module("realm_ds.launch.demo", run_demo=stand_in("run_demo"), free_run_folder=lambda parent: parent / "demo-2")
    module("realm_ds.train.export", export_run=stand_in("export_run", Path("/out")))
    module(
        "realm_ds.factbook.prepare", prepare_demo=stand_in("prepare_demo", {}), check_is_free=stand_in("check_is_free")
    )  # fmt: skip
    module("realm_ds.bench.run", run_groups=stand_in("run_groups", 1))
    module("realm_ds.bench.search", search_groups=stand_in("search_groups", ["search"]))
    module(
        "realm_ds.bench.refresh", refresh_groups=stand_in("refresh_groups", ["refresh"]),
        TowerSize=lambda **sizes: sizes,
    )  # fmt: skip
    module("realm_ds.bench.scale", scale_groups=stand_in("scale_groups", ["scale"]))
    module("realm_ds.bench.qa", qa_groups=stand_in("qa_groups", ["scale"]))
    return seen


def test_the_option_that_deepspeed_puts_before_the_verb_does_not_hide_what_is_wrong(
    calls: list[tuple[str, dict[str, object]]],
) -> None:
    code, _, errors = _run("--local_rank=1", "pretrain", "--config", "demo-quick", *DATA)
    assert (code, errors) == (0, "")
    assert [name for name, _ in calls] == ["show_stage"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    code, out, _ = _run(*verb.split(), "--help")
    assert code == 0
    assert "Usage: " in out
    lines = pairwise([*out.splitlines(), ""])
    undocumented = [
        line for line, following in lines
        if line.strip().startswith("--") and len(line.split()) < 3 and not following.startswith(" " * 10)
    ]  # fmt: skip
    assert undocumented == []


def test_help_starts_without_heavy_libraries() -> None:
    heavy = ["torch", "deepspeed", "transformers", "faiss", "mpi4py", "numpy", "webdataset", "pydantic"]
    program = (
        "import sys; sys.argv = ['realm-ds', '--help']\n"
        "from realm_ds.cli.main import main\n"
        "try: main()\n"
        f"except SystemExit: print('LOADED', [name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "realm-ds demo" in result.stdout
    assert result.stdout.splitlines()[-1] == "LOADED []"


def test_settings_are_shown_without_torch() -> None:
    program = (
        "import sys; sys.argv = ['realm-ds', 'config', 'explain']\n"
        "from realm_ds.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print('LOADED', [name for name in ('torch', 'numpy', 'mpi4py') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "pretrain.candidates: whole number at least 2, default 8" in result.stdout
    assert result.stdout.splitlines()[-1] == "LOADED []"


def test_a_launcher_loads_no_model_library(tmp_path: Path) -> None:
    """Up to mpiexec, here a program that ends at once: it looks at data and settings, and the ranks do the rest."""
    make_data(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_config(tmp_path)))
    heavy = ["torch", "deepspeed", "transformers", "tensorboard", "matplotlib", "pandas", "scipy", "pyarrow"]
    program = (
        "import sys, realm_ds.launch.local as local\n"
        f"sys.argv = ['realm-ds', 'pretrain', '--config', {str(config)!r}, '--run', {str(tmp_path)!r}]\n"
        "local.world_command = lambda *arguments, **options: ['true']\n"
        "from realm_ds.cli.main import main\n"
        "try: main()\n"
        f"except SystemExit: print('LOADED', [name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1:] == ["LOADED []"], result.stderr
    assert (tmp_path / "logs" / "world.log").is_file()  # it came as far as to start ranks


def test_every_function_behind_a_verb_exists() -> None:
    trees = [ast.parse(path.read_text()) for path in CLI.glob("*.py")]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [
        (node.module, alias.name) for node in imports if node.module.startswith("realm_ds.") for alias in node.names
    ]
    assert ours
    for module, name in ours:
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"cli imports {module}, which is not there"
        tree = ast.parse(Path(spec.origin).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        assigned += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        names |= {name.id for target in assigned for name in ast.walk(target) if isinstance(name, ast.Name)}
        assert name in names, f"cli imports {name} from {module}, which has none"


@pytest.mark.parametrize(("verb", "stage"), [("ict", "ict"), ("pretrain", "pretrain"), ("qa train", "qa")])
def test_stages_are_launched_with_the_settings_asked_for(calls, tmp_path: Path, verb: str, stage: str) -> None:
    arguments = [*verb.split(), "-c", "demo", "--run", str(tmp_path), "--resume", *DATA, f"{stage}.steps=7"]
    assert _run(*arguments)[0] == 0
    ((name, options),) = calls
    assert name == "show_stage"
    assert options["arguments"] == (stage,)
    assert (options["run_folder"], options["resume"]) == (tmp_path, True)
    assert getattr(options["load_config"](), stage).steps == 7


def test_a_run_folder_has_its_settings_already(calls, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {corpus: c, tokenizer: t}\npretrain: {steps: 11}\n")
    assert _run("pretrain", "--run", str(tmp_path), "--resume")[0] == 0
    assert calls[0][1]["load_config"]().pretrain.steps == 11


def test_a_folder_without_a_run_cannot_be_resumed(calls, tmp_path: Path) -> None:
    code, _, err = _run("pretrain", "--run", str(tmp_path / "none"), "--resume")
    assert (code, calls) == (2, [])
    assert "none holds no run to resume: start it without --resume" in err


def test_a_new_run_folder_wants_settings(tmp_path: Path) -> None:
    for options in ([], ["--dry-run"]):
        code, _, err = _run("ict", "--run", str(tmp_path / "new"), *DATA, *options)
        assert (code, (tmp_path / "new").exists()) == (2, False)
        assert err.endswith(
            "new is no run yet: name its settings with --config: a YAML file or a recipe (realm-base is the paper's "
            "model and wants GPUs, demo a small one, demo-quick a tiny one)\n"
        )


def test_a_dry_run_starts_nothing(calls, tmp_path: Path) -> None:
    code, out, _ = _run("pretrain", "-c", "demo", "--run", str(tmp_path / "new"), "--dry-run", *DATA)
    assert code == 0
    assert [name for name, _ in calls] == ["stage_command", "check_inputs", "check_run_folder"]
    assert "candidates: 8" in out
    assert "# mpiexec -n 4 'a b'" in out
    assert not (tmp_path / "new").exists()


def test_the_other_verbs_hand_on_their_options(calls, tmp_path: Path) -> None:
    run = str(tmp_path)
    assert _run("demo", "--run", run, "--seed", "3", "--quick")[0] == 0
    assert _run("export", "--run", run, "--step", "40")[1] == "exported to /out\n"
    assert _run("prepare", "demo", run, "--seed", "5")[0] == 0
    demo, export, check, prepare = calls
    assert demo == ("run_demo", {"arguments": (tmp_path,), "seed": 3, "quick": True, "overrides": [], "resume": False})
    assert (export[1]["step"], export[1]["out"], export[1]["verify"]) == (40, None, False)
    assert check == ("check_is_free", {"arguments": (tmp_path,)})
    assert (prepare[1]["arguments"], prepare[1]["seed"]) == ((tmp_path,), 5)


def test_settings_can_be_looked_at(tmp_path: Path) -> None:
    code, out, _ = _run("config", "show", "demo-quick", *DATA, "ict.steps=3")
    assert code == 0
    assert "  steps: 3\n" in out
    code, out, _ = _run("config", "show", "demo-quick", "data.query_tokens=70")
    assert code == 0
    assert out.startswith("# a run needs besides: data.corpus, data.tokenizer\ndata:\n  pretrain: null\n")
    assert "  query_tokens: 70\n" in out
    assert _run("config", "show", "demo-quick", "data.query_token=70")[0] == 2
    assert "qa.retrieve" in _run("config", "explain", "qa")[1]


def test_scores_are_read_back(tmp_path: Path) -> None:
    run = str(tmp_path)
    code, _, err = _run("qa", "eval", "--run", run, "--split", "dev")
    assert code == 1
    assert err.startswith(f"realm-ds: no scores in {tmp_path / 'qa' / 'dev.json'}: `realm-ds qa train --run ")
    (tmp_path / "qa").mkdir()
    for text, complaint in (("{", "is damaged"), ("[]", "holds no scores but a list")):
        (tmp_path / "qa" / "dev.json").write_text(text)
        assert complaint in _run("qa", "eval", "--run", run, "--split", "dev")[2]
    scores = {"questions": 3, "em": 0.5, "recall": {"1": 0.25}, "fields": {"area": {"questions": 2, "em": 1.0}}}
    (tmp_path / "qa" / "dev.json").write_text(json.dumps(scores))
    shown = "questions  3\nem         50.0%\n\nrecall\n  1  25.0%\n\nfields\n  area  questions 2, em 100.0%\n"
    assert _run("qa", "eval", "--run", run, "--split", "dev") == (0, shown, "")
    assert json.loads(_run("qa", "eval", "--run", run, "--split", "dev", "--json")[1]) == scores


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--model", "m"], "--model and --questions go together"),
        (["--questions", "q"], "--model and --questions go together"),
        (
            ["--model", "m", "--questions", "q", "--against", "r"],
            "--against would be ignored: they are of what runs answered in training; leave --model and --questions out",
        ),
        (
            ["--model", "m", "--questions", "q", "--run", "r", "--split", "dev"],
            "--run, --split would be ignored: they are of what runs answered",
        ),
        (
            ["--rows", "f", "--bm25", "--dtype", "bf16"],
            "--bm25, --dtype, --rows would be ignored: they are of questions that are answered now; give --model",
        ),
    ],
)
def test_options_of_evaluation_that_do_not_fit(options: list[str], complaint: str) -> None:
    code, _, err = _run("qa", "eval", *options)
    assert code == 2
    assert complaint in err


def test_a_demo_takes_the_next_free_folder_and_is_finished_where_it_was(calls) -> None:
    assert _run("demo", "pretrain.steps=9")[0] == 0
    assert calls[0][1]["arguments"] == (Path("runs/demo-2").absolute(),)
    assert calls[0][1]["overrides"] == ["pretrain.steps=9"]
    assert _run("demo", "--resume") == (
        2,
        "",
        "realm-ds: --resume needs the folder of the demo to finish: --run runs/demo\n",
    )


def test_benchmarks_end_with_the_code_of_their_verdict(calls) -> None:
    assert _run("bench", "search", "--quick", "--only", "latency", "--json")[0] == 1
    assert calls == [
        ("search_groups", {"arguments": (), "is_quick": True}),
        ("run_groups", {"arguments": (["search"],), "only": "latency", "as_json": True}),
    ]
    calls.clear()
    assert _run("bench", "refresh", "--corpus", "c", "--tokenizer", "t", "--layers", "2", "--hidden", "64")[0] == 1
    tower = {"layers": 2, "hidden": 64}
    assert calls[0] == (
        "refresh_groups",
        {"arguments": (), "is_quick": False, "tower": tower, "corpus": Path("c"), "tokenizer": Path("t")},
    )
    calls.clear()
    assert _run("bench", "scale")[0] == 1
    assert calls[0] == ("scale_groups", {"arguments": (), "is_quick": False, "out": Path("runs/bench-scale")})
    calls.clear()
    assert _run("bench", "qa", "--model", "m", "--questions", "q")[0] == 1
    told = {"layers": 4, "hidden": 256, "model": Path("m"), "questions": Path("q")}
    assert calls[0] == ("qa_groups", {"arguments": (), "is_quick": False, **told})
    assert _run("bench", "qa", "--model", "m")[2] == (
        "realm-ds: --model and --questions go together: an export, and the questions that it is to answer\n"
    )


def test_wrong_settings_are_one_plain_message_and_code_2(tmp_path: Path) -> None:
    code, _, err = _run("pretrain", "-c", "demo", "--run", str(tmp_path), "--dry-run", *DATA, "pretrain.stepz=7")
    assert code == 2
    assert err == "realm-ds: pretrain.stepz (override 'pretrain.stepz=7') is no setting; did you mean pretrain.steps?\n"


def test_other_errors_are_one_line_and_code_1(calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise CheckpointError("no checkpoint in runs/a: train first")

    monkeypatch.setattr(sys.modules["realm_ds.train.export"], "export_run", fail)
    assert _run("export", "--run", str(tmp_path)) == (1, "", "realm-ds: no checkpoint in runs/a: train first\n")
    said = (2, "", "realm-ds: --step newest: give the number of a step, best or latest\n")
    assert _run("export", "--run", str(tmp_path), "--step", "newest") == said


def test_a_file_in_the_way_of_a_run_folder_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    line = f"realm-ds: cannot use {path}: File exists; mend that or name another\n"
    assert _run("demo", "--quick", "--run", str(path)) == (1, "", line)


def test_ctrl_c_is_one_line_and_code_130(calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["realm_ds.launch.demo"], "run_demo", interrupt)
    assert _run("demo", "--run", str(tmp_path)) == (130, "", "realm-ds: interrupted\n")


def test_the_package_runs_as_a_module() -> None:
    result = subprocess.run([sys.executable, "-m", "realm_ds", "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert "realm-ds pretrain" in result.stdout
