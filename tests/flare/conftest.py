import contextlib
from types import SimpleNamespace

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.workspace import Workspace

from filter_run import context_of
from phantoms import write_site
from simulator import SITES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sites that take a different number of steps."""
    root = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES[:2], start=1):
        write_site(root, site, seed=number, patients=2 + number, shape=(40, 40, 3))
    return root


@pytest.fixture
def workspace(tmp_path):
    for folder in ("startup", "local", "job"):
        (tmp_path / "site-1" / folder).mkdir(parents=True)
    return Workspace(str(tmp_path / "site-1"), site_name="site-1")


@pytest.fixture
def events():
    return []


@pytest.fixture
def fl_ctx(workspace, events):
    engine = SimpleNamespace(
        get_workspace=lambda: workspace,
        fire_event=lambda kind, context: events.append((kind, context.get_prop(FLContextKey.EVENT_DATA))),
        new_context=lambda: contextlib.nullcontext(context_of(engine)),
        register_aux_message_handler=lambda **_: None,
    )
    return context_of(engine)
