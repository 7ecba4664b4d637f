// The console in cookie mode, in headless Chromium: it stands on the cookie, and keeps no secret where a script could
// read it.
//
// To run:  see tests/security/browser.rs.

import assert from 'node:assert/strict';
import { COOKIE, cookieOf, launch, visit } from './foreign.mjs';
import { NODE_A, PASSWORD, auth, freshEmail, run, step, until, validate } from './support.mjs';

const email = freshEmail('ada');

run(async () => {
  const browser = await launch();
  try {
    await story(await browser.newContext());
  } finally {
    await browser.close();
  }
});

const storage = (page) => page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }));

async function isIn(page) {
  await until(`${email} is in`, async () => (await page.locator('#user-email').innerText()).trim() === email);
  await page.locator('#socket-state[data-state="connected"]').waitFor();
}

/** What a script on the page could take away: storage, document.cookie, the page itself. */
async function keepsNoSecret(context, page) {
  const cookie = await cookieOf(context, NODE_A);
  assert.ok(cookie.httpOnly);
  const kept = [await storage(page), await page.evaluate(() => document.cookie), await page.content()].join('\n');
  assert.ok(!kept.includes(cookie.value), 'the session_id is nowhere');
  assert.ok(!kept.includes('eyJ'), 'nor is a token');
  assert.ok(kept.includes('session_handle'), 'the public handle is');
}

async function story(context) {
  const page = await visit(context, NODE_A);

  await step('a visitor without a cookie sees the login form, and no word of a session that ended', async () => {
    await page.locator('#login-form').waitFor();
    assert.ok(await page.locator('#notice-title').isHidden() || (await page.locator('#notice-title').innerText()) === '');
  });

  await step('signing up leaves no secret where a script could read it', async () => {
    await page.click('#show-signup');
    await page.fill('#signup-email', email);
    await page.fill('#signup-password', PASSWORD);
    await page.click('#signup-form [type=submit]');
    await isIn(page);
    await keepsNoSecret(context, page);
  });

  await step('a reload and a new tab come back by the cookie', async () => {
    await page.reload();
    await isIn(page);
    const tab = await visit(context, NODE_A);
    await isIn(tab);
    await keepsNoSecret(context, tab);
    await tab.close();
  });

  await step('a page whose storage was cleared comes back by the cookie, too', async () => {
    await page.evaluate(() => localStorage.clear());
    await page.reload();
    await isIn(page);
  });

  await step('logging in again in another tab takes this one along, and ends the session before it', async () => {
    const { value: before } = await cookieOf(context, NODE_A);
    const tab = await visit(context, NODE_A);
    await isIn(tab);
    await tab.evaluate(async ([address, password]) => {
      const response = await fetch('/api/v1/auth/login', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ email: address, password }),
      });
      await response.json();
    }, [email, PASSWORD]);
    await until('the session before has ended', async () => (await fetch(`${NODE_A}/api/v1/auth/validate-session`, {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ session_id: before }),
    })).status === 401);
    await tab.reload();
    await isIn(tab);
    await tab.close();
    await page.reload();
    await isIn(page);
  });

  await step('logging out ends the session and clears the cookie', async () => {
    const { value } = await cookieOf(context, NODE_A);
    await page.click('#logout');
    await page.locator('#login-form').waitFor();
    assert.equal(await cookieOf(context, NODE_A, COOKIE), undefined);
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    await validate(NODE_A, value, 401);
  });

  await step('a session that ended elsewhere is told when the page comes back', async () => {
    await page.fill('#email', email);
    await page.fill('#password', PASSWORD);
    await page.press('#password', 'Enter');
    await isIn(page);
    const { value } = await cookieOf(context, NODE_A);
    await page.goto('about:blank');
    const { access_token: token } = await validate(NODE_A, value);
    await auth(NODE_A, 'POST', '/logout', { token });
    await page.goto(NODE_A);
    await page.locator('#login-form').waitFor();
    assert.match(await page.locator('#notice-title').innerText(), /ended/i);
  });
}
