"""Startup kits as FLARE leaves them, without the minute that provisioning takes: its own templates, unsigned."""

import json
from pathlib import Path

from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST

_COMPONENTS = [
    ("resource_manager", "nvflare.app_common.resource_managers.gpu_resource_manager.GPUResourceManager"),
    ("process_launcher", "nvflare.app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher"),
    ("site_log_streamer", "nvflare.app_common.logging.site_log_streamer.SiteLogStreamer"),
]
RIGHTS = {
    "project_admin": "any",
    "lead": {"submit_job": "any", "operate": "o:site", "shell_commands": "o:site", "byoc": "any"},
    "member": {"view": "any"},
}


def blank_kit(kit: Path) -> Path:
    """A site's kit before its owner fills it."""
    local = kit / "local"
    local.mkdir(parents=True)
    resources = {
        "format_version": 2,
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": list(DEFAULT_CLASS_ALLOW_LIST),
        "allow_log_streaming": True,
        "components": [{"id": name, "path": path, "args": {}} for name, path in _COMPONENTS],
    }
    (local / "resources.json.default").write_text(json.dumps(resources))
    (local / "authorization.json.default").write_text(json.dumps({"format_version": "1.0", "permissions": RIGHTS}))
    return kit
