"""One replica of one core behind the proxy that the environment sets: `python -m benchmarks.ray_server PORT`."""

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
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # of the replicas
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    application = {
        "name": "pellucid",
        "import_path": "pellucid.service.scale.ray_app:app",
        "args": {},  # PELLUCID_* of this process
        "deployments": [
            {
                "name": "Pellucid",
                "num_replicas": 1,
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
