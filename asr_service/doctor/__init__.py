"""Checks what the service would start with, and advises what to do: `python -m asr_service doctor`.

Nothing is changed, and of a model only its configuration is read. Each check stands alone: one that raises does not
keep the next from running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from asr_service.config import Settings
from asr_service.doctor.access import check_certificates, check_keys, check_ports
from asr_service.doctor.findings import Finding, Verdict
from asr_service.doctor.installation import check_packages, check_python
from asr_service.doctor.machine import check_devices, check_limits, check_processor
from asr_service.doctor.model import check_models

__all__ = ["Finding", "Verdict", "examine"]


def examine(settings: Settings) -> Iterator[Finding]:
    """Makes every check in turn, the slow one last, and yields what they find."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        check_python,
        check_packages,
        check_models,
        check_ports,
        check_certificates,
        check_keys,
        check_limits,
        check_processor,
        check_devices,
    )
    for check in checks:
        try:
            yield from check(settings)
        except Exception as error:
            yield Finding(
                check.__name__.removeprefix("check_"),
                Verdict.WRONG,
                f"the check itself failed: {error!r}",
                "report it",
            )
