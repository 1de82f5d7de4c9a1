"""The monitor in a real browser, fed by the stand-in trainer."""

import json
import re
import time

import pytest

from lora_core import jobs
from lora_core.events import EpochDone, RunStarted, StepDone
from lora_core.i18n import catalogue
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from tests.browser.waiting import until

SLOW = {"steps": 4000, "seconds": 0.05, "samples": 20, "per_epoch": 50}


def percent(page) -> float:
    return float(page.get_attribute("#monitor_status [role=progressbar]", "aria-valuenow"))


def step(page) -> int:
    text = page.text_content("#monitor_status .rs-numbers dd") or "0"
    return int(re.sub(r"\D", "", text.partition("/")[0]) or 0)


def wait_for_state(page, state: str) -> None:
    page.wait_for_selector(f"#monitor_status .rs[data-state={state}]")


def test_a_run_from_start_to_stop_and_save(app, monitor, show_monitor, visit):
    page = monitor()
    wait_for_state(page, "idle")
    run = app.enqueue(**SLOW)
    wait_for_state(page, "running")
    until(page, lambda: step(page) > 3)
    before = step(page)
    until(page, lambda: step(page) > before + 5)
    page.wait_for_selector("#sample_gallery .sg-item img")
    until(page, lambda: page.evaluate("document.querySelector('#sample_gallery img').naturalWidth") > 0)
    until(page, lambda: "Training" in page.text_content("#job_pill"))

    page.reload()
    show_monitor(page)
    until(page, lambda: step(page) > before)
    second = monitor(context=page.context)
    until(second, lambda: step(second) > before)
    second.close()

    page.click("#monitor_stop_save")
    wait_for_state(page, "stopped")
    assert page.is_disabled("#monitor_stop_save")
    page.wait_for_selector("#monitor_files .rs-final")
    assert jobs.state(run) == "stopped"
    with page.expect_download() as download:
        page.click("#monitor_files .rs-fetch >> nth=0")
    assert download.value.suggested_filename == "usu_bear.safetensors"
    assert visit.foreign == []
    assert visit.errors == []


def test_pause_and_resume(app, monitor):
    app.enqueue(**SLOW)
    page = monitor()
    until(page, lambda: step(page) > 2)
    page.click("#monitor_pause")
    wait_for_state(page, "paused")
    at = until(page, lambda: step(page))
    page.click("#monitor_resume")
    until(page, lambda: step(page) > at)
    until(page, lambda: page.is_visible("#monitor_pause"))


def test_stop_now_asks_first(app, monitor):
    run = app.enqueue(**SLOW)
    page = monitor()
    until(page, lambda: step(page) > 2)
    page.click("#monitor_stop_now")
    page.click("#monitor_confirm_no")
    page.wait_for_selector("#monitor_confirm", state="hidden")
    assert jobs.state(run) == "running"
    page.click("#monitor_stop_now")
    page.click("#monitor_confirm_yes")
    wait_for_state(page, "stopped")
    assert "usu_bear.safetensors" not in page.text_content("#monitor_files")


def test_save_and_sample_on_request(app, monitor):
    app.enqueue(**(SLOW | {"samples": 10_000, "per_epoch": 10_000}))
    page = monitor()
    until(page, lambda: step(page) > 2)
    page.click("#monitor_save_now")
    page.wait_for_selector("#monitor_files .rs-files li")
    page.click("#monitor_sample_now")
    page.wait_for_selector("#sample_gallery .sg-item")


def test_the_second_run_waits_and_can_leave(app, monitor):
    app.enqueue("first", **SLOW)
    second = app.enqueue("second", **SLOW)
    page = monitor()
    page.wait_for_selector("#job_pill .jp-running")
    until(page, lambda: "1 waiting" in page.text_content("#job_pill"))
    choose_run(page, "second")
    wait_for_state(page, "queued")
    page.click("#monitor_leave")
    wait_for_state(page, "stopped")
    assert jobs.state(second) == "stopped"


def choose_run(page, name: str) -> None:
    page.click("#monitor_run input")
    page.click(f"#monitor_run [role=option]:has-text('{name}')")


def test_a_failed_run_says_why_in_both_languages(app, monitor):
    app.enqueue(fail="Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory.", fail_at=3)
    for locale, language in (("en-US", "en"), ("ja-JP", "ja")):
        page = monitor(locale=locale)
        wait_for_state(page, "failed")
        assert catalogue(language)["failures.gpu_memory"] in page.text_content("#monitor_notes [role=alert]")
        page.wait_for_selector("#monitor_copy_error:not([disabled])")
        page.wait_for_selector("#job_pill .jp-failed")


