"""The pictures of the page in the README, from written answers: docs/pictures/page-*.png."""

from pathlib import Path

from bench.browser.stage import PHONE, ROOT, Options, Page, Stage, browser
from tests.serve.page.scripted import Script, Scripted, running

LARGEST = 150_000  # bytes of a picture
QUESTION = "Why does the harmonic series diverge? Show it with code, too."
THINKING = ("The user wants a short proof and code. Oresme's grouping is the simplest: each block of terms from "
            "2^k + 1 to 2^(k+1) sums to at least one half. Then a few lines of Python print partial sums.")  # fmt: skip
ANSWER = r"""Group the terms so that each group adds at least **one half** (Oresme, about 1350):

$$\sum_{n=1}^{\infty} \frac{1}{n} \;\ge\; 1 + \frac{1}{2} + 2\cdot\frac{1}{4} + \cdots = \infty$$

It grows slowly: the sum of the first $n$ terms is close to $\ln n + 0.577$.

```python
from math import log

total = 0.0
for n in range(1, 1_000_001):
    total += 1 / n
print(total, log(n) + 0.577)   # 14.3927 14.3925
```
"""
SHORT = ("Group the terms: each block from $2^k + 1$ to $2^{k+1}$ adds at least one half,\n\n"
         "$$\\frac{1}{3} + \\frac{1}{4} > \\frac{1}{2}, \\quad \\frac{1}{5} + \\dots + \\frac{1}{8} > \\frac{1}{2}$$"
         "\n\nso the sums grow without bound.")  # fmt: skip
LONG = ("Compare with an integral:\n\n$$\\sum_{n=1}^{N} \\frac{1}{n} \\ge \\int_1^{N+1} \\frac{dx}{x} = \\ln(N+1)$$\n\n"
        "The right side has no bound, so neither has the left.")  # fmt: skip


def take() -> int:
    """Take all of them. Returns the exit code."""
    (ROOT / "docs" / "pictures").mkdir(parents=True, exist_ok=True)
    with running(Scripted()) as scripted, browser() as shown:
        stage = Stage(shown, scripted)
        stage.script(QUESTION, Script(ANSWER, thinking=THINKING, piece_s=0.05))
        talk(stage, "light", {"color_scheme": "light"})
        talk(stage, "dark", {"color_scheme": "dark"})
        talk(stage, "phone", {"viewport": PHONE, "color_scheme": "light"})
        compare(stage)
    return 0


def talk(stage: Stage, name: str, options: Options) -> None:
    """A conversation with one answer."""
    with stage.page(options=options) as p:
        for title in ("Names for a library cat", "Plan a week in Kyoto"):
            p.ask(title)
            p.page.keyboard.press("Alt+n")
        p.ask(QUESTION)
        p.page.locator("details.thought").evaluate("(one) => (one.open = true)")
        p.page.locator("#scroller").evaluate("(one) => (one.scrollTop = 0)")
        shoot(p, name)


def compare(stage: Stage) -> None:
    """Two answers before the vote."""
    asked = "Why does the harmonic series diverge?"
    with stage.page(options={"color_scheme": "light"}) as p:
        p.page.click("#compare-open")
        p.page.select_option("#compare-two", "quire")
        stage.script(f"{asked}@leaf", SHORT)
        stage.script(f"{asked}@quire", LONG)
        for vote in ("a", "tie", ""):
            p.page.fill("#compare-say", asked)
            p.page.press("#compare-say", "Enter")
            p.page.wait_for_selector("#votes:not([hidden])")
            if vote:
                p.page.click(f"#vote-{vote}")
        shoot(p, "compare")


def shoot(p: Page, name: str) -> None:
    """One picture, small enough for a README."""
    p.page.wait_for_timeout(250)
    place = Path(ROOT / "docs" / "pictures" / f"page-{name}.png")
    p.page.screenshot(path=place)
    size = place.stat().st_size
    assert size <= LARGEST, f"{place.name} has {size} bytes, the limit is {LARGEST}"
    print(f"wrote {place.name}, {size // 1000} kB")
