"""One thread for every test: results do not depend on the machine, and two test runs share two cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
