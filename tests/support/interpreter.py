"""Where there is no GPU, Triton's kernels are interpreted on the CPU. Triton decides that when it
is imported, and transformers imports it, so this module comes before both."""

import os
import sys

import torch

INTERPRETED = not torch.cuda.is_available()

if INTERPRETED:
    assert "triton" not in sys.modules, "Triton was imported before it was told to interpret"
    os.environ["TRITON_INTERPRET"] = "1"
