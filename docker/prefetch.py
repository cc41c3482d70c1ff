"""Downloads a model from its hub into the cache of this machine, so that the service starts without a network.

prefetch.py nvidia/stt_en_fastconformer_hybrid_large_streaming_multi

Nothing happens for an empty name, a path, `demo` or `null`: there is nothing to fetch.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Command line: the model's hub name."""
    if len(sys.argv) != 2:
        print("usage: prefetch.py MODEL", file=sys.stderr)
        return 2
    model = sys.argv[1]
    if model in ("", "demo", "null") or model.endswith(".nemo"):
        print(f"nothing to fetch for {model!r}")
        return 0
    from nemo.collections.asr.models import ASRModel

    print(f"{model} is in {ASRModel.from_pretrained(model, return_model_file=True)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
