"""The ledger goes on whatever it is given."""

import asyncio
from pathlib import Path

from octavo.serve.gateway.ledger import Entry, Ledger
from octavo.serve.gateway.state import State


def test_a_row_that_cannot_be_written_holds_up_no_other(tmp_path: Path):
    state = State(tmp_path)
    ledger = Ledger(state, run="r")
    for id, time in (("a", 1.0), ("a", 1.0), ("b", 1.0), ("\udcff", 1.0), ("c", 1.0)):
        entry = Entry(id=id, time=time, key="", workspace="", model="m", dialect="chat", batch=False)
        ledger.enter(entry)
    ledger.write("UPDATE ledger SET prompt = ? WHERE id = 'a'", (1 << 70,))
    last = ledger.write("UPDATE ledger SET prompt = ? WHERE id = 'c'", (7,))
    asyncio.run(ledger.kept(last))
    rows = state.connect().execute("SELECT id, prompt FROM ledger ORDER BY id")
    assert [tuple(row) for row in rows] == [("a", 0), ("b", 0), ("c", 7)] and ledger.written >= last
    ledger.close()
