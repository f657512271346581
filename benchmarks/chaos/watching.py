"""What can be seen of a server's process from outside: memory, processor time, metrics."""

import urllib.request

import psutil

from mattebox_server.local import LocalServer

METRICS = ("--metrics-address", "127.0.0.1:0")  # the flags of a server whose metrics are read


def process_of(server: LocalServer) -> psutil.Process:
    """Returns the process of a server."""
    return psutil.Process(server.pid)


def memory(server: LocalServer) -> int:
    """Returns the resident bytes of a server."""
    return process_of(server).memory_info().rss


def processor(server: LocalServer) -> float:
    """Returns the seconds of processor time that a server has used, in user and in system mode."""
    times = process_of(server).cpu_times()
    return times.user + times.system


def metric(server: LocalServer, name: str) -> float:
    """Returns a metric of a server that was started with `METRICS`, summed over all labels."""
    place = next(event["address"] for event in server.events if event["event"] == "metrics")
    with urllib.request.urlopen(f"http://{place}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
