"""How far the search of a corpus for answers came, so that it can go on after a kill.

    OUT/unfinished/journal.json       which job it is: written before anything else
    OUT/unfinished/answers-00000.npy  what a tar shard holds: pairs of question and passage, a file for each

The folder, and who may write there, is unfinished.py's; the search itself coverage.py's.
"""

import io
import itertools
from pathlib import Path

import numpy as np

from realm_ds.files import write_durably
from realm_ds.prepare.coverage import Found
from realm_ds.prepare.unfinished import GO_ON, Job, Unfinished, refuse_another_job


class AnswersJournal:
    """Of one job."""

    def __init__(self, unfinished: Unfinished, job: Job) -> None:
        self._unfinished = unfinished
        self._job = job
        self._is_begun = False

    def read(self) -> list[Found]:
        """What was found in the first shards before the job was stopped."""
        was = self._unfinished.read()
        if was is None:
            return []
        refuse_another_job(self._job, was["job"], where=self._unfinished.out)
        paths = map(self._path, itertools.count())
        return [self._read(path) for path in itertools.takewhile(Path.exists, paths)]

    def begin(self) -> None:
        """Take down which job it is: from now on there is something to go on with."""
        if not (self._is_begun or self._unfinished.is_begun):
            self._unfinished.write({"job": self._job})
        self._is_begun = True

    def keep(self, shard: int, found: Found) -> None:
        """Take down what was found in one more shard."""
        self.begin()
        pairs = [(number, uid) for number, uids in found.items() for uid in uids]
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(pairs, dtype=np.int64).reshape(-1, 2), allow_pickle=False)
        with self._unfinished.says_what_to_do(GO_ON):
            write_durably(self._path(shard), buffer.getvalue())

    def _read(self, path: Path) -> Found:
        try:
            pairs = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise self._unfinished.damaged(path, error) from error
        if pairs.dtype != np.int64 or pairs.shape != (len(pairs), 2):
            raise self._unfinished.damaged(path, f"an array of {pairs.dtype} {pairs.shape}, no pairs")
        found: Found = {}
        for number, uid in pairs.tolist():
            found.setdefault(number, []).append(uid)
        return found

    def _path(self, shard: int) -> Path:
        return self._unfinished.folder / f"answers-{shard:05d}.npy"
