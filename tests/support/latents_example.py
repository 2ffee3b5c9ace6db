"""Numbers of a small FL-MRCM job, and latents as a target site gives them."""

import numpy as np

ROUNDS, VECTORS, WIDTH = 3, 5, 32


ALGORITHM = {"name": "flmrcm", "target_sites": ["site-3"], "vectors": VECTORS}


def given(count=VECTORS, width=WIDTH):
    return np.ones((count, width), np.float32)
