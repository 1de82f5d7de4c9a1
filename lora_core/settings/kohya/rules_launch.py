"""Several processes and machines: what the GUI, or accelerate launch itself, says of them."""

from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.values import NotReadable, is_empty, whole

_COUNTS = {"num_machines": "launch.machines", "accelerate machine_rank": "launch.machine_rank"}
_TEXTS = {"gpu_ids": "launch.gpu_ids", "accelerate main_process_ip": "launch.main_address"}
_FILES = ("accelerate config_file", "accelerate deepspeed_config_file")
_SWITCHES = ("multi_gpu", "accelerate use_deepspeed", "accelerate deepspeed_config_file", "accelerate cpu")


def launch(draft: Draft) -> None:
    """Kohya counts processes over all machines and steps as one process has them, and so is it here."""
    processes = _count(draft, "num_processes") or 1
    if processes > 1:
        draft.mapped("num_processes", "launch.processes", processes, "why.processes")
    for key, path in _COUNTS.items():
        if (number := _count(draft, key)) and (number > 1 or key != "num_machines"):
            draft.mapped(key, path, number)
    for key, path in _TEXTS.items():
        if (given := draft.text(key)) and given.lower() != "all":
            draft.mapped(key, path, given)
    if port := _count(draft, "main_process_port"):
        draft.mapped("main_process_port", "launch.main_port", port)
    if processes == 1:
        draft.idle("num_cpu_threads_per_process", "idle.speed")
    elif threads := _count(draft, "num_cpu_threads_per_process"):
        draft.mapped("num_cpu_threads_per_process", "launch.threads", threads)
    for key in _FILES:
        if (given := draft.text(key)) and processes > 1:
            draft.mapped(key, "launch.config_file", given)
    if extra := draft.text("extra_accelerate_launch_args"):
        draft.mapped("extra_accelerate_launch_args", "launch.extra_args", extra)
    for key in ("num_processes", "num_machines", "gpu_ids", "main_process_port", "extra_accelerate_launch_args"):
        draft.idle(key)
    for key in _SWITCHES:
        draft.idle(
            key, "why.by_processes" if key in draft.given and not is_empty(draft.given[key].value) else "why.off"
        )


def _count(draft: Draft, key: str) -> int | None:
    try:
        return whole(draft.value(key))
    except NotReadable:
        draft.unsupported(key, "why.unreadable")
        return None
