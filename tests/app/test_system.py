"""The System tab, from findings written by hand."""

import sys
from pathlib import Path

import pytest

from app import machine
from app.machine import Card
from app.tabs import system
from lora_core.doctor import Row
from lora_core.i18n import LANGUAGES

ROWS = [
    Row("python", "ok", values={"value": "3.12.1"}),
    Row("torch", "error", "broken", {"error": "<b>no DLL</b>"}, "torch"),
    Row("verdict", "error", "error"),
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_finding_is_shown_with_its_cure_as_text(language):
    html = system.report_html(ROWS, language)
    for row in ROWS:
        assert row.name(language) in html
    assert ROWS[1].cure(language) in html
    assert "<b>" not in html


@pytest.mark.parametrize("language", LANGUAGES)
def test_folders_and_versions(language, tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "a & b"))
    html = system.places_html(language)
    assert "a &amp; b" in html
    assert "Python" in html


def test_the_doctor_is_asked_once_until_told_again(monkeypatch):
    asked = []
    monkeypatch.setattr(machine, "report", lambda: asked.append(1) or ROWS)
    report = machine.Report()
    assert report.rows() == report.rows() == ROWS
    assert len(asked) == 1
    report.forget()
    report.rows()
    assert len(asked) == 2


def test_debug_information_does_not_tell_who_you_are(monkeypatch, tmp_path):
    person = tmp_path / "taro"
    monkeypatch.setattr(Path, "home", lambda: person)
    monkeypatch.setattr(sys, "executable", str(person / "venv" / "python"))
    text = machine.debug_text([*ROWS, Row("folder", "ok", values={"value": str(person / "kumakobo")})])
    assert "taro" not in text
    assert "[error] torch" in text


@pytest.mark.parametrize(
    ("line", "card"),
    [
        ("NVIDIA GeForce RTX 4070, 1024, 12288", Card("NVIDIA GeForce RTX 4070", 1, 12)),
        ("Card, with comma, 0, 8192", Card("Card, with comma", 0, 8)),
        ("NVIDIA GB10, [N/A], [N/A]", None),
        ("", None),
    ],
)
def test_memory_of_cards(line, card):
    assert machine._card(line) == card
