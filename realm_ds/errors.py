"""The errors that people see: each says what is wrong, the value, where it came from and what to do."""


class RealmError(Exception):
    """Something a person can mend; shown as one line, without a traceback."""


class ConfigError(RealmError):
    """A setting, or a combination of settings and launch, that cannot work."""


class FolderTaken(ConfigError):
    """A run folder that holds a run which is not this one's to write into, not even that it could not start."""


class DataError(RealmError):
    """A file of data that is absent, damaged, empty or made for something else."""


class IndexFault(RealmError):
    """The index cannot answer: wrong version, dead shard, failed build, deadline passed."""


class CheckpointError(RealmError):
    """A checkpoint or export that is absent, damaged or of another run."""


class TrainingFault(RealmError):
    """Training cannot go on: losses or gradients are no longer numbers."""


class LaunchError(RealmError):
    """A rank died or could not be started; names the rank and the cause."""


REQUEUE = 75
"""Exit code of a run that was asked to end and can go on: EX_TEMPFAIL of sysexits.h, which no shell, MPI or Python
uses for anything else. A batch script that sees it queues the job again."""


class Preempted(RealmError):
    """No failure: a signal asked the run to end, and all ranks did so together. Says what `--resume` goes on from."""

    def __init__(self, message: str, *, exit_code: int = REQUEUE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """Of this process."""
