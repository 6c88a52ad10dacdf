"""Programs named as Slurm's, that write down how they are called and answer what a test says."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

_PROGRAM = """#!{python} -S
import json, os, sys
folder, name = {folder!r}, {name!r}
call = {{"program": name, "arguments": sys.argv[1:], "environment": dict(os.environ)}}
with open(f"{{folder}}/calls", "a") as calls:
    calls.write(json.dumps(call) + chr(10))
answers = json.load(open(f"{{folder}}/answers"))
code, out, error = answers[name]
script, reason = answers["refused"]
if name == "sbatch" and sys.argv[-1].endswith("/" + script):
    sys.exit(reason)
number = sum(json.loads(line)["program"] == name for line in open(f"{{folder}}/calls"))
print(out.replace("NUMBER", str(100 + number)))
print(error, file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class FakeSlurm:
    folder: Path

    def answer(self, program: str, out: str = "", *, error: str = "", code: int = 0) -> None:
        """What a program says from now on; NUMBER becomes 101, 102, ... from call to call."""
        self._keep(program, (code, out, error))

    def refuse(self, script: str, reason: str = "") -> None:
        """Which script sbatch does not take from now on, and why."""
        self._keep("refused", (script, reason))

    def _keep(self, key: str, answer: tuple[object, ...]) -> None:
        path = self.folder / "answers"
        answers = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**answers, key: answer}))

    def calls(self, program: str) -> list[dict[str, object]]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if call["program"] == program]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put them first on PATH: sbatch takes every job, the queue is empty, and no job is known."""
    folder.mkdir(parents=True)
    slurm = FakeSlurm(folder)
    slurm.answer("sbatch", "NUMBER;here")
    slurm.refuse("none")
    slurm.answer("squeue")
    slurm.answer("scancel")
    slurm.answer("scontrol", error="slurm_load_jobs error: Invalid job id specified", code=1)
    slurm.answer("sacct", error="Slurm accounting storage is disabled", code=1)
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        path = folder / name
        path.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder), name=name))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return slurm
