"""Stands in for the trainer in tests of the page: the same events, files and commands, no network and no torch.

    python fake_trainer.py RUN_FOLDER

``KUMAKOBO_FAKE`` or fake.json in the run's folder set steps, seconds (per step), samples (every n steps), fail (a text
printed before it dies) and the other OPTIONS.
"""

import json
import os
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lora_core.events import (
    CheckpointSaved,
    EpochDone,
    Memory,
    Pause,
    Resume,
    RunFinished,
    RunStarted,
    SampleNow,
    SampleSaved,
    SaveNow,
    StageChanged,
    StepDone,
    Stop,
    Warned,
    append,
)
from lora_core.runs import RunFolder
from lora_core.settings import RunSettings

OPTIONS = {
    "steps": 200,
    "seconds": 0.05,
    "samples": 20,
    "per_epoch": 50,
    "load": 0.3,
    "fail": None,
    "fail_at": 10,
    "deaf": False,
}
PROMPTS = ("usu bear, standing on a hill", "bear <b>not bold</b>", "a cat")


class FakeTrainer:
    def __init__(self, run: RunFolder):
        self.run = run
        self.settings = RunSettings.model_validate_json(run.settings.read_text(encoding="utf-8"))
        own = run.path / "fake.json"
        given = own.read_text(encoding="utf-8") if own.exists() else os.environ.get("KUMAKOBO_FAKE", "{}")
        self.options = OPTIONS | json.loads(given)
        self.out = Path(self.settings.save.output_dir or run.path / "output")
        (self.out / "sample").mkdir(parents=True, exist_ok=True)
        self.commands = run.command_reader()
        self.step = 0
        self.pictures = 0

    @property
    def epoch(self) -> int:
        return max(0, self.step - 1) // self.options["per_epoch"] + 1

    def say(self, event) -> None:
        append(self.run.events, event)

    def train(self) -> None:
        steps = self.options["steps"]
        self.say(StageChanged(stage="loading_model"))
        time.sleep(self.options["load"])
        for done in range(0, 21, 5):
            self.say(StageChanged(stage="caching_latents", done=done, total=20))
        summary = ["192 + 72 modules, rank 16", f"20 repeats x 5 images = 100 samples; {steps} steps"]
        ja = ["192 + 72 モジュール、ランク 16", f"20 回 x 5 枚 = 100; {steps} ステップ"]
        self.say(
            RunStarted(
                name=self.settings.save.output_name,
                total_steps=steps,
                epochs=-(-steps // self.options["per_epoch"]),
                steps_per_epoch=self.options["per_epoch"],
                device="cpu",
                precision="fp32",
                seed=42,
                summary={"en": summary, "ja": ja},
            )
        )
        self.say(Warned(message={"en": "2 images have no caption", "ja": "2 枚の画像にキャプションがありません"}))
        self.say(StageChanged(stage="training"))
        while self.step < steps:
            if self.obey():
                return
            time.sleep(self.options["seconds"])
            self.one_step()
            if self.options["fail"] and self.step >= self.options["fail_at"]:
                print(self.options["fail"], flush=True)
                os._exit(1)
        self.finish("completed")

    def one_step(self) -> None:
        self.step += 1
        loss = 0.1 + 0.3 / (1 + self.step / 40) + 0.05 * ((self.step * 7919) % 101) / 101
        rate = 1e-4 * (1 - self.step / self.options["steps"])
        print(f"\rstep {self.step}/{self.options['steps']} loss={loss:.4f}", end="", flush=True)
        self.say(
            StepDone(
                step=self.step,
                epoch=self.epoch,
                loss=loss,
                learning_rate={"unet": rate, "text_encoder": rate / 2},
                seconds=self.options["seconds"],
            )
        )
        if self.step % 10 == 0:
            self.say(Memory(process_gb=1.5, device_gb=None))
        if self.step % self.options["samples"] == 0:
            self.sample()
        if self.step % self.options["per_epoch"] == 0:
            self.say(EpochDone(epoch=self.epoch, step=self.step, mean_loss=loss))
            self.save(f"{self.settings.save.output_name}-{self.epoch:06d}")

    def obey(self) -> bool:
        """True when told to stop."""
        for command in [] if self.options["deaf"] else self.commands.read():
            match command:
                case Stop(save=save):
                    if save:
                        self.save(self.settings.save.output_name, final=True)
                    self.finish("stopped", save=False)
                    return True
                case SaveNow():
                    self.save(f"{self.settings.save.output_name}-step{self.step:08d}")
                case SampleNow():
                    self.sample()
                case Pause():
                    self.say(StageChanged(stage="paused"))
                    if self.wait_for_resume():
                        return True
                    self.say(StageChanged(stage="training"))
        return False

    def wait_for_resume(self) -> bool:
        while True:
            for command in self.commands.read():
                if isinstance(command, Resume):
                    return False
                if isinstance(command, Stop):
                    if command.save:
                        self.save(self.settings.save.output_name, final=True)
                    self.finish("stopped", save=False)
                    return True
            time.sleep(0.1)

    def sample(self) -> None:
        self.say(StageChanged(stage="sampling", done=0, total=len(PROMPTS)))
        for index, prompt in enumerate(PROMPTS):
            picture = Image.new("RGB", (96, 96 if index else 128), ((self.step * 3) % 255, 120 + 40 * index, 180))
            ImageDraw.Draw(picture).text((10, 10), f"{self.step}/{index}", "white")
            path = self.out / "sample" / f"{self.settings.save.output_name}_{self.step:06d}_{index:02d}.png"
            picture.save(path)
            self.say(SampleSaved(path=path, prompt=prompt, index=index, step=self.step, epoch=self.epoch))
        self.say(StageChanged(stage="training"))

    def save(self, name: str, final: bool = False) -> Path:
        path = self.out / f"{name}.safetensors"
        path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        self.say(CheckpointSaved(path=path, step=self.step, epoch=self.epoch, final=final))
        return path

    def finish(self, reason, save: bool = True) -> None:
        path = self.save(self.settings.save.output_name, final=True) if save else None
        self.say(RunFinished(reason=reason, step=self.step, path=path))
        print("\ndone", flush=True)


if __name__ == "__main__":
    FakeTrainer(RunFolder(Path(sys.argv[1]))).train()
