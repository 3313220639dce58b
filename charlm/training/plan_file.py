"""The plan on disk: written before it acts, read by whoever goes on with the run."""

from charlm import files
from charlm.checkpoint.manifest import read_regular
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.strict_json import LARGEST, dump, parse
from charlm.errors import CheckpointError, ResourceError
from charlm.training.plan import Plan

NAME = "plan.json"


def write_plan(run: RunFolder, plan: Plan) -> None:
    """Replace the run's plan and wait for the disk; ResourceError if that is refused."""
    try:
        files.replace(run.path / NAME, dump(plan.to_json()))
    except OSError as error:
        raise ResourceError(f"the plan of {run.name} cannot be written: {error.strerror}") from None


def read_plan(run: RunFolder) -> Plan:
    """The run's plan; CheckpointError where it is missing or damaged."""
    try:
        return Plan.from_json(parse(read_regular(run.path / NAME, LARGEST), NAME))
    except ValueError as error:
        raise CheckpointError(f"{NAME} of {run.name} is damaged: {error}") from None
