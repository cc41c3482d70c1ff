"""Downloads a model from its hub into the cache of this machine, so that the service starts without a network.

prefetch.py nvidia/stt_en_fastconformer_hybrid_large_streaming_multi

Nothing happens for an empty name, a path, `demo` or `null`: there is nothing to fetch. Exit code 1 if the hub is away
or the disk full, 2 if the name or the token is wrong.
"""

from __future__ import annotations

import sys

from asr_service.core.errors import ModelError, ModelUnavailable
from asr_service.model.locate import find_model, local_path
from asr_service.observability import log


def main() -> int:
    """Command line: the model's hub name."""
    if len(sys.argv) != 2:
        print("usage: prefetch.py MODEL", file=sys.stderr)
        return 2
    model = sys.argv[1]
    if model in ("", "null") or local_path(model) is not None:
        print(f"nothing to fetch for {model!r}")
        return 0
    log.set_up("info", "text", sys.stdout)
    try:
        path = find_model(model)
    except (ModelError, ModelUnavailable) as error:
        print(f"prefetch.py: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, ModelError) else 1
    print(f"{model} is in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
