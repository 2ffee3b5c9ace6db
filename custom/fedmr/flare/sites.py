"""Where a FLARE site finds its data."""

import contextlib
from pathlib import Path

import psutil
from nvflare.apis.fl_context import FLContext

from fedmr.data.datalist import find_site_folder


def site_folder(fl_ctx: FLContext) -> Path:
    """The site's folder with `datalist.json`; the search is that of `fedmr.data.datalist.find_site_folder`.

    Raises:
        DataError: no datalist; lists the places tried.
    """
    root = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
    near = [*_typed_in(), root.parent, root.parent.parent]
    return find_site_folder(fl_ctx.get_identity_name(), root / "local", near=near)


def local_folder(fl_ctx: FLContext) -> Path:
    """Folder of what the site's owner has set, such as its policy and its privacy account."""
    return Path(fl_ctx.get_engine().get_workspace().get_site_config_dir())


def _typed_in() -> list[Path]:
    """Working directories of FLARE's processes above this one, nearest first.

    FLARE changes the working directory to its workspace; only the first process, the command itself, stays where it
    was typed. Processes above that, such as the shell's, are none of ours.
    """
    folders = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            if not any("nvflare" in word for word in process.cmdline()):
                break
            folders.append(Path(process.cwd()))
    return folders
