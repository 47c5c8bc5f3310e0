"""Reads the page's table of words."""

import json
import re


def words_of(module: str) -> dict[str, list[str]]:
    """Key -> its words in each language."""
    return {key: json.loads(row) for key, row in re.findall(r"^  (\w+): (\[.*\]),$", module, re.MULTILINE)}
