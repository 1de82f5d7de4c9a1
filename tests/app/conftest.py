"""Every test of the app has a Kumakobo folder of its own."""

from pathlib import Path

import pytest

from app import toast


@pytest.fixture(autouse=True)
def home_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("kumakobo")
    monkeypatch.setenv("KUMAKOBO_HOME", str(folder))
    return folder


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What short messages told, good and bad."""
    words: list[str] = []
    monkeypatch.setattr(toast, "warn", words.append)
    monkeypatch.setattr(toast, "info", words.append)
    return words
