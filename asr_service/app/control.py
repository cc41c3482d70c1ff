"""What the supervisor and its processes tell each other: the kinds of messages, and what stands in each.

A message is a tuple that begins with its kind, which is a text since `ControlChannel` carries plain values alone;
descriptors go beside it.
"""

from __future__ import annotations

from typing import Final


class ToEngine:
    """From the supervisor to an engine.

    - LINK: (number of a front end); with the descriptor of a link to it.
    - SCRAPE: (number); asks for the metrics.
    - STOP: (); the streams are over, and so is the process.
    """

    LINK: Final = "link"
    SCRAPE: Final = "scrape"
    STOP: Final = "stop"


class FromEngine:
    """From an engine to the supervisor.

    - MADE: (pickled description of the model and number of its slots, name with the commit of a hub's model or "");
      with the descriptor of its `SamplePool`.
    - RUNNING: (); the model is warm.
    - PAGE: (number of the scrape, page of metrics).
    - FAILED: (pickled error); the process ends.
    """

    MADE: Final = "made"
    RUNNING: Final = "running"
    PAGE: Final = "page"
    FAILED: Final = "failed"


class ToFrontEnd:
    """From the supervisor to a front end.

    - ENGINE: (number of an engine, pickled description of its model, as above); with the descriptors of its pool and of
      a link, or with none of an engine that is away.
    - SERVE: (); streams are admitted from now on.
    - DRAIN: (); no more streams; the process ends once those that are open have, or after `ASR_DRAIN_S`.
    - SCRAPE: (number); asks for the metrics.
    - PERMIT: (number of the request, whether it is granted).
    """

    ENGINE: Final = "engine"
    SERVE: Final = "serve"
    DRAIN: Final = "drain"
    SCRAPE: Final = "scrape"
    PERMIT: Final = "permit"


class FromFrontEnd:
    """From a front end to the supervisor.

    - LISTENING: (its port).
    - PAGE: (number of the scrape, page of metrics).
    - ASK_PERMIT: (number of the request, name of a key, streams, the key's limit).
    - GIVE_BACK: (name of a key, streams).
    - FAILED: (pickled error); the process ends.
    """

    LISTENING: Final = "listening"
    PAGE: Final = "page"
    ASK_PERMIT: Final = "ask_permit"
    GIVE_BACK: Final = "give_back"
    FAILED: Final = "failed"


class ToMetrics:
    """From the supervisor to the process that answers the metrics port.

    - PAGE: (number of the scrape, page of the service's metrics).
    """

    PAGE: Final = "page"


class FromMetrics:
    """From the process that answers the metrics port to the supervisor.

    - SCRAPE: (number); asks for the metrics of the service.
    """

    SCRAPE: Final = "scrape"
