"""The notebooks' kernels show no progress bars: on a slow machine they would differ from the stored outputs."""

import os

os.environ.pop("TQDM_DISABLE", None)  # a worker has it from the process that started it
import tqdm  # noqa: F401  it reads its variables now; the tests' own process keeps its bars

os.environ["TQDM_DISABLE"] = "1"
