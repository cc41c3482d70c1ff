"""The rules of `ASR_PRECISION`: which precisions a device can compute in. Without torch."""

from __future__ import annotations


def why_unsupported(precision: str, device_type: str, *, cpu_has_bf16: bool) -> str:
    """Returns why a device cannot compute in a precision; "" if it can.

    Args:
        precision: "fp32", "tf32" or "bf16".
        device_type: "cpu" or "cuda".
        cpu_has_bf16: whether torch has bf16 kernels for this CPU.
    """
    if precision not in ("fp32", "tf32", "bf16"):
        return "should be fp32, tf32 or bf16"
    if device_type == "cpu" and precision == "tf32":
        return "is for NVIDIA GPUs, not for a CPU; use fp32"
    if device_type == "cpu" and precision == "bf16" and not cpu_has_bf16:
        return "needs a CPU with AVX-512 or AMX (this one has neither); use fp32"
    return ""
