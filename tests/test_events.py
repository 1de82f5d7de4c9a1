"""Events and commands: what is written is read, by whom and whenever, and a broken line costs only itself."""

import math
import threading
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lora_core.events import (
    COMMAND,
    EVENT,
    CheckpointSaved,
    Command,
    Event,
    RatePoint,
    RateRangeDone,
    Reader,
    RunFailed,
    RunFinished,
    SampleSaved,
    StageChanged,
    StepDone,
    Stop,
    append,
    warned,
)
from lora_core.i18n import text

EXAMPLES = [
    StepDone(step=3, epoch=1, loss=0.1, learning_rate={"unet": 1e-4, "text_encoder": 5e-5}, seconds=0.5),
    StageChanged(stage="training", done=3, total=10),
    SampleSaved(path=Path("/絵/usu bear.png"), prompt='usu "bear"\n', index=0, step=3, epoch=1),
    CheckpointSaved(path=Path("a.safetensors"), step=3, epoch=1, state=Path("a-state")),
    RunFailed(message={"en": "no", "ja": "いいえ"}, detail="x\r\ny", problems=[{"path": "a.b"}]),
    RunFinished(reason="stopped", step=3),
    RateRangeDone(kind="found", rate=1e-4, start=0.1, points=[RatePoint(step=2, rate=1e-6, loss=0.1)]),
    warned("model.base", "settings.file_missing", {"path": "x"}),
]


def members(union):
    return get_args(get_args(union)[0])


@pytest.mark.parametrize(("union", "adapter"), [(Event, EVENT), (Command, COMMAND)], ids=["events", "commands"])
def test_every_kind_has_its_own_name(union, adapter):
    names = [kind.model_fields["type"].default for kind in members(union)]
    assert len(set(names)) == len(names)
    assert isinstance(adapter, TypeAdapter)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.type)
def test_an_event_is_read_as_it_was_written(event, tmp_path):
    append(tmp_path / "events.jsonl", event)
    assert list(Reader(tmp_path / "events.jsonl", EVENT).read()) == [event]


@pytest.mark.parametrize("kind", members(Command), ids=lambda kind: kind.__name__)
def test_a_command_is_read_as_it_was_written(kind, tmp_path):
    append(tmp_path / "commands.jsonl", kind())
    assert list(Reader(tmp_path / "commands.jsonl", COMMAND).read()) == [kind()]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_still_arrives(loss, tmp_path):
    append(tmp_path / "events.jsonl", StepDone(step=1, epoch=1, loss=loss, learning_rate={}, seconds=0))
    (event,) = Reader(tmp_path / "events.jsonl", EVENT).read()
    assert repr(event.loss) == repr(loss)


def test_a_reader_gives_each_line_once(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = Reader(path, EVENT)
    assert list(reader.read()) == []
    for event in EXAMPLES:
        append(path, event)
        assert list(reader.read()) == [event]
    assert list(reader.read()) == []


def test_a_reader_leaves_out_the_types_it_is_told_and_goes_on_behind_them(tmp_path):
    path = tmp_path / "events.jsonl"
    for event in EXAMPLES:
        append(path, event)
    reader = Reader(path, EVENT, without=("step_done", "stage_changed"))
    assert list(reader.read()) == EXAMPLES[2:]
    assert reader.offset == path.stat().st_size


def test_a_reader_goes_on_from_an_offset(tmp_path):
    path = tmp_path / "events.jsonl"
    append(path, EXAMPLES[0])
    first = Reader(path, EVENT)
    list(first.read())
    append(path, EXAMPLES[1])
    assert list(Reader(path, EVENT, first.offset).read()) == [EXAMPLES[1]]


@hypothesis_settings(deadline=None, max_examples=40)
@given(cut=st.integers(min_value=0))
def test_a_line_that_is_still_being_written_waits(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    whole = "".join(event.model_dump_json() + "\n" for event in EXAMPLES).encode()
    cut %= len(whole)
    path.write_bytes(whole[:cut])
    reader = Reader(path, EVENT)
    seen = list(reader.read())
    path.write_bytes(whole)
    assert seen + list(reader.read()) == EXAMPLES
    assert reader.skipped == 0


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"type": "from_the_future"}', b'{"type": "step_done"}', b"\xff\xfe", b""]
)
def test_a_line_that_is_no_event_costs_only_itself(line, tmp_path):
    path = tmp_path / "events.jsonl"
    append(path, EXAMPLES[0])
    with path.open("ab") as file:
        file.write(line + b"\n")
    append(path, EXAMPLES[1])
    reader = Reader(path, EVENT)
    assert list(reader.read()) == EXAMPLES[:2]
    assert reader.skipped == bool(line)


def test_what_follows_a_line_cut_off_by_a_crash_is_not_lost(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "step_done", "st')
    append(path, EXAMPLES[0])
    assert list(Reader(path, EVENT).read()) == [EXAMPLES[0]]


def test_many_writers_never_mix_their_lines(tmp_path):
    path = tmp_path / "commands.jsonl"

    def write():
        for _ in range(50):
            append(path, Stop(save=False))

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    reader = Reader(path, COMMAND)
    assert len(list(reader.read())) == 200
    assert reader.skipped == 0


def test_a_warning_speaks_every_language():
    event = warned("model.base", "settings.file_missing", {"path": "x"})
    assert event.message == {lang: text("settings.file_missing", lang, path="x") for lang in ("en", "ja")}
