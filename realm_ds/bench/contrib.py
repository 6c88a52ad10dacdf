"""The reference over sockets: faiss.contrib.client_server, mended only as far as it must be to answer at all.

As it comes it answers nothing under numpy 2 (its unpickler forbids the module that arrays have moved to, and the client
then waits for ever), keeps the worst of what the shards found with inner product, and serves IVF indexes alone. It also
listens on all interfaces while unpickling what comes; here only on this machine's own, on a port that the system picks,
for one client.

    python -m realm_ds.bench.contrib SEED WIDTH START STOP      serves these passages, prints its port
"""

import contextlib
import io
import itertools
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from faiss.contrib import client_server, rpc

from realm_ds.bench.corpora import VectorsOf
from realm_ds.bench.raw import id_mapped
from realm_ds.errors import LaunchError
from realm_ds.index.faiss_index import use_threads
from realm_ds.tether import die_with_parent

LOOPBACK = "127.0.0.1"
NUMPY_2 = "numpy._core.multiarray"
"""Where numpy 2 keeps what rebuilds an array; both unpicklers are ours to trust: they read from their own machine."""


class AnyServer(client_server.SearchServer):
    """Its server, without looking for the cells of an index that may have none."""

    def __init__(self, connection: socket.socket, index: Any) -> None:
        rpc.Server.__init__(
            self, connection, logf=io.StringIO()
        )  # It tells of every call; terminals would cost it time.
        self.index = index


class KeepsBest(client_server.ClientIndex):
    """Its client, merging for inner product: ResultHeap keeps the smallest unless told."""

    def search(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        heap = faiss.ResultHeap(x.shape[0], k, keep_max=True)
        for scores, places in self.pool.imap(lambda index: index.search(x, k), self.sub_indexes):
            heap.add_result(scores, places)
        heap.finalize()
        return heap.D, heap.I

    def close(self) -> None:
        """Hang up, at which the servers end."""
        for index in self.sub_indexes:
            index.sock.close()
        self.pool.terminate()


def connect(ports: Sequence[int]) -> KeepsBest:
    """A client of servers on this machine."""
    mend()
    return KeepsBest([(LOOPBACK, port) for port in ports])


def mend() -> None:
    """Let its unpickler rebuild arrays of numpy 2."""
    rpc.safe_modules.add(NUMPY_2)


@contextlib.contextmanager
def serving(vectors: VectorsOf, *, edges: Sequence[int]) -> Iterator[list[int]]:
    """Servers of the shards edges[0]..edges[1], edges[1]..edges[2], ..., a process and a thread each; their ports."""
    servers = []
    try:
        for start, stop in itertools.pairwise(edges):
            numbers = (vectors.seed, vectors.width, start, stop)
            servers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "realm_ds.bench.contrib", *map(str, numbers)], stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent,
                )
            )  # fmt: skip
        yield [_port_of(server) for server in servers]
    finally:
        for server in servers:
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()


def _port_of(server: "subprocess.Popen[str]") -> int:
    said = server.stdout.readline() if server.stdout else ""
    if not said.strip().isdigit():
        raise LaunchError(f"a server of faiss.contrib ended before it listened (exit code {server.poll()}); see above")
    return int(said)


def serve_one(index: Any, listener: socket.socket) -> None:
    """Its server for the first client that comes, until that hangs up."""
    mend()
    connection, _ = listener.accept()
    AnyServer(connection, index).exec_loop()


def main() -> None:
    seed, width, start, stop = map(int, sys.argv[1:])
    use_threads(1)
    index = id_mapped(VectorsOf(seed=seed, width=width), start=start, stop=stop)
    with socket.create_server((LOOPBACK, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        serve_one(index, listener)


if __name__ == "__main__":
    main()
