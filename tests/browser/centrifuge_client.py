"""The published `centrifuge-python` client: it connects, calls, renews its token, and ends with 4501 on logout-all.

To run:  python3 -m venv venv && venv/bin/pip install -r requirements.txt
         PORTCULLIS_URL=http://127.0.0.1:8000 venv/bin/python centrifuge_client.py
  PORTCULLIS_URL     a running gateway, started with PORTCULLIS_ACCESS_TOKEN_TTL=4s (2s to 10s)
                     and PORTCULLIS_THROTTLING=off
  PORTCULLIS_URL_B   optional, a second node: the logout is then asked of that one
Meant for a Rust test that starts the nodes, runs this and looks at the exit status; each step is a line `ok - …`.
Exits 0 when every step held; else 1, with the step and the reason.
"""

import asyncio
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.request

from centrifuge import Client, ClientEventHandler, ClientState, UnauthorizedError

PASSWORD = "correct horse battery staple"
LONGEST_BACKOFF = 0.4
# Several backoffs long: a client that meant to come back would have.
OBSERVED = 2.0

# The gateway is on this machine; a proxy of the environment is not.
http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def base_url(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"not ok - set {name} to the base URL of a running gateway, as http://127.0.0.1:8000")
    return value.rstrip("/")


def call(base: str, method: str, path: str, body: dict | None = None, token: str | None = None) -> tuple[int, dict]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{base}/api/v1/auth{path}", data=data, headers=headers, method=method)
    try:
        with http.open(request, timeout=10) as response:
            return response.status, json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.loads(refusal.read() or b"{}")


class Seen(ClientEventHandler):
    """Everything the client lived through."""

    def __init__(self):
        self.connecting, self.connected, self.disconnected, self.errors = [], [], [], []

    async def on_connecting(self, ctx):
        self.connecting.append(ctx)

    async def on_connected(self, ctx):
        self.connected.append(ctx)

    async def on_disconnected(self, ctx):
        self.disconnected.append(ctx)

    async def on_error(self, ctx):
        self.errors.append(ctx)


def ok(step: str) -> None:
    print(f"ok - {step}", flush=True)


async def until(what: str, condition, timeout: float = 15.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"gave up after {timeout} s waiting until {what}"
        await asyncio.sleep(0.02)


async def main() -> None:
    node_a = base_url("PORTCULLIS_URL")
    node_b = base_url("PORTCULLIS_URL_B") if os.environ.get("PORTCULLIS_URL_B") else node_a

    email = f"guido-{secrets.token_hex(6)}@example.com"
    status, login = call(node_a, "POST", "/signup", {"email": email, "password": PASSWORD})
    assert status == 201, (status, login)
    session_id = login["session_id"]
    tokens = []

    async def get_token() -> str:
        answer = await asyncio.to_thread(call, node_a, "POST", "/validate-session", {"session_id": session_id})
        if answer[0] == 401:
            raise UnauthorizedError()
        if answer[0] != 200:
            raise RuntimeError(f"validate-session answered {answer[0]}")
        tokens.append(answer[1]["access_token"])
        return tokens[-1]

    seen = Seen()
    client = Client(
        f"ws{node_a.removeprefix('http')}/ws",
        events=seen,
        get_token=get_token,
        min_reconnect_delay=0.1,
        max_reconnect_delay=LONGEST_BACKOFF,
        proxy=None,
    )

    await client.connect()
    await until("the client is connected", lambda: seen.connected)
    ok("the client connects with a token from validate-session")

    data = {"text": "ünïcode ✓", "list": [1, 2.5, None]}
    assert (await client.rpc("echo", data)).data == data
    ok("an rpc comes back")

    await until("the token was renewed twice", lambda: len(tokens) >= 3, timeout=45)
    assert (await client.rpc("echo", 1)).data == 1
    assert client.state == ClientState.CONNECTED
    assert len(seen.connected) == 1, seen.connecting
    ok("the token is renewed on one connection")

    status, login = call(node_b, "POST", "/validate-session", {"session_id": session_id})
    assert status == 200, (status, login)
    status, answer = call(node_b, "POST", "/logout-all-devices", token=login["access_token"])
    assert (status, answer.get("sessions_revoked")) == (200, 1), (status, answer)
    await until("the client is disconnected", lambda: seen.disconnected)
    assert (seen.disconnected[0].code, seen.disconnected[0].reason) == (4501, "logged out everywhere")
    ok("logging out everywhere ends the client with 4501")

    await asyncio.sleep(OBSERVED)
    assert client.state == ClientState.DISCONNECTED
    assert len(seen.connecting) == 1, seen.connecting
    status, _ = call(node_a, "POST", "/validate-session", {"session_id": session_id})
    assert status == 401, status
    ok("it does not come back")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except AssertionError as failure:
        print(f"not ok - {failure}", flush=True)
        raise
