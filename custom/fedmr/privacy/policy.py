"""Policy of a site's owner, in a file of the site. A job can ask for less, never for more."""

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from fedmr.utils.class_path import POLICY_FILE
from fedmr.utils.validation import Count, Flag, Positive, settings

Unit = Literal["site", "patient", "slice"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_Delta = Annotated[
    Annotated[int | float, Field(gt=0, le=0.1)] | None, Field(description="a number above 0 and at most 0.1, or null")
]
_Ceilings = Annotated[Mapping[Unit, Positive], Field(description=f"numbers above 0 by unit: {', '.join(UNITS)}")]
_Classes = Annotated[tuple[str, ...], Field(description="a list of class paths")]


class PolicyError(ValueError):
    """The site's policy cannot be read, or a job asks for more than it allows; nothing is sent."""


@settings("policy:")
class Policy:
    """Limits of the site's owner.

    Attributes:
        delta: at which epsilons are counted, whatever larger one a job names; None leaves it to the job.
        max_epsilon: largest total epsilon by unit, one of `UNITS`; a unit that is not named is left to the job.
        min_patients: statistics of fewer patients do not leave.
        min_volumes: metrics that are means over fewer volumes do not leave.
        required_filters: classes of filters that every job must apply to what leaves by training.
        encryption: no job may send what it has trained unencrypted.
        classes: what jobs without code may name in addition to FedMR's own components.
    """

    delta: _Delta = None
    max_epsilon: _Ceilings = field(default_factory=dict)
    min_patients: Count = 1
    min_volumes: Count = 1
    required_filters: _Classes = ()
    encryption: Flag = False
    classes: _Classes = ()

    def tighten(self, unit: str, delta: float, max_epsilon: float) -> tuple[float, float]:
        """Delta and largest epsilon that hold for a job's release: the stricter of the job's and the site's."""
        ceiling = next((most for name, most in self.max_epsilon.items() if name == unit), max_epsilon)
        return min(delta, self.delta or delta), min(max_epsilon, ceiling)


# What `fedmr poc site` writes: numbers of common practice, for the owner to change.
SUGGESTED = Policy(delta=1e-5, max_epsilon=dict.fromkeys(UNITS, 10.0), min_patients=5)


def read_policy(local: Path) -> Policy:
    """Read the policy of a site; without a file nothing is limited.

    Args:
        local: the site's `local` folder.

    Raises:
        PolicyError: the file cannot be read or says something unknown. Errors name no path beyond the folder's name,
            as a site's log may reach the server.
    """
    name = f"{local.name}/{POLICY_FILE}"
    try:
        content = json.loads((local / POLICY_FILE).read_text())
    except FileNotFoundError:
        return Policy()
    except (OSError, ValueError) as error:
        raise PolicyError(f"{name} cannot be read ({type(error).__name__}); mend it. Nothing is sent") from None
    try:
        lists = {key: tuple(content[key]) for key in ("required_filters", "classes") if key in content}
        return Policy(**(content | lists))
    except (ValueError, TypeError, AttributeError) as error:
        raise PolicyError(f"{name}: {error}. Nothing is sent") from None


def write_policy(local: Path, policy: Policy = SUGGESTED) -> bool:
    """Write a policy unless there is one, which is its owner's; whether it was written."""
    path = local / POLICY_FILE
    if path.exists():
        return False
    content: dict[str, Any] = asdict(policy)
    path.write_text(json.dumps(content, indent=2) + "\n")
    return True
