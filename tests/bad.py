"""Things that go wrong on purpose."""

import torch


class Exploding(torch.optim.SGD):
    """Makes every weight infinite at the third step."""

    def __init__(self, params, lr: float = 1.0, weight_decay: float = 0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.steps = 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps == 3:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.fill_(float("inf"))
        return super().step(closure)
