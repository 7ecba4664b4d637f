// Cookie mode under pages of other origins, in headless Chromium. To a browser another port of 127.0.0.1 is another
// origin of the same site (so the cookie goes along), and localhost is another site.
//
// To run:  see tests/security/browser.rs, which starts two nodes: the first allows its own pages alone, the second those
// of http://127.0.0.1:$LISTED_PORT. Needs openssl for a certificate.

import assert from 'node:assert/strict';
import { COOKIE, COOKIE_BEHIND_TLS, behindTls, cookieOf, emptyPages, launch, port, visit } from './foreign.mjs';
import { NODE_A, NODE_B, PASSWORD, auth, freshEmail, run, step, until, validate } from './support.mjs';

const [FOREIGN, LISTED, TLS] = ['FOREIGN_PORT', 'LISTED_PORT', 'TLS_PORT'].map(port);
const SAME_SITE = `http://127.0.0.1:${FOREIGN}/`;
const OTHER_SITE = `http://localhost:${FOREIGN}/`;

run(async () => {
  const servers = await Promise.all([emptyPages(FOREIGN), emptyPages(LISTED), behindTls(NODE_A, TLS)]);
  const browser = await launch();
  try {
    await story(browser);
  } finally {
    await browser.close();
    servers.forEach((server) => server.close());
  }
});

/** Somebody logged in by a page of the gateway's own. */
async function loggedIn(browser, base = NODE_A) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const email = freshEmail('ada');
  const own = await visit(context, `${base}/docs`);
  const answer = await own.evaluate(async ([address, password]) => {
    const response = await fetch('/api/v1/auth/signup', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ email: address, password }),
    });
    return response.json();
  }, [email, PASSWORD]);
  assert.ok(answer.session_id, JSON.stringify(answer));
  return { context, own, email, ...answer };
}

/** What a script on `page` gets for a call to the gateway: a status, `opaque`, or `unreadable`. */
const call = (page, method, url, init = {}) => page.evaluate(async ([verb, address, options]) => {
  try {
    const response = await fetch(address, { method: verb, credentials: 'include', ...options });
    return response.type === 'opaque' ? 'opaque' : response.status;
  } catch {
    return 'unreadable';
  }
}, [method, url, init]);

/** How a socket that a script on `page` opens ends: `me` of the user it was let in as, or the code it was closed with. */
const openSocket = (page, base) => page.evaluate((address) => new Promise((resolve) => {
  const socket = new WebSocket(address);
  socket.onopen = () => {
    socket.send('{"id":1,"connect":{}}');
    socket.send('{"id":2,"rpc":{"method":"auth.me","data":{}}}');
  };
  socket.onmessage = ({ data }) => {
    for (const line of data.split('\n')) {
      const user = JSON.parse(line).rpc?.data;
      if (user) resolve(user.id);
    }
  };
  socket.onclose = ({ code }) => resolve(code);
}), `${base.replace('http', 'ws')}/ws`);

/** Submits a form from `page` into the same tab, as a page that wants no answer does. */
async function submit(page, action, fields) {
  const arrived = page.waitForResponse((response) => response.url() === action);
  await page.evaluate(([address, values]) => {
    const form = Object.assign(document.createElement('form'), { method: 'POST', action: address });
    for (const [name, value] of Object.entries(values)) {
      form.append(Object.assign(document.createElement('input'), { name, value }));
    }
    document.body.append(form);
    form.submit();
  }, [action, fields]);
  const status = (await arrived).status();
  // The answer has come, and the page that shows it takes its place a moment later.
  await page.waitForURL(action);
  return status;
}

const alive = (who) => validate(NODE_A, who.session_id);

