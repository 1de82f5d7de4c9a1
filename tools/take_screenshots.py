"""Makes the pictures of the page that the README shows: a real run of the built-in model, in a real browser.

    python tools/take_screenshots.py            # trains, draws a grid, and writes docs/images/{en,ja}/*.png
    python tools/take_screenshots.py --home X   # goes on with the runs of an earlier call

Needs what the browser tests need (playwright and a Chromium). Takes about fifteen minutes on two processor cores.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.calm import COOKIE  # noqa: E402
from lora_core.demo import HELDOUT  # noqa: E402
from lora_core.setup.browser import system_chromium  # noqa: E402

IMAGES = ROOT / "docs" / "images"
LANGUAGES = {"en": "en-US", "ja": "ja-JP"}
COLOURS = 256
"""Of the written pictures: the page has few, and the files are half as large."""
_TRAINING = {
    "train.epochs": 6,
    "validation.every_n_epochs": 1,
    "validation.folder": HELDOUT,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--home", type=Path, help="folder for runs; kept, and used again")
    arguments.add_argument("--only", nargs="+", choices=SCREENS, default=list(SCREENS), help="these screens")
    asked = arguments.parse_args()
    home = asked.home or Path(tempfile.mkdtemp()) / "kumakobo"
    home.mkdir(parents=True, exist_ok=True)
    output = home / "trained"  # not the preset's folder: the form would say that the LoRA is there already
    if not (output / "usu_bear.safetensors").exists():
        training = _TRAINING | {"save.output_dir": output}
        changes = [word for key, value in training.items() for word in ("--set", f"{key}={value}")]
        command(home, "train", ROOT / "presets" / "demo.toml", *changes)
    with studio(home) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system_chromium())
        for language, locale in LANGUAGES.items():
            context = browser.new_context(locale=locale, viewport={"width": 1280, "height": 1000})
            context.add_cookies([{"name": COOKIE, "value": "standard", "url": url}])
            page = context.new_page()
            page.set_default_timeout(300_000)
            page.goto(url)
            page.wait_for_selector("#job_pill .jp")
            for name in asked.only:
                page.set_viewport_size({"width": 1280, "height": HEIGHTS.get(name, 1000)})
                SCREENS[name](page, output)
                page.wait_for_timeout(2500)
                save(page.screenshot(), IMAGES / language / f"{name}.png")
            context.close()
        browser.close()


def command(home: Path, *words: object) -> None:
    """One command of Kumakobo with its runs in ``home``."""
    subprocess.run([sys.executable, "-m", "lora_core", *map(str, words)], cwd=ROOT, env=environment(home), check=True)


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"KUMAKOBO_HOME": str(home), "PYTHONUTF8": "1"}


@contextmanager
def studio(home: Path) -> Iterator[str]:
    """The studio on a free port, until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--no-browser"]
    process = subprocess.Popen([sys.executable, "-m", "app", *options], cwd=ROOT, env=environment(home))
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def save(png: bytes, path: Path) -> None:
    """Written with few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".full.png")
    temporary.write_bytes(png)
    with Image.open(temporary) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    temporary.unlink()


# ---- the screens -----------------------------------------------------------------------------------------------------


def open_tab(page: Page, name: str, selector: str) -> None:
    page.evaluate("scrollTo(0, 0)")
    page.click(f"#tab_{name}-button")
    page.wait_for_selector(selector, state="visible")


def fill(page: Page, selector: str, value: object) -> None:
    """Types until it stays: a part that was just opened may put its old value back once."""
    box = page.locator(f"{selector} :is(input, textarea)").first
    for _ in range(20):
        box.fill(str(value))
        page.wait_for_timeout(400)
        if box.input_value() == str(value):
            return


def guide(page: Page, output: Path) -> None:
    open_tab(page, "guide", "#tab_guide")


def parameters(page: Page, output: Path) -> None:
    page.locator("#preset input").click()
    page.get_by_role("option").filter(has_text="usu bear").first.click()
    page.wait_for_timeout(3000)
    open_tab(page, "parameters", "#f-network-rank")
    page.wait_for_selector("#f-network-rank input")


def monitor(page: Page, output: Path) -> None:
    open_tab(page, "monitor", "#monitor_status .rs")
    training = page.locator("#monitor_run input")
    if training.count():
        training.click()
        page.get_by_role("option").filter(has_text="usu_bear").first.click()
    page.wait_for_selector("#sample_gallery .sg-item img")


def grid(page: Page, output: Path) -> None:
    open_tab(page, "model_test", "#mt_go")
    if not page.locator("#mt_pictures .sg-item img").count():
        page.click("#mt_latest")
        page.wait_for_selector("#f-mt-run_folder", state="visible")
        fill(page, "#f-mt-prompts", "usu bear, blue background --w 64 --h 64 --d 2")
        fill(page, "#f-mt-columns_values", "0, 0.5, 1")
        page.click("#mt_go")
        page.wait_for_selector("#mt_results .rs-fetch")
    page.wait_for_selector("#mt_pictures .sg-item img")
    page.locator("#mt_go").evaluate("go => go.scrollIntoView()")


def merge(page: Page, output: Path) -> None:
    open_tab(page, "merge", "#merge_go")
    early = sorted(output.glob("usu_bear-*2.safetensors"))[0]
    fill(page, "#f-merge-path1", output / "usu_bear.safetensors")
    fill(page, "#f-merge-path2", early)
    fill(page, "#f-merge-ratio2", "-0.5")
    page.wait_for_selector(".mg-kept")
    page.evaluate("scrollTo(0, 0)")


SCREENS: dict[str, Callable[[Page, Path], Any]] = {
    "guide": guide,
    "parameters": parameters,
    "monitor": monitor,
    "grid": grid,
    "merge": merge,
}

HEIGHTS = {"monitor": 1500}
"""Of the window, in pixels, where more is to be seen at once."""

if __name__ == "__main__":
    main()
