"""So many replicas of one core behind Ray's proxy: `python -m benchmarks.ray_server REPLICAS PORT`, until SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema


def main() -> None:
    """Start Ray here, deploy, and wait."""
    replicas, port = map(int, sys.argv[1:])
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # of the replicas
    ray.init(num_cpus=replicas, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    application = {
        "name": "pellucid",
        "import_path": "pellucid.service.scale.ray_app:app",
        "args": {},  # PELLUCID_* of this process
        "deployments": [
            {
                "name": "Pellucid",
                "num_replicas": replicas,
                "autoscaling_config": None,
                "ray_actor_options": {"num_cpus": 1},
            }
        ],
    }
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after Ray has set its own
    try:
        while True:
            signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
