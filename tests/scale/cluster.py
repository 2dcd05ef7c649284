"""A Ray cluster of several nodes on this machine, deployed to by the file that is shipped, as an operator does it."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from tests.support import REPOSITORY

SHIPPED = REPOSITORY / "deploy" / "ray" / "serve.yaml"
_LATEST_S = 120


@dataclass(frozen=True)
class Replica:
    """A replica that runs: its id, its actor's name, its process, and its node's id."""

    name: str
    actor: str
    pid: int
    node: str


class RayCluster:
    """Nodes with one processor each; a proxy on each listens on the same port, and the kernel balances them."""

    def __init__(self, cluster: Cluster) -> None:
        self.nodes = cluster
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = yaml.safe_load(SHIPPED.read_text("utf-8"))
        options = config["http_options"] | {"host": "127.0.0.1", "port": port, "request_timeout_s": 100}
        serve.start(proxy_location=config["proxy_location"], http_options=options)
        # What the dashboard's REST API calls; the dashboard itself is a dozen processes, and takes half a minute here.
        self._client = _get_global_client()

    def deploy(self, **arguments: Any) -> None:
        """What `serve deploy` does with the shipped file: these arguments, one processor a replica, two at most."""
        config = yaml.safe_load(SHIPPED.read_text("utf-8"))
        (application,) = config["applications"]
        application["args"] = arguments
        (deployment,) = application["deployments"]
        deployment["ray_actor_options"] = {"num_cpus": 1}
        deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2}
        deployment["autoscaling_config"] |= {"downscale_delay_s": 10}
        self._client.deploy_apps(ServeDeploySchema.model_validate(config))

    def status(self) -> dict[str, Any]:
        """The application, as Ray tells of it."""
        found: dict[str, Any] = self._client.get_serve_details()["applications"].get("pellucid", {})
        return found

    def replicas(self) -> list[Replica]:
        """Those that run."""
        deployment = self.status().get("deployments", {}).get("Pellucid", {})
        return [
            Replica(each["replica_id"], each["actor_name"], each["pid"], each["node_id"])
            for each in deployment.get("replicas", ())
            if each["state"] == "RUNNING"
        ]

    def running(self, count: int, without: Collection[str] = ()) -> list[Replica]:
        """Wait until the application runs with so many replicas, none of them named in ``without``."""

        def there() -> list[Replica]:
            found = self.replicas()
            well = self.status().get("status") == "RUNNING" and len(found) == count
            return found if well and not any(replica.name in without for replica in found) else []

        found: list[Replica] = eventually(there, lambda: str(self.status()))
        return found


def eventually(found: Callable[[], Any], said: Callable[[], str] = str) -> Any:
    """What is found, as soon as it is something; an error with what is ``said`` after two minutes."""
    ends = time.monotonic() + _LATEST_S
    while not (result := found()):
        assert time.monotonic() < ends, said()
        time.sleep(0.2)
    return result


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Two nodes; nothing of them outlives the context."""
    os.environ["PYTHONPATH"] = str(REPOSITORY)  # of all that Ray starts
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ |= dict(re.findall(r"(RAY_SERVE_\w+)=(\S+)", SHIPPED.with_name("Dockerfile").read_text("utf-8")))
    os.environ["SERVE_SOCKET_REUSE_PORT_ENABLED"] = "1"  # of the proxies
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield RayCluster(cluster)
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
