"""Tasks: problems with checkable answers. `TASKS` names them all."""

from octavo.tasks.arithmetic import Arithmetic
from octavo.tasks.base import Task
from octavo.tasks.chain import Chains
from octavo.tasks.countdown import Countdown
from octavo.tasks.dates import Dates
from octavo.tasks.forms import Forms
from octavo.tasks.grid import Grid
from octavo.tasks.gsm8k import GSM8K, MGSM
from octavo.tasks.letters import Letters
from octavo.tasks.math500 import Math500
from octavo.tasks.maze import Maze
from octavo.tasks.programs import Programs
from octavo.tasks.retrieval import Retrieval
from octavo.tasks.sorting import Sorting
from octavo.tasks.stories import Stories
from octavo.tasks.switches import Switches
from octavo.tasks.table import Table
from octavo.tasks.tools import Tools
from octavo.tasks.unanswerable import Unanswerable
from octavo.tasks.units import Units

TASKS: dict[str, Task] = {
    "chain": Chains(), "arithmetic": Arithmetic(), "stories": Stories(), "sorting": Sorting(), "dates": Dates(),
    "units": Units(), "letters": Letters(), "programs": Programs(), "table": Table(), "countdown": Countdown(),
    "maze": Maze(), "grid": Grid(), "retrieval": Retrieval(), "unanswerable": Unanswerable(), "format": Forms(),
    "tools": Tools(), "switches": Switches(), "gsm8k": GSM8K(), "mgsm": MGSM(), "math500": Math500(),
}  # fmt: skip
