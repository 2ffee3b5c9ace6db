import pytest

from phantoms import write_site
from simulator import SITES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sites that take a different number of steps."""
    root = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES[:2], start=1):
        write_site(root, site, seed=number, patients=2 + number, shape=(40, 40, 3))
    return root
