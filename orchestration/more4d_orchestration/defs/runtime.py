"""Where the stages run: on this machine, one after the other, as each uses every core."""

import dagster as dg

from more4d_orchestration.launcher import LocalLauncher


@dg.definitions
def runtime() -> dg.Definitions:
    """The launcher, and the executor that waits for it."""
    return dg.Definitions(resources={"launcher": LocalLauncher()}, executor=dg.in_process_executor)
