"""The notebooks' kernels show no progress bars: on a slow machine they would differ from the stored outputs."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")
