"""A head as a scanner measures it, and as one stores it that fills k-space up to a larger matrix."""

import numpy as np
from scipy.ndimage import gaussian_filter


def head(shape=(128, 112, 6), *, seed=0, noise=8.0) -> np.ndarray:
    """An ellipsoid with texture and white noise, as acquired: complex, its magnitude not yet taken."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    texture = sum(gaussian_filter(rng.normal(size=shape), s) * 600 * s for s in (0.6, 1.2, 2.5))
    body = (x**2 + y**2 + 0.3 * z**2 < 1) * (500 + texture)
    return body + rng.normal(0, noise, shape) + 1j * rng.normal(0, noise, shape)


def filled(voxels: np.ndarray, shape) -> np.ndarray:
    """Magnitude of a complex image whose k-space is filled up with zeros to a larger shape."""
    for axis, (old, new) in enumerate(zip(voxels.shape, shape, strict=True)):
        kspace = np.fft.fftshift(np.fft.fft(voxels, axis=axis), axes=axis)
        margin = [(0, 0)] * 3
        margin[axis] = (new // 2 - old // 2, new - old - (new // 2 - old // 2))
        voxels = np.fft.ifft(np.fft.ifftshift(np.pad(kspace, margin), axes=axis), axis=axis) * new / old
    return np.abs(voxels)