def test_the_app_killed_and_started_again_finds_the_job(own_app, open_page, show_monitor):
    run = own_app.enqueue(**SLOW)
    page = open_page(url=own_app.url)
    show_monitor(page)
    until(page, lambda: step(page) > 2)
    own_app.kill()
    at = jobs.last_event(run, (StepDone,)).step
    time.sleep(1)
    assert jobs.alive(run)
    own_app.start()
    page = open_page(url=own_app.url)
    show_monitor(page)
    until(page, lambda: step(page) > at)
    wait_for_state(page, "running")
    page.click("#monitor_stop_save")
    wait_for_state(page, "stopped")


def test_the_language_is_remembered(app, open_page, visit):
    page = open_page(locale="ja-JP")
    assert page.evaluate("document.documentElement.lang") == "ja"
    until(page, lambda: "学習なし" in page.text_content("#job_pill"))
    page.context.add_cookies([{"name": "kumakobo_lang", "value": "en", "url": app.url}])
    page.reload()
    page.wait_for_selector("#job_pill .jp")
    until(page, lambda: "No training" in page.text_content("#job_pill"))
    assert visit.foreign == []


def long_run(app, steps: int = 20_000):
    """A finished-looking run with many steps, written in one go."""
    run = create_run(RunSettings(save={"output_name": "long"}), app.root)
    lines = [RunStarted(name="long", total_steps=steps, epochs=10, steps_per_epoch=steps / 10).model_dump_json()]
    for number in range(1, steps + 1):
        loss = 0.1 + 0.2 / (1 + number / 3000) + 0.02 * ((number * 7919) % 997) / 997
        rates = {"unet": 1e-4 * (1 - number / steps), "text_encoder": 5e-5 * (1 - number / steps)}
        event = StepDone(step=number, epoch=1, loss=loss, learning_rate=rates, seconds=0.5)
        lines.append(event.model_dump_json())
        if number % (steps // 10) == 0:
            lines.append(EpochDone(epoch=number * 10 // steps, step=number, mean_loss=loss).model_dump_json())
    run.events.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def test_twenty_thousand_points(app, monitor, visit):
    long_run(app)
    page = monitor()
    chart = "#loss_chart [data-points], [data-points]"
    until(page, lambda: page.locator(chart).count() and int(page.get_attribute(chart, "data-points") or 0) > 1000)
    assert int(page.get_attribute(chart, "data-points")) <= 4000
    page.locator("#loss_chart canvas").scroll_into_view_if_needed()
    box = page.locator("#loss_chart canvas").bounding_box()
    for share in (0.3, 0.5, 0.7):
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
        page.wait_for_selector("#loss_chart .lc-tip:not([hidden])")
    read = page.text_content("#loss_chart .lc-tip")
    at = int(re.search(r"Step: ([\d,]+)", read)[1].replace(",", ""))
    assert 13_000 < at < 15_000
    assert "Learning rate" in read
    page.click("#loss_chart .lc-log")
    assert page.is_checked("#loss_chart .lc-log input")
    drawn = page.evaluate(
        "(() => { const c = document.querySelector('#loss_chart canvas');"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0); })()"
    )
    assert drawn
    assert visit.errors == []


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_nothing_runs_off_a_phone(app, monitor, locale):
    app.enqueue(steps=60, seconds=0.01, samples=20, per_epoch=20)
    page = monitor(locale=locale, width=390, height=844)
    wait_for_state(page, "finished")
    page.wait_for_selector("#sample_gallery .sg-item img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_picture_is_shown_large(app, monitor):
    app.enqueue(steps=40, seconds=0.01, samples=20, per_epoch=20)
    page = monitor()
    page.click("#sample_gallery .sg-item button >> nth=0")
    caption = page.text_content("#sample_gallery .sg-caption")
    page.keyboard.press("ArrowRight")
    until(page, lambda: page.text_content("#sample_gallery .sg-caption") != caption)
    until(page, lambda: "<b>not bold</b>" in page.text_content("#sample_gallery .sg-caption"))
    page.keyboard.press("Escape")
    page.wait_for_selector("#sample_gallery dialog", state="hidden")
    page.select_option("#sample_gallery select", "2")
    until(page, lambda: page.locator("#sample_gallery figure").count() == 2)


def test_only_our_own_folder_is_served(app, open_page):
    page = open_page()
    log = (app.home / "app.log").as_posix()
    for path in ("/etc/passwd", log, f"{app.home.as_posix()}/cache/page/../../app.log"):
        answer = page.request.get(f"{app.url}gradio_api/file={path}")
        assert answer.status in (403, 404)


def test_another_site_cannot_act(app, open_page):
    page = open_page()
    data = json.dumps({"data": []})
    headers = {"Origin": "http://evil.example", "Content-Type": "application/json"}
    assert page.request.post(f"{app.url}gradio_api/run/predict", data=data, headers=headers).status == 403


def test_the_system_tab_reports_on_this_machine(app, open_page):
    page = open_page()
    page.click("#tab_system-button")
    page.wait_for_selector("#system_report .doc-row-verdict", timeout=120_000)
    page.wait_for_selector("#system_copy:not([disabled])")
    until(page, lambda: app.home.as_posix() in page.text_content("#system_places"))
