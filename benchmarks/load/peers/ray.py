"""Ray Serve, through its gRPC proxy.

Ray listens on every interface, and its gRPC proxy has no setting for that. A variable for other systems
(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0) keeps Ray itself on loopback; two lines of Ray Serve are patched for the same end.
"""

from load.peers.callers import GrpcCaller, PeerCaller
from load.peers.engine import describe, script
from load.peers.environment import Environment, Patch
from load.peers.messages import BytesValueCodec
from load.peers.peer import SERVERS, Launch, Peer, Place

_SERVE = "lib/python3*/site-packages/ray/serve/_private"
_ENVIRONMENT = Environment(
    "ray",
    patches=(
        Patch(f"{_SERVE}/grpc_util.py", 'f"[::]:{grpc_options.port}"', 'f"127.0.0.1:{grpc_options.port}"'),
        Patch(f"{_SERVE}/replica.py", 'self._server, "[::]:0"', 'self._server, "127.0.0.1:0"'),
    ),
)


def ray(threads: int, photo: bytes) -> Peer:
    """Returns the peer: as shipped with 0 threads, else with a replica that answers that many photos at once."""
    settings = {
        "versions": _ENVIRONMENT.versions(("ray", "grpcio", "protobuf")),
        "transport": "gRPC",
        "server": f"one replica, max_ongoing_requests={threads or 5}, nice 0, usage statistics and dashboard off",
        **describe(_ENVIRONMENT, threads),
    }

    def launch(place: Place) -> Launch:
        started = script("ray_server.py", place, threads)
        quiet = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        # Ray lowers the priority of its workers (nice 15), which would give the load generator more than its share.
        quiet["RAY_worker_niceness"] = "0"
        # The processes of the proxy and of the replica import modules from this folder.
        folders = {"RAY_TMPDIR": str(place.folder), "PYTHONPATH": str(SERVERS)}
        return Launch(started.command, {**started.variables, **quiet, **folders})

    def caller(port: int) -> PeerCaller:
        return GrpcCaller(f"127.0.0.1:{port}", "/benchmark.Cutouts/Remove", BytesValueCodec())

    return Peer("Ray Serve", settings, _ENVIRONMENT, launch, caller, photo)
