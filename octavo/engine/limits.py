"""What a grammar may cost. `llguidance` counts its own work; these are the counts at which it gives up.

Measured over a vocabulary of 152k tokens: a step of a grammar made to be slow takes 90 ms with these limits, 750 ms
with the library's own. Its compiler has no limit for `multipleOf` (10 us for each unit): the server bounds that.
"""

import llguidance

from octavo.core.errors import RequestError

STEP_FUEL = 30_000  # for one mask; the library's own is 200,000
MOST_STATES = 100_000  # of the lexer, 2 kB each; the library's own is 250,000


def matcher(tokenizer: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    """A matcher at the start of a grammar. Raises RequestError for one that cannot be compiled, saying why.

    The interpreter's lock is free meanwhile: other threads go on.
    """
    limits = llguidance.LLParserLimits(step_lexer_fuel=STEP_FUEL, max_lexer_states=MOST_STATES, verbose_errors=False)
    made = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if made.is_error():
        raise RequestError(f"the grammar cannot be used: {first_line(made.get_error())}. Simplify it.")
    return made


def follow(at: llguidance.LLMatcher, token: int) -> None:
    """Take a token that the grammar's mask allowed. Raises RequestError where the grammar became too costly by it."""
    if not at.consume_token(token):
        raise RequestError(f"the grammar failed: {first_line(at.get_error())}. Simplify it.")


def first_line(text: str) -> str:
    """The first line of a message that says anything."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:300]
