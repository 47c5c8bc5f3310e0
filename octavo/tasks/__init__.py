"""Tasks: problems with checkable answers. `TASKS` names them all."""

from octavo.tasks.base import Task

TASKS: dict[str, Task] = {}
