// What the scripts of this folder share: where the gateway is, its REST calls, steps, and waiting for a condition.

import assert from 'node:assert/strict';

export const NODE_A = baseUrl('PORTCULLIS_URL');
/** A second node of the same gateway; without one, the first does everything. */
export const NODE_B = process.env.PORTCULLIS_URL_B ? baseUrl('PORTCULLIS_URL_B') : NODE_A;

export const PASSWORD = 'correct horse battery staple';

function baseUrl(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`not ok - set ${name} to the base URL of a running gateway, as http://127.0.0.1:8000`);
    process.exit(2);
  }
  return value.replace(/\/+$/, '');
}

export const freshEmail = (who) => `${who}-${Date.now()}-${Math.floor(Math.random() * 1e6)}@example.com`;

export async function step(promise, action) {
  try {
    await action();
  } catch (failure) {
    console.log(`not ok - ${promise}`);
    throw failure;
  }
  console.log(`ok - ${promise}`);
}

/** Runs a script to its end and turns any failure into a message and a non-zero exit. */
export async function run(main) {
  try {
    await main();
  } catch (failure) {
    console.error(failure.stack ?? failure);
    process.exit(1);
  }
  process.exit(0);
}

/** Waits until `condition` gives something true, looking often; `what` names it when it never does. */
export async function until(what, condition, { timeout = 15_000 } = {}) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`gave up after ${timeout} ms waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** One REST call below `/api/v1/auth`; the answer's status must be the one expected. */
export async function auth(base, method, path, { status = 200, token, body, headers } = {}) {
  const response = await fetch(`${base}/api/v1/auth${path}`, {
    method,
    headers: {
      ...(token && { Authorization: `Bearer ${token}` }),
      ...(body && { 'Content-Type': 'application/json' }),
      ...headers,
    },
    body: body && JSON.stringify(body),
  });
  const text = await response.text();
  assert.equal(response.status, status, `${method} ${path} answered ${response.status}: ${text}`);
  return text ? JSON.parse(text) : null;
}

export const validate = (base, sessionId, status = 200) =>
  auth(base, 'POST', '/validate-session', { body: { session_id: sessionId }, status });
