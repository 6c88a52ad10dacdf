"""faiss.contrib.client_server as the reference: mended it finds the best, and only this machine hears it."""

import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from faiss.contrib import client_server

from realm_ds.bench import contrib
from realm_ds.bench.corpora import VectorsOf, is_best, queries_of
from realm_ds.bench.raw import RawIndex, id_mapped

VECTORS = VectorsOf(seed=5, width=16)
EDGES = (0, 300, 700)
QUERIES = queries_of(1, count=20, width=16)


class Servers:
    """The servers in threads of this process."""

    def __enter__(self) -> list[int]:
        self._listeners = [socket.create_server((contrib.LOOPBACK, 0)) for _ in EDGES[1:]]
        self._threads = []
        for listener, start, stop in zip(self._listeners, EDGES, EDGES[1:], strict=False):
            index = id_mapped(VECTORS, start=start, stop=stop)
            thread = threading.Thread(target=contrib.serve_one, args=(index, listener), daemon=True)
            thread.start()
            self._threads.append(thread)
        return [listener.getsockname()[1] for listener in self._listeners]

    def __exit__(self, *_: object) -> None:
        for listener, thread in zip(self._listeners, self._threads, strict=True):
            thread.join(10)
            assert not thread.is_alive(), "a server did not end when its client hung up"
            listener.close()


def test_mended_it_finds_the_best_of_all_shards() -> None:
    with Servers() as ports:
        client = contrib.connect(ports)
        _, places = client.search(QUERIES, 8)
        # What its own client makes of the same answers: the worst of them (ResultHeap without keep_max).
        _, worst = client_server.ClientIndex.search(client, QUERIES, 8)
        client.close()
    vectors = VECTORS(0, EDGES[-1])
    assert is_best(places, QUERIES, vectors)
    assert not is_best(worst, QUERIES, vectors)
    raw = RawIndex(VECTORS, num_passages=EDGES[-1], num_threads=1)
    np.testing.assert_array_equal(raw.search(QUERIES, 8), places)


def test_its_servers_listen_on_this_machine_only_and_end_with_the_block() -> None:
    with contrib.serving(VECTORS, edges=EDGES) as ports:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = {row[1] for row in rows if row[3] == "0A"}
        for port in ports:
            found = [address for address in listening if address.endswith(f":{port:04X}")]
            assert found == [f"0100007F:{port:04X}"]
        client = contrib.connect(ports)
        assert client.ntotal == EDGES[-1]
        client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((contrib.LOOPBACK, ports[0]), timeout=5)