async function story(browser) {
  const ada = await loggedIn(browser);
  const { context, own } = ada;

  await step('the cookie is for this host, for no script, and for no other site', async () => {
    const cookie = await cookieOf(context, NODE_A);
    assert.equal(cookie.value, ada.session_id);
    assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.path, cookie.domain], [true, 'Lax', '/', '127.0.0.1']);
    assert.ok(!(await own.evaluate(() => document.cookie)).includes(COOKIE));
  });

  await step("the gateway's own page acts by the cookie alone", async () => {
    assert.equal(await call(own, 'GET', `${NODE_A}/api/v1/auth/verify`), 204);
    assert.equal(await call(own, 'POST', `${NODE_A}/api/v1/auth/validate-session`), 200);
    assert.equal(await openSocket(own, NODE_A), ada.user.id);
  });

  for (const [what, address] of [['origin of the same site', SAME_SITE], ['site', OTHER_SITE]]) {
    const page = await visit(context, address);

    await step(`a script of another ${what} reads nothing`, async () => {
      for (const [method, path] of [['GET', 'verify'], ['GET', 'me'], ['POST', 'validate-session'], ['GET', 'sessions']]) {
        assert.equal(await call(page, method, `${NODE_A}/api/v1/auth/${path}`), 'unreadable', path);
      }
    });

    await step(`a script of another ${what} changes nothing, with a body or without`, async () => {
      const bodies = [undefined, 'x=1', '{}', '{"session_id":null}'];
      for (const path of ['logout', 'logout-all-devices', 'validate-session', 'change-password', 'ws-ticket']) {
        for (const body of bodies) {
          const init = { mode: 'no-cors', body, ...(body && { headers: { 'Content-Type': 'text/plain' } }) };
          assert.equal(await call(page, 'POST', `${NODE_A}/api/v1/auth/${path}`, init), 'opaque', path);
        }
        // With a type or a header that needs leave, the browser asks first and is not given it.
        const json = { headers: { 'Content-Type': 'application/json' }, body: '{}' };
        assert.equal(await call(page, 'POST', `${NODE_A}/api/v1/auth/${path}`, json), 'unreadable', path);
        const custom = { headers: { 'X-Requested-With': 'fetch' } };
        assert.equal(await call(page, 'POST', `${NODE_A}/api/v1/auth/${path}`, custom), 'unreadable', path);
      }
      await alive(ada);
    });

    await step(`a page of another ${what} opens no socket`, async () => {
      assert.equal(await openSocket(page, NODE_A), address === SAME_SITE ? 1006 : 3500);
    });

    await step(`a sandboxed frame there, whose origin is null, does no better`, async () => {
      const frame = await nullOrigin(page);
      assert.equal(await frame.evaluate(() => globalThis.origin), 'null');
      assert.equal(await call(frame, 'POST', `${NODE_A}/api/v1/auth/validate-session`), 'unreadable');
      assert.equal(await call(frame, 'POST', `${NODE_A}/api/v1/auth/logout`, { mode: 'no-cors' }), 'opaque');
      assert.notEqual(await openSocket(frame, NODE_A), ada.user.id);
      await alive(ada);
    });

    await step(`a form of another ${what} logs nobody out and nobody in`, async () => {
      const mallory = { username: freshEmail('mallory'), password: PASSWORD };
      await auth(NODE_A, 'POST', '/signup', { status: 201, body: { email: mallory.username, password: PASSWORD } });
      assert.equal(await submit(page, `${NODE_A}/api/v1/auth/login`, mallory), 403);
      assert.equal((await cookieOf(context, NODE_A)).value, ada.session_id, "still Ada's session");
      await page.goto(address);
      const status = await submit(page, `${NODE_A}/api/v1/auth/logout`, { x: '1' });
      assert.ok([401, 403, 415].includes(status), `${status}`);
      await alive(ada);
    });
    await page.close();
  }

  await step('a link from another site leads in, since it changes nothing', async () => {
    const page = await visit(context, OTHER_SITE);
    const arrived = page.waitForResponse((response) => response.url() === `${NODE_A}/api/v1/auth/verify`);
    await page.evaluate((address) => { location.href = address; }, `${NODE_A}/api/v1/auth/verify`);
    assert.equal((await arrived).status(), 204);
    await page.close();
  });

  await step('an origin on the list may call with the cookie, and no other is told so', async () => {
    const bob = await loggedIn(browser);
    const listed = await visit(bob.context, `http://127.0.0.1:${LISTED}/`);
    const foreign = await visit(bob.context, SAME_SITE);
    // Ports share cookies, and nodes share sessions.
    assert.equal(await call(listed, 'GET', `${NODE_B}/api/v1/auth/verify`), 204);
    assert.equal(await call(listed, 'POST', `${NODE_B}/api/v1/auth/validate-session`), 200);
    assert.equal(await openSocket(listed, NODE_B), bob.user.id);
    assert.equal(await call(foreign, 'GET', `${NODE_B}/api/v1/auth/verify`), 'unreadable');
    assert.equal(await call(foreign, 'POST', `${NODE_B}/api/v1/auth/validate-session`), 'unreadable');
    assert.equal(await openSocket(foreign, NODE_B), 1006);
    assert.equal(await call(listed, 'POST', `${NODE_B}/api/v1/auth/logout`), 200);
    await validate(NODE_A, bob.session_id, 401);
    assert.equal(await cookieOf(bob.context, NODE_A), undefined, 'the browser has forgotten it');
    await bob.context.close();
  });

  await step('a login takes the place of a session that somebody has planted', async () => {
    const mallory = await auth(NODE_A, 'POST', '/signup', { status: 201, body: { email: freshEmail('mallory'), password: PASSWORD } });
    const victim = await browser.newContext();
    await victim.addCookies([{ name: COOKIE, value: mallory.session_id, url: NODE_A, httpOnly: true, sameSite: 'Lax' }]);
    const page = await visit(victim, `${NODE_A}/docs`);
    assert.equal(await call(page, 'GET', `${NODE_A}/api/v1/auth/verify`), 204);
    const body = JSON.stringify({ email: ada.email, password: PASSWORD });
    const init = { headers: { 'Content-Type': 'application/json' }, body };
    assert.equal(await call(page, 'POST', `${NODE_A}/api/v1/auth/login`, init), 200);
    await until('the planted session has ended', async () => {
      const { status } = await fetch(`${NODE_B}/api/v1/auth/validate-session`, {
        method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ session_id: mallory.session_id }),
      });
      return status === 401;
    });
    assert.notEqual((await cookieOf(victim, NODE_A)).value, mallory.session_id);
    await alive(ada);
    await victim.close();
  });

  await step('behind TLS the cookie is secure and bound to its host, and a planted plain one counts for nothing', async () => {
    const base = `https://localhost:${TLS}`;
    const eve = await loggedIn(browser, base);
    const cookie = await cookieOf(eve.context, base, COOKIE_BEHIND_TLS);
    assert.equal(cookie.value, eve.session_id);
    assert.deepEqual([cookie.httpOnly, cookie.secure, cookie.sameSite, cookie.path, cookie.domain], [true, true, 'Lax', '/', 'localhost']);
    assert.equal(await openSocket(eve.own, base), eve.user.id);
    await eve.context.clearCookies();
    await eve.context.addCookies([{ name: COOKIE, value: ada.session_id, domain: 'localhost', path: '/' }]);
    assert.equal(await call(eve.own, 'GET', `${base}/api/v1/auth/verify`), 401);
    assert.equal(await openSocket(eve.own, base), 3500);
    await eve.context.close();
  });
}

/** A frame whose origin is opaque, as a sandbox makes it. */
async function nullOrigin(page) {
  await page.evaluate(() => {
    const frame = Object.assign(document.createElement('iframe'), { srcdoc: '<p>nowhere</p>' });
    frame.setAttribute('sandbox', 'allow-scripts');
    document.body.append(frame);
  });
  return until('the frame is there', () => page.frames().find((frame) => frame !== page.mainFrame()));
}
