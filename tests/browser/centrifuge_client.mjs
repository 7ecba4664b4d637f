// The published `centrifuge` client in node: it connects, stays on one socket while its tokens run out and are
// renewed, hears of a changed profile, and takes a logout for an answer.
//
// To run:  npm ci && PORTCULLIS_URL=http://127.0.0.1:8000 node centrifuge_client.mjs
//   PORTCULLIS_URL     a gateway started with a short token life: PORTCULLIS_ACCESS_TOKEN_TTL=4s (2s to 10s);
//                      PORTCULLIS_THROTTLING=off
//   PORTCULLIS_URL_B   optional, a second node: profile changes and logouts are then asked of that one
// Meant for a Rust test that starts the nodes, runs this and looks at the exit status; each step is a line `ok - …`.
// Exits 0 when every step held; else 1, with the step and the reason. Takes about four token lives.

import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';
import { NODE_A, NODE_B, PASSWORD, auth, freshEmail, run, step, until, validate } from './support.mjs';

const REFRESHES = 3;
const LONGEST_BACKOFF_MS = 400;
/** Several backoffs long: a client that meant to come back would have. */
const OBSERVED_MS = 2_000;

const email = freshEmail('grace');
const credentials = { email, password: PASSWORD };

run(async () => {
  const { session_id: sessionId } = await auth(NODE_A, 'POST', '/signup', { status: 201, body: credentials });
  const laptop = listen(sessionId);

  await step('the client connects with a token from validate-session', async () => {
    laptop.client.connect();
    await until('it is connected', () => laptop.client.state === 'connected');
    const { ttl } = laptop.replies.connect[0];
    assert.ok(ttl <= 10, `the gateway under test must give short-lived tokens, but it said ttl ${ttl}`);
  });

  await step('an rpc comes back', async () => {
    const data = { text: 'ünïcode ✓', list: [1, 2.5, null] };
    assert.deepEqual((await laptop.client.rpc('echo', data)).data, data);
    assert.equal((await laptop.client.rpc('auth.me', {})).data.email, email);
  });

  await step(`${REFRESHES} refreshes happen on one socket, without a reconnect`, async () => {
    const { ttl } = laptop.replies.connect[0];
    const timeout = (ttl + 5) * 1000 * REFRESHES;
    await until(`${REFRESHES} refreshes were answered`, () => laptop.replies.refresh.length >= REFRESHES, { timeout });
    assert.equal(laptop.client.state, 'connected');
    assert.equal(laptop.sockets.length, 1, 'one socket was opened');
    assert.deepEqual(laptop.states, ['connecting', 'connected'], 'it connected once');
    const ids = [...laptop.replies.connect, ...laptop.replies.refresh].map(({ client }) => client);
    assert.equal(new Set(ids).size, 1, `the client id stays the same: ${ids}`);
    assert.ok(laptop.tokens.size > REFRESHES, 'each refresh brought a new token');
  });

  await step('a changed profile is pushed', async () => {
    const { access_token: token } = await validate(NODE_B, sessionId);
    await auth(NODE_B, 'PATCH', '/update-profile', { token, body: { full_name: 'Grace Hopper' } });
    const message = await until('the push arrives', () => laptop.messages.find(({ type }) => type === 'user.updated'));
    assert.equal(message.user.full_name, 'Grace Hopper');
    assert.equal(message.user.email, email);
  });

  const phone = listen((await auth(NODE_A, 'POST', '/login', { body: credentials })).session_id, { failures: 2 });

  await step('a token that could not be had for now is asked for again', async () => {
    phone.client.connect();
    await until('it is connected in the end', () => phone.client.state === 'connected');
    assert.equal(phone.errors.filter(({ type }) => type === 'connectToken').length, 2);
  });

  await step('logging out one session ends its client with 4500, and no other', async () => {
    const { access_token: token } = await validate(NODE_B, phone.sessionId);
    await auth(NODE_B, 'POST', '/logout', { token });
    await ended(phone, 4500, 'logged out');
    await validate(NODE_A, phone.sessionId, 401);
    assert.equal(laptop.client.state, 'connected');
    assert.equal(laptop.sockets.length, 1);
  });

  await step('logging out everywhere ends the client with 4501, and it does not come back', async () => {
    const { access_token: token } = await validate(NODE_B, sessionId);
    await auth(NODE_B, 'POST', '/logout-all-devices', { token });
    await ended(laptop, 4501, 'logged out everywhere');
    assert.equal(laptop.sockets.length, 1);
    for (const base of [NODE_A, NODE_B]) {
      await validate(base, sessionId, 401);
      await auth(base, 'GET', '/me', { token, status: 401 });
    }
  });

  await step('a session that is over stops a new client too, by its own code for "unauthorized"', async () => {
    const late = listen(sessionId);
    late.client.connect();
    await until('it has given up', () => late.disconnected);
    assert.equal(late.disconnected.code, 1);
    assert.equal(late.sockets.length, 0, 'it never opened a socket');
  });
});

