"""A client of the service: typed replies, images as they lie at hand, retries that wait as long as they are told.

::

    from pellucid.client import Client

    with Client("http://127.0.0.1:8000") as pellucid:
        for prediction in pellucid.predict("cat.jpg", top_k=3):
            print(f"{prediction.label}: {prediction.probability:.1%}")
        pellucid.grad_cam("cat.jpg", overlay=True)[0].overlay.to_pil().show()

It needs httpx, pydantic and tenacity, and Pillow where it is given or asked for its pictures; no network is loaded.

- sync, asynchronous: the two clients; calls: what both send and how they read the answer
- images: what may be sent as an image; options: what may be asked, by route
- retry: when the same is asked again; errors: what the service says instead of an answer
- heat_maps: maps as numbers, read from the files that the service gives
- many: many pictures, some at a time
"""

from pellucid.client.asynchronous import AsyncClient
from pellucid.client.errors import ApiError
from pellucid.client.heat_maps import HeatMaps
from pellucid.client.images import ImageSource
from pellucid.client.many import Explained
from pellucid.client.sync import Client

__all__ = ["ApiError", "AsyncClient", "Client", "Explained", "HeatMaps", "ImageSource"]
