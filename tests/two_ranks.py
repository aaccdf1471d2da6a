"""Two processes that run functions as the two ranks of a job, over gloo."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class TwoRanks:
    """Two real processes, started once and used for many functions: imports take seconds.

    Functions and arguments must be importable by name, results plain or numpy.
    """

    def __init__(self) -> None:
        self._ranks: list[tuple[Any, Connection]] = []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for rank in range(2):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(rank, there), daemon=True)
            process.start()
            there.close()
            self._ranks.append((process, here))

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 120) -> list[Any]:
        """The results of `function(*arguments)` on rank 0 and rank 1.

        Raises `AssertionError` with the traceback of a rank that failed, or if one hangs.
        """
        if not self._ranks:  # at first, and after a failure
            self._start()
        port = _free_port()
        for _, connection in self._ranks:
            connection.send((function, arguments, port))
        results = []
        for rank, (_, connection) in enumerate(self._ranks):
            if not connection.poll(timeout):
                self.close()
                raise AssertionError(f"rank {rank} hangs in {function.__name__}")
            failed, result = connection.recv()
            if failed:
                self.close()  # the other rank may wait for this one for ever
                raise AssertionError(f"rank {rank}:\n{result}")
            results.append(result)
        return results

    def close(self) -> None:
        for process, connection in self._ranks:
            connection.close()
            process.kill()
            process.join()
        self._ranks = []


def _work(rank: int, connection: Connection) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, arguments, port = connection.recv()
        except EOFError:
            return
        os.environ["MASTER_PORT"] = str(port)
        try:
            connection.send((False, function(*arguments)))
        except BaseException:
            connection.send((True, traceback.format_exc()))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
