"""Known causes of a failed run: what its log or error says -> a sentence with the cure.

The trainer uses it for its own exceptions, the app for processes that died without a word. Torch-free.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lora_core.i18n import LANGUAGES, Language, text


@dataclass(frozen=True)
class Cause:
    """One known cause: the key of its sentence and the pattern that gives it away.

    Named groups of the pattern fill the sentence's placeholders.
    """

    key: str
    pattern: str


CAUSES = (
    Cause("failures.paging_file", r"os error 1455|WinError 1455|paging file is too small"),
    Cause("failures.gpu_memory", r"(?:CUDA|HIP|MPS backend) out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY"),
    Cause("failures.memory", r"\bMemoryError\b|DefaultCPUAllocator: (?:not enough|can't allocate)|std::bad_alloc"),
    Cause("failures.memory", r"Cannot allocate memory"),
    Cause("failures.disk_full", r"No space left on device|\[Errno 28\]|WinError 112|not enough space on the disk"),
    Cause("failures.no_kernel_image", r"no kernel image is available|not compatible with the current PyTorch"),
    Cause("failures.driver", r"NVIDIA driver on your system is too old|CUDA driver version is insufficient"),
    Cause("failures.no_cuda", r"not compiled with CUDA enabled|Found no NVIDIA driver|No CUDA GPUs are available"),
    Cause("failures.gpu_lost", r"CUDA error: (?:unspecified launch|an illegal memory access|device-side assert)"),
    Cause("failures.gpu_lost", r"GPU is lost|CUBLAS_STATUS_\w+|cuDNN error"),
    Cause("failures.nan", r"(?i:loss (?:is|became|was|=)\s*(?:nan|inf)\b)|NaNs? (?:was|were) (?:produced|detected)"),
    Cause("failures.dll", r"DLL load failed(?: while importing (?P<name>[\w.]+))?|WinError 12[67]\b|libGL\.so\.1"),
    Cause("failures.module", r"No module named '?(?P<name>[\w.]+)'?"),
    Cause("failures.bitsandbytes", r"bitsandbytes.{0,200}(?:CUDA Setup failed|library not found|was not compiled)"),
    Cause("failures.gated", r"401 Client Error|GatedRepoError|Access to model .{1,200} is restricted"),
    Cause("failures.offline", r"OfflineModeIsEnabled|LocalEntryNotFoundError|outgoing traffic has been disabled"),
    Cause("failures.offline", r"Failed to resolve|getaddrinfo failed|Max retries exceeded"),
    Cause("failures.permission", r"PermissionError: \[(?:Errno|WinError) \d+\] [^'\n]*'(?P<path>[^'\n]+)'"),
    Cause("failures.permission", r"PermissionError|Permission denied|Access is denied"),
    Cause("failures.missing_file", r"FileNotFoundError: \[(?:Errno|WinError) \d+\] [^'\n]*'(?P<path>[^'\n]+)'"),
    Cause("failures.long_path", r"WinError 206|File name too long"),
)
"""Read from top to bottom; the first that matches the end of the log wins."""

KILLED = frozenset({-9, 137})
CRASHED = frozenset({-4, -6, -7, -8, -11, 132, 134, 135, 136, 139, 3221225477, -1073741819, 3221226505, -1073740791})


@dataclass(frozen=True)
class HelpCard:
    key: str
    values: dict[str, str]

    def text(self, language: Language = "en") -> str:
        return text(self.key, language, **self.values)

    def texts(self) -> dict[Language, str]:
        return {language: self.text(language) for language in LANGUAGES}


def explain(log: str, exit_code: int | None = None) -> HelpCard:
    """Why a run ended, from the end of its log (or its exception) and its exit code if that is known."""
    error = last_error(log)
    for cause in CAUSES:
        if match := re.search(cause.pattern, error, re.MULTILINE):
            found = {name: value for name, value in match.groupdict().items() if value}
            return HelpCard(cause.key, {"name": "?", "path": "?"} | found)
    if exit_code in KILLED or (exit_code is None and not error):
        return HelpCard("failures.killed", {})
    if exit_code is not None and (exit_code in CRASHED):
        return HelpCard("failures.crashed", {"code": str(exit_code)})
    if exit_code is not None and exit_code < 0:
        return HelpCard("failures.signal", {"code": str(-exit_code)})
    if error:
        return HelpCard("failures.unknown", {"error": error.strip().splitlines()[-1][:300]})
    return HelpCard("failures.silent", {"code": "?" if exit_code is None else str(exit_code)})


def last_error(log: str) -> str:
    """The last traceback of a log, else its last lines that look like an error, else nothing."""
    lines = plain_lines(log.replace(_TRACEBACK, f"\n{_TRACEBACK}"))  # it may follow a progress bar on its line
    starts = [i for i, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if starts:
        return "\n".join(_block(lines, starts[-1]))
    return "\n".join([line for line in lines[-40:] if _ERROR_LINE.search(line)][-10:])


def plain_lines(log: str) -> list[str]:
    """The lines of a log as a terminal would leave them: of a progress bar, its last state; no colours."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", log.replace("\r\n", "\n"))
    return [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]


_TRACEBACK = "Traceback (most recent call last)"
_ERROR_LINE = re.compile(
    r"\b[A-Z]\w*(?:Error|Exception)\b|\b(?i:error):|\bERROR\b|os error \d"
    r"|(?i:\bfatal\b|out of memory|no module named|segmentation fault)"
)


def _block(lines: list[str], start: int) -> Iterable[str]:
    """A traceback: its indented lines and the error's own lines, up to the next blank line."""
    for i, line in enumerate(lines[start:]):
        if i and not line.strip():
            return
        yield line
