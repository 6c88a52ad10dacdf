"""One Slurm for all tests of a session that ask for it."""

from collections.abc import Iterator

import pytest

from tests.support.slurm import Slurm, slurm_cluster, why_no_slurm

NUM_NODES = 5
"""One more than jobs take, so that they can go on when one is lost."""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    missing = why_no_slurm()
    if missing:
        pytest.skip(missing)
    with slurm_cluster(NUM_NODES, tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
