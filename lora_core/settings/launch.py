"""How many processes train together, and on which machines and cards they run."""

from lora_core.settings.base import Settings, UserPath, setting


class LaunchSettings(Settings):
    processes: int = setting(1, "Number of processes", "num_processes", ge=1, le=1024)
    """Processes that train together, one for each graphics card, over all machines. Each takes the batch size: 2 processes with batch size 2 train like 1 with batch size 4, in about half the time."""
    machines: int = setting(1, "Number of machines", "num_machines", ge=1, le=256)
    """Computers that train together. On each of them the same settings are started, with its own machine rank."""
    machine_rank: int = setting(0, "Machine rank", ge=0, le=255)
    """Which of the machines this is, counted from 0. Machine 0 writes the LoRA, the samples and the progress."""
    main_address: str = setting("", "Main process address", max_length=255)
    """IP address or name of machine 0, as the others reach it. Only needed with several machines."""
    main_port: int | None = setting(None, "Main process port", "main_process_port", ge=1, le=65535)
    """Port at which the processes find each other. Empty: a free one; with several machines 29500."""
    gpu_ids: str = setting("", "GPU IDs", "gpu_ids", max_length=200)
    """Graphics cards to use, by number and separated by commas, such as 0,1. Empty: the first ones."""
    threads: int | None = setting(None, "CPU threads per process", "num_cpu_threads_per_process", ge=1, le=512)
    """Processor threads of each process. Empty: the cores are shared out evenly."""
    config_file: UserPath = setting(None, "Accelerate or DeepSpeed config file")
    """A .yaml file written by accelerate config, or a .json file of DeepSpeed. Empty for most people. What is set here counts before what is in the file."""
    extra_args: str = setting("", "Extra accelerate launch arguments", "extra_accelerate_launch_args", max_length=2000)
    """Passed on to accelerate launch as they are, such as --same_network. For those who know it."""
