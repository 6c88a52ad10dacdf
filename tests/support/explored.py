"""A demo's folder to explore, made in seconds: ict/, pretrain/ with metrics and probes, qa/, and the explorer's server.

Some of its passages are HTML that would do something, were it not shown as text.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from realm_ds.data.batches import passage_batch
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.shards import Shards, open_shards
from realm_ds.eval.corpus import embed_with
from realm_ds.eval.exported import write_qa_export
from realm_ds.models.qa import build_qa_model
from tests.support.run_folders import hit, joined, probed, start, step_row, write_run
from tests.support.tiny import tiny_config
from tests.support.tiny_exports import Exports, make_exports, write_cloze_export
from tests.support.tiny_index import make_model

NASTY = '<img src=x onerror="document.title=1"><script>document.title=2</script>'

PASSAGE_TOKENS = 80
"""Each sign of HTML is a wordpiece."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    folder: Path
    titles: tuple[str, ...]
    """Of all passages: every question reads them all."""


def make_scene(folder: Path) -> Scene:
    """The folder of a demo."""
    made = make_exports(folder / "made")
    shards, demo = _few_passages(made), folder / "demo"
    config = tiny_config(made.folder, **{"data.passage_tokens": PASSAGE_TOKENS})
    sizes = replace(made.settings.sizes, read=shards.count, passage_tokens=PASSAGE_TOKENS)
    settings = replace(made.settings, sizes=sizes)
    tools = {"shards": shards, "tokenizer_folder": made.folder / "tokenizer", "settings": settings}
    pairs = [(passage.title_ids, passage.body_ids) for passage in shards.passages()]
    for seed, stage in enumerate(("ict", "pretrain")):
        realm = make_model(config, seed=seed)
        vectors = embed_with(realm.passage_tower)(
            passage_batch(pairs, special=made.tokenizer.special, max_tokens=PASSAGE_TOKENS)
        )
        write_cloze_export(demo / stage / "export", realm, vectors=[vectors], **tools)  # type: ignore[arg-type]
    (demo / "qa").mkdir()
    write_qa_export(
        demo / "qa" / "export", build_qa_model(realm, span_hidden_size=8, max_span_tokens=4, seed=1),
        vectors=[vectors], **tools,
    )  # type: ignore[arg-type]  # fmt: skip
    found = {version: hit(version // 2, title=("Chad", "Niger")[version // 2]) for version in range(4)}
    events = [joined(), start()]
    for version in range(4):
        events.append(probed(25 * version, version, {f"capital of Niger {NASTY}": [found[version]]}))
        events += [step_row(25 * version + step, version=version) for step in (5, 10, 15, 20, 25)]
    write_run(demo / "pretrain", events)
    return Scene(folder=demo, titles=tuple(passage.title for passage in shards.passages()))


def _few_passages(made: Exports) -> Shards:
    """Five: the first has HTML in its title and its text, the second a name to leave out."""
    first, second, *others = list(made.shards.passages(0, 5))
    few = [
        replace(first, title=NASTY, text=f"{NASTY} arlon has a mayor."), replace(second, text="arlon has a River.")
    ]  # fmt: skip
    bodies = made.tokenizer.encode_all([passage.text for passage in few])
    told = [
        replace(passage, body_ids=tuple(body), sentences=((0, len(body)),))
        for passage, body in zip(few, bodies, strict=True)
    ]
    write_shards(
        [*told, *others], made.folder / "few", kind="corpus", per_shard=9,
        tokenizer_fingerprint=made.tokenizer.fingerprint, source="rule", settings={},
    )  # fmt: skip
    return open_shards(made.folder / "few", kind="corpus", fingerprint=None)


@contextmanager
def serving(*folders: Path) -> Iterator[str]:
    """The address that `realm-ds explore` of them prints; ended by Ctrl-C, which it must obey without a word."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "realm_ds", "explore", *map(str, folders), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            said = server.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", said)
            assert address is not None, said + server.stderr.read()
            yield address[0]
        finally:
            server.send_signal(signal.SIGINT)
            told = server.communicate(timeout=60)
    assert (server.returncode, *told) == (0, "", "")
