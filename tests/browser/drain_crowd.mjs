// A crowd of published `centrifuge` clients behind a balancer, while one of two nodes is drained: each is told 3001, each
// comes back to the other node by itself, and they do not come in a herd.
//
// To run:  npm ci && PORTCULLIS_URL=… PORTCULLIS_URL_B=… PORTCULLIS_PID=… node drain_crowd.mjs
//   PORTCULLIS_PID     the process of the first node, which is sent SIGTERM
//   DRAIN_WINDOW_MS    what the first node was started with (PORTCULLIS_DRAIN_WINDOW)
//   CLIENTS            how many, 150 unless said otherwise
// Prints a histogram of when they were connected again. Exits 0 when all are and the spread held.

import assert from 'node:assert/strict';
import net from 'node:net';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';
import { NODE_A, NODE_B, PASSWORD, auth, freshEmail, run, step, until } from './support.mjs';

const CLIENTS = Number(process.env.CLIENTS ?? 150);
const WINDOW_MS = Number(process.env.DRAIN_WINDOW_MS);
const PID = Number(process.env.PORTCULLIS_PID);

run(async () => {
  assert.ok(PID > 0 && WINDOW_MS > 0, 'PORTCULLIS_PID and DRAIN_WINDOW_MS are needed');
  const email = freshEmail('crowd');
  const { access_token: token } = await auth(NODE_A, 'POST', '/signup', {
    status: 201, body: { email, password: PASSWORD },
  });
  const balancer = await balance([NODE_A, NODE_B]);
  const crowd = Array.from({ length: CLIENTS }, () => client(balancer.url, token));

  await step(`${CLIENTS} clients connect to the first node`, async () => {
    for (const { client } of crowd) client.connect();
    await until('all are connected', () => crowd.every(({ connected }) => connected.length === 1), { timeout: 60_000 });
  });

  const started = Date.now();
  process.kill(PID, 'SIGTERM');

  await step('each is told 3001 once and comes back by itself', async () => {
    const all = () => crowd.every(({ connected }) => connected.length === 2);
    await until('all are connected again', all, { timeout: WINDOW_MS + 45_000 });
    for (const { closes } of crowd) assert.deepEqual(closes, [{ code: 3001, reason: 'shutdown' }]);
    assert.ok(balancer.chosen.at(-1) === NODE_B, 'the second node took them');
  });

  const told = crowd.map(({ closedAt }) => closedAt - started).sort((a, b) => a - b);
  const back = crowd.map(({ connected }) => connected[1] - started).sort((a, b) => a - b);
  histogram('told', told);
  histogram('back', back);

  await step('they neither leave nor arrive in a herd', () => {
    for (const times of [told, back]) {
      const half = Math.floor(times.length / 2);
      const narrowest = Math.min(...times.slice(half - 1).map((time, index) => time - times[index]));
      assert.ok(narrowest > WINDOW_MS / 8, `half of them came within ${narrowest} ms`);
    }
  });

  for (const { client } of crowd) client.disconnect();
  balancer.close();
});

function client(url, token) {
  const seen = { connected: [], closes: [], closedAt: 0 };
  seen.client = new Centrifuge(url, {
    token,
    websocket: class extends WebSocket {
      constructor(...args) {
        super(...args);
        this.addEventListener('close', ({ code, reason }) => {
          // A handshake that met the draining node ends with 1006, and the client tries again.
          if (code !== 1006) seen.closes.push({ code, reason });
          seen.closedAt ||= Date.now();
        });
        this.addEventListener('error', () => {});
      }
    },
  });
  seen.client.on('connected', () => seen.connected.push(Date.now()));
  return seen;
}

/** As balancers do: new connections go to the first node that says it is ready, old ones stay where they are. */
async function balance(nodes) {
  const chosen = [];
  let ready = nodes[0];
  const look = setInterval(async () => {
    for (const node of nodes) {
      const answer = await fetch(`${node}/health/ready`).catch(() => null);
      if (answer?.ok) { ready = node; return; }
    }
  }, 100);
  const server = net.createServer((incoming) => {
    chosen.push(ready);
    const { hostname, port } = new URL(ready);
    const outgoing = net.connect(Number(port), hostname);
    incoming.pipe(outgoing).pipe(incoming);
    for (const [one, other] of [[incoming, outgoing], [outgoing, incoming]]) one.on('error', () => other.destroy());
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const close = () => { clearInterval(look); server.close(); };
  return { url: `ws://127.0.0.1:${server.address().port}/ws`, chosen, close };
}

function histogram(what, times) {
  const step = WINDOW_MS / 16;
  const counts = [];
  for (const time of times) counts[Math.floor(time / step)] = (counts[Math.floor(time / step)] ?? 0) + 1;
  for (let index = 0; index < counts.length; index += 1) {
    const count = counts[index] ?? 0;
    console.log(`${what} ${String(Math.round(index * step)).padStart(6)} ms ${String(count).padStart(4)} ${'#'.repeat(count)}`);
  }
}
