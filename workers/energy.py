"""The energy of an evaluation, by codecarbon: an optional extra, off unless a country is named.

Measures only: nothing is sent or written anywhere. The carbon intensity is that of the country in
codecarbon's own table, handed to it, so that no configuration file makes it ask a server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)
#: between two looks at the power, seconds
PERIOD_SECONDS = 1.0


class Meter:
    """Measures one thing after the other in this process: the whole machine, while each runs."""

    def __init__(self, country: str) -> None:
        """Raises ImportError without codecarbon, KeyError for a country that it does not know."""
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        import codecarbon
        from codecarbon.input import DataSource

        mix = DataSource().get_global_energy_mix_data()[country]
        self._intensity = float(mix["carbon_intensity"])
        self._source = (
            f"codecarbon {codecarbon.__version__}: energy mix of {mix['country_name']}, "
            f"{mix['year']}"
        )
        self._tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code=country,
            force_carbon_intensity_g_co2e_kwh=self._intensity,
            output_methods=[],
            output_handlers=[],
            tracking_mode="machine",
            measure_power_secs=PERIOD_SECONDS,
            # several workers may share a machine
            allow_multiple_runs=True,
            log_level="error",
        )
        self._count = 0

    def start(self) -> None:
        """Begin."""
        self._count += 1
        self._tracker.start_task(str(self._count))

    def stop(self) -> dict[str, Any]:
        """What was used since then, JSON-ready."""
        found = self._tracker.stop_task(str(self._count))
        kwh = float(found.energy_consumed)
        return {
            "kwh": kwh,
            "gco2e": kwh * self._intensity,
            "cpu_kwh": float(found.cpu_energy),
            "gpu_kwh": float(found.gpu_energy),
            "ram_kwh": float(found.ram_energy),
            "intensity": self._intensity,
            "source": self._source,
            "how": ", ".join(map(str, self._tracker._hardware)),
        }


@lru_cache(maxsize=1)
def _meter(country: str) -> Meter | None:
    """The meter of this process; None, said once, where there cannot be one."""
    try:
        return Meter(country)
    except ImportError:
        log.warning("no energy is measured: install the extra, pip install 'remelt[carbon]'")
    except KeyError:
        log.warning("no energy is measured: REMELT_CARBON_COUNTRY %r is no ISO code", country)
    return None


@contextmanager
def measured(country: str | None) -> Iterator[dict[str, Any]]:
    """A dict that holds `energy` once the block is left; empty without a country, or where it
    could not be measured. What goes wrong here never ends the work."""
    found: dict[str, Any] = {}
    meter = None if country is None else _meter(country.upper())
    if meter is None:
        yield found
        return
    try:
        meter.start()
    except Exception:
        log.warning("the energy of an evaluation could not be measured", exc_info=True)
    try:
        yield found
    finally:
        try:
            found["energy"] = meter.stop()
        except Exception:
            log.warning("the energy of an evaluation could not be measured", exc_info=True)
