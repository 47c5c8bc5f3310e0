"""Tiktoken rank files: one token per line, base64 text and rank. Its ranks imply the merges."""

import binascii
from itertools import pairwise
from pathlib import Path

from octavo.core.errors import TokenizerError

_LIMIT_BYTES = 64 << 20  # the largest rank file known has 4 MB
_LIMIT_TOKEN_BYTES = 1024  # the longest token known has 128; recovering a merge takes time with the square of it


def read_ranks(path: Path) -> list[bytes]:
    """The tokens in the order of their ranks, all 256 bytes among them. Raises TokenizerError naming the line."""
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise TokenizerError(f"{path} is larger than {_LIMIT_BYTES:,} bytes: it is no tiktoken rank file.")
        lines = path.read_bytes().splitlines()
    except OSError as cause:
        raise TokenizerError(f"{path} cannot be read ({cause.strerror}): point at a tiktoken rank file.") from cause
    by_rank: dict[int, bytes] = {}
    seen: set[bytes] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        token, rank = _read_line(line, where=f"{path}, line {number}")
        if rank in by_rank or token in seen:
            what = f"rank {rank}" if rank in by_rank else f"token {token!r}"
            raise TokenizerError(f"{path}, line {number}: {what} occurs twice, each may once. Download the file again.")
        by_rank[rank] = token
        seen.add(token)
    missing = next((rank for rank in range(len(by_rank)) if rank not in by_rank), None)
    if missing is not None or not by_rank:
        raise TokenizerError(f"{path} has no rank {missing or 0}: ranks run from 0 without gaps. Download it again.")
    lost = next((byte for byte in range(256) if bytes([byte]) not in seen), None)
    if lost is not None:
        raise TokenizerError(f"{path} has no token for the byte {lost:#04x}, all 256 are needed. Download it again.")
    return [by_rank[rank] for rank in range(len(by_rank))]


def _read_line(line: bytes, *, where: str) -> tuple[bytes, int]:
    fields = line.split()
    if len(fields) != 2 or not fields[1].isdigit() or len(fields[1]) > 9:
        raise TokenizerError(f"{where} is not a base64 token and its rank: {line[:60]!r}. Download the file again.")
    try:
        token = binascii.a2b_base64(fields[0], strict_mode=True)
    except binascii.Error as cause:
        raise TokenizerError(f"{where}: {fields[0][:60]!r} is not base64 ({cause}). Download it again.") from cause
    if not 0 < len(token) <= _LIMIT_TOKEN_BYTES:
        raise TokenizerError(
            f"{where} has a token of {len(token)} bytes, 1 to {_LIMIT_TOKEN_BYTES} were needed. Download it again."
        )
    return token, int(fields[1])


def recover_merges(tokens: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The merge that makes each token, in the order of ranks; and whether every token of two bytes or more has one.

    A token's merge is the last two parts that are left when its bytes are merged with lower ranks only. Where more
    than two are left, merging never makes the token: such files count on whole words being looked up first.
    """
    rank_of = {token: rank for rank, token in enumerate(tokens)}
    merges: list[tuple[bytes, bytes]] = []
    complete = True
    for rank, token in enumerate(tokens):
        if len(token) == 1:
            continue
        parts = _merge_below(token, rank, rank_of=rank_of)
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
        else:
            complete = False
    return merges, complete


def _merge_below(token: bytes, limit: int, *, rank_of: dict[bytes, int]) -> list[bytes]:
    """The parts of `token` once all merges of a rank below `limit` are made, lowest first, leftmost first."""
    parts = [token[i : i + 1] for i in range(len(token))]
    find = rank_of.get
    pairs = [find(left + right, limit) for left, right in pairwise(parts)]
    while len(parts) > 2:
        lowest = min(pairs)
        if lowest >= limit:
            break
        at = pairs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pairs[at]
        if at < len(pairs):
            pairs[at] = find(parts[at] + parts[at + 1], limit)
        if at:
            pairs[at - 1] = find(parts[at - 1] + parts[at], limit)
    return parts
