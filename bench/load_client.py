"""Many clients at once, as light as can be: raw sockets, one event loop. Times of every stream, read by `serve_load`.

`python -m bench.load_client` reads one JSON order from standard input and prints one JSON answer:
{"host", "port", "clients", "seconds", "bodies": [JSON of a chat request, ...], "key"} -> {"streams": [...]}.
"""

import asyncio
import json
import sys
import time
from typing import Any

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n{key}" \
       "Content-Length: {size}\r\n\r\n"  # fmt: skip


async def stream(order: dict[str, Any], body: bytes, *, patience_s: float) -> dict[str, Any]:
    """One request on a connection of its own: status, seconds to the first token and to the end, events."""
    began_s = time.perf_counter()
    told: dict[str, Any] = {"status": 0, "first_s": None, "events": 0, "tokens": 0, "done": False}
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_connection(order["host"], order["port"])
            key = f"Authorization: Bearer {order['key']}\r\n" if order.get("key") else ""
            head = HEAD.format(host=order["host"], port=order["port"], size=len(body), key=key)
            writer.write(head.encode() + body)
            told["status"] = int((await reader.readline()).split()[1])
            await read_events(reader, told, began_s)
            writer.close()
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, IndexError) as cause:
        told["error"] = type(cause).__name__
    told["took_s"] = time.perf_counter() - began_s
    return told


async def read_events(reader: asyncio.StreamReader, told: dict[str, Any], began_s: float) -> None:
    """Until the end of a stream, or of an error's body."""
    async for line in reader:
        if told["status"] != 200:
            if line.lower().startswith(b"retry-after:"):
                told["retry_after"] = line.split(b":", 1)[1].strip().decode()
            if line == b"\r\n":
                return
        elif line.startswith(b"data: {"):
            if b'"usage":{' in line:
                told["tokens"] = json.loads(line[6:])["usage"]["completion_tokens"]
            elif b'"content":"' in line or b'"reasoning":"' in line or b'"reasoning_content":"' in line:
                told["events"] += b'"content":""' not in line
                if told["first_s"] is None and b'"content":""' not in line:
                    told["first_s"] = time.perf_counter() - began_s
        elif line.startswith(b"data: [DONE]"):
            told["done"] = True
            return


async def client(order: dict[str, Any], number: int, *, until_s: float, told: list[dict[str, Any]]) -> None:
    """One request after the other, until the time is over; a refusal is waited out as the server asks."""
    bodies = [body.encode() for body in order["bodies"]]
    turn = number
    while time.perf_counter() < until_s:
        one = await stream(order, bodies[turn % len(bodies)], patience_s=order.get("patience_s", 120))
        told.append({**one, "client": number, "ended_s": time.perf_counter()})
        turn += order["clients"]
        if one["status"] != 200:
            await asyncio.sleep(min(float(one.get("retry_after", 0.2)), 10.0))


async def crowd(order: dict[str, Any]) -> dict[str, Any]:
    """All clients. Streams that began in time are read to their end."""
    told: list[dict[str, Any]] = []
    began_s = time.perf_counter()
    await asyncio.gather(
        *(client(order, i, until_s=began_s + order["seconds"], told=told) for i in range(order["clients"]))
    )
    return {"streams": told, "took_s": time.perf_counter() - began_s}


if __name__ == "__main__":
    json.dump(asyncio.run(crowd(json.load(sys.stdin))), sys.stdout)
