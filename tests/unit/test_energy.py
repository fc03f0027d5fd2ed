"""The energy of an evaluation: measured without any network, never in the way of the work."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import energy

pytest.importorskip("codecarbon")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A meter of this test, and no network."""
    energy._meter.cache_clear()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("somebody wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    energy._meter.cache_clear()


def test_energy_times_intensity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what a person has set up elsewhere must not make it send anything
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\nsave_to_api=true\nsave_to_file=true\nelectricitymaps_api_token=abc\n"
    )
    monkeypatch.setenv("CODECARBON_CO2_SIGNAL_API_TOKEN", "abc")
    for country, low, high in (("fra", 20, 150), ("FRA", 20, 150)):
        with energy.measured(country) as used:
            assert used == {}
            sum(range(10**6))
        found = used["energy"]
        assert low < found["intensity"] < high
        assert found["kwh"] > 0
        assert found["gco2e"] == pytest.approx(found["kwh"] * found["intensity"])
        assert found["kwh"] == pytest.approx(sum(found[f"{p}_kwh"] for p in ("cpu", "gpu", "ram")))
        assert "France" in found["source"]
        assert "CPU" in found["how"]
    assert [file.name for file in tmp_path.iterdir()] == [".codecarbon.config"]


def test_an_unknown_country_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with energy.measured("xxx") as used:
                pass
            assert used == {}
    assert [r.getMessage() for r in caplog.records if r.name == "workers.energy"] == [
        "no energy is measured: REMELT_CARBON_COUNTRY 'XXX' is no ISO code"
    ]


def test_what_goes_wrong_never_ends_the_work(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def start(self) -> None:
            raise OSError("no counters")

        def stop(self) -> dict[str, Any]:
            raise OSError("no counters")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "_meter", lambda _: Broken())
        with energy.measured("FRA") as used:
            pass
        assert used == {}
        with pytest.raises(KeyError, match="mine"), energy.measured("FRA"):
            raise KeyError("mine")
    assert "could not be measured" in caplog.text


def test_nothing_is_loaded_without_a_country() -> None:
    code = (
        "import sys, workers.evaluation\nfrom workers.energy import measured\n"
        "with measured(None):\n    pass\nassert 'codecarbon' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with energy.measured("FRA") as used:
        pass
    assert used == {}
    assert "remelt[carbon]" in caplog.text
