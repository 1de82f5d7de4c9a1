"""The algorithms with the options that change their arithmetic."""

import torch

from lora_core.settings import RunSettings

VARIANTS = {
    "lora": {"algo": "lora"},
    "lora rs": {"algo": "lora", "rs_lora": True},
    "locon": {"algo": "locon", "conv_rank": 2, "conv_alpha": 1.0},
    "loha": {"algo": "loha", "conv_rank": 2, "conv_alpha": 1.0},
    "loha rs": {"algo": "loha", "conv_rank": 2, "rs_lora": True},
    "lokr": {"algo": "lokr", "conv_rank": 2, "conv_alpha": 1.0},
    "lokr factor": {"algo": "lokr", "conv_rank": 2, "conv_alpha": 1.0, "factor": 2},
    "lokr full": {"algo": "lokr", "conv_rank": 2, "factor": 4, "full_matrix": True},
    "lokr both": {"algo": "lokr", "conv_rank": 1, "rank": 1, "alpha": 0.5, "decompose_both": True},
    "dora": {"algo": "dora", "conv_rank": 2, "conv_alpha": 1.0},
    "dora rs": {"algo": "dora", "conv_rank": 2, "rs_lora": True},
    "loha dora": {"algo": "loha", "conv_rank": 2, "conv_alpha": 1.0, "weight_decompose": True},
    "lokr dora": {"algo": "lokr", "conv_rank": 2, "factor": 2, "weight_decompose": True},
    "lokr full dora": {"algo": "lokr", "conv_rank": 2, "factor": 4, "full_matrix": True, "weight_decompose": True},
    "oft": {"algo": "oft", "rank": 4, "conv_rank": 8},
    "oft limited": {"algo": "oft", "rank": 4, "conv_rank": 8, "constraint": 0.03},
}


def settings_of(variant: str, **changes):
    values = {"rank": 3, "alpha": 1.5} | VARIANTS[variant] | changes
    if values["algo"] == "oft":
        del values["alpha"]
    return RunSettings.model_validate({"network": values}).network


def randomised(network, seed=3):
    """The network as after some training: every number has moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network
