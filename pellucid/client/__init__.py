"""A client of the service: typed replies, images in many forms, and retries that follow Retry-After.

::

    from pellucid.client import Client

    with Client("http://127.0.0.1:8000") as pellucid:
        for prediction in pellucid.predict("cat.jpg", top_k=3):
            print(f"{prediction.label}: {prediction.probability:.1%}")
        pellucid.grad_cam("cat.jpg", overlay=True)[0].overlay.to_pil().show()

It needs httpx, pydantic and tenacity, and Pillow for pictures of Pillow. It loads no network.

- asynchronous: the client; sync: the same without an event loop, generated; calls: requests and replies of both
- images: the forms of an image; options: the options of each route, generated
- retry: which failures are retried, and when; errors: ApiError
- heat_maps: maps as arrays, read from .npz; figure: an answer as one figure
- many: several pictures at a time
"""

from pellucid.client.asynchronous import AsyncClient
from pellucid.client.errors import ApiError
from pellucid.client.figure import Figure
from pellucid.client.heat_maps import HeatMaps
from pellucid.client.images import ImageSource
from pellucid.client.many import Explained
from pellucid.client.sync import Client

__all__ = ["ApiError", "AsyncClient", "Client", "Explained", "Figure", "HeatMaps", "ImageSource"]
