"""Client of the Mattebox server: it sends a photo and receives the photo without its background.

```python
import mattebox

with mattebox.Client("127.0.0.1:50051") as client:
    result = client.remove_background("photo.jpg", background="transparent")
    result.save("cutout.png")
```

`AsyncClient` has the same methods as coroutines.
"""

from mattebox.aio import AsyncClient
from mattebox.batches import BatchResult
from mattebox.client import Client
from mattebox.errors import (
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidRequest,
    MatteboxError,
    MessageTooLarge,
    NotImplementedByServer,
    Overloaded,
    ServerError,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)
from mattebox.options import Background, Matte, Output
from mattebox.photos import PhotoSource, RawPhoto
from mattebox.results import (
    BoundingBox,
    Execution,
    Fidelity,
    Limits,
    Model,
    Models,
    RemovalResult,
    ResizePolicy,
    Subject,
    Timings,
)
from mattebox.security import Tls

__all__ = [
    "AsyncClient",
    "Background",
    "BatchResult",
    "BoundingBox",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "Execution",
    "Fidelity",
    "FieldViolation",
    "InternalError",
    "InvalidRequest",
    "Limits",
    "Matte",
    "MatteboxError",
    "MessageTooLarge",
    "Model",
    "Models",
    "NotImplementedByServer",
    "Output",
    "Overloaded",
    "PhotoSource",
    "RawPhoto",
    "RemovalResult",
    "ResizePolicy",
    "ServerError",
    "Subject",
    "Timings",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "UnknownModel",
]
