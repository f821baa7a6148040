"""Triton kernels run in its interpreter here: it has to be asked for before triton is first imported."""

import os

os.environ["TRITON_INTERPRET"] = "1"
