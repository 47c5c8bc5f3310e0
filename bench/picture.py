"""The picture in the README: `python -m bench.picture` runs the real program and writes docs/terminal.svg."""

import re
import sys
import tempfile
from io import StringIO
from pathlib import Path

from pyte.screens import Char
from rich.console import Console
from rich.text import Text

from tests.cli.terminal import CTRL_D, ENTER, Terminal

COLUMNS, LINES = 100, 40
TALK = (
    "/set temperature 0", "/set max_tokens 90", "What is the capital of France?",
    "What language do people speak there?",
)  # fmt: skip


def styled(terminal: Terminal) -> Text:
    """What the terminal shows, with its colours."""
    text, screen = Text(), terminal.screen
    for row in range(screen.lines):
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            text.append(cell.data, style=style_of(cell))
        text.append("\n")
    text.rstrip()
    return text


def style_of(cell: Char) -> str:
    """The cell's look, in the words of rich."""
    names = {"default": "", "brown": "yellow"}
    colour = f"#{cell.fg}" if re.fullmatch("[0-9a-f]{6}", cell.fg) else cell.fg.replace("bright", "bright_")
    looks = {"bold": cell.bold, "italic": cell.italics, names.get(cell.fg, colour): True}
    return " ".join(word for word, there in looks.items() if word and there)


def main() -> int:
    """Talk, and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"HF_HUB_CACHE": f"{folder}/hub", "HF_HUB_OFFLINE": "1"}
        start = [sys.executable, "-c", "from octavo.cli.main import run; run()", "chat"]
        terminal = Terminal(start, state=Path(folder) / "state", env=env, columns=COLUMNS, lines=LINES)
        terminal.wait("/help lists", timeout_s=120)
        for count, line in enumerate(TALK, 1):
            terminal.prompt(count, timeout_s=120)
            terminal.send(line + ENTER)
        terminal.prompt(len(TALK) + 1, timeout_s=120)
        console = Console(record=True, width=COLUMNS, file=StringIO())
        console.print(styled(terminal), soft_wrap=True)
        terminal.send(CTRL_D)
        terminal.child.close(force=True)
    out = Path(__file__).resolve().parents[1] / "docs" / "terminal.svg"
    out.parent.mkdir(exist_ok=True)
    svg = console.export_svg(title="make chat")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # a picture fetches no fonts
    out.write_text(svg, encoding="utf-8")
    print(f"wrote {out.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
