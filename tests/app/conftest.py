"""Every test of the app has a Kumakobo folder of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("kumakobo")
    monkeypatch.setenv("KUMAKOBO_HOME", str(folder))
    return folder