/** A client of one session on node A, and everything it lives through. The first `failures` tokens cannot be had. */
function listen(sessionId, { failures = 0 } = {}) {
  const seen = {
    sessionId, sockets: [], closes: [], replies: { connect: [], refresh: [] }, states: [], messages: [], errors: [],
    tokens: new Set(), disconnected: null,
  };
  seen.client = new Centrifuge(`${NODE_A.replace(/^http/, 'ws')}/ws`, {
    websocket: watched(seen),
    getToken: async () => {
      if (failures-- > 0) throw new Error('503, for all this client knows');
      return freshToken(sessionId, seen);
    },
    minReconnectDelay: 100,
    maxReconnectDelay: LONGEST_BACKOFF_MS,
  });
  for (const state of ['connecting', 'connected', 'disconnected']) seen.client.on(state, () => seen.states.push(state));
  seen.client.on('disconnected', (context) => { seen.disconnected = context; });
  seen.client.on('message', ({ data }) => seen.messages.push(data));
  seen.client.on('error', (error) => seen.errors.push(error));
  return seen;
}

/** As an application should: only a 401 ends it, anything else is worth another try. */
async function freshToken(sessionId, seen) {
  const response = await fetch(`${NODE_A}/api/v1/auth/validate-session`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ session_id: sessionId }),
  });
  if (response.status === 401) throw new Centrifuge.UnauthorizedError('the session is over');
  if (!response.ok) throw new Error(`validate-session answered ${response.status}`);
  const { access_token: token } = await response.json();
  seen.tokens.add(token);
  return token;
}

function watched(seen) {
  return class extends WebSocket {
    constructor(...args) {
      super(...args);
      seen.sockets.push(this);
      this.addEventListener('message', ({ data }) => record(seen, String(data)));
      this.addEventListener('close', ({ code, reason }) => seen.closes.push({ code, reason }));
    }
  };
}

function record(seen, frame) {
  for (const line of frame.split('\n')) {
    const reply = JSON.parse(line);
    for (const kind of ['connect', 'refresh']) if (reply[kind]) seen.replies[kind].push(reply[kind]);
  }
}

/** The client stopped for good: with this code, on a socket closed with the same, and without another attempt. */
async function ended(seen, code, reason) {
  await until(`the client is disconnected with ${code}`, () => seen.disconnected);
  assert.deepEqual({ code: seen.disconnected.code, reason: seen.disconnected.reason }, { code, reason });
  const close = await until('the close frame arrived', () => seen.closes.at(-1));
  assert.deepEqual(close, { code, reason });
  const opened = seen.sockets.length;
  await pause(OBSERVED_MS);
  assert.equal(seen.client.state, 'disconnected');
  assert.equal(seen.sockets.length, opened, 'no new connection was tried');
}
