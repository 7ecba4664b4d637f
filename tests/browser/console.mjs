// The console page in headless Chromium: the two-window story, the return without a password, one device ended
// from the list, a password changed, a gateway out of reach, the keyboard alone, a phone, night and day.
//
// To run:  npm ci && PORTCULLIS_URL=http://127.0.0.1:8000 node console.mjs
//   PORTCULLIS_URL     a running gateway with the page at `/` (PORTCULLIS_THROTTLING=off: it logs in nine times)
//   PORTCULLIS_URL_B   optional, a second node: the second window then opens there
//   CHROMIUM           the browser, /usr/bin/chromium by default
//   SCREENSHOT_DIR     where pictures go; a new temporary folder by default
// Meant for a Rust test that starts the nodes, runs this and looks at the exit status; each step is a line `ok - …`.
// Exits 0 when every step held; else 1, with the step and the reason (and a picture of every open page).
// Database and cache may be shared with other tests: the script makes its own users.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { NODE_A, NODE_B, PASSWORD, auth, freshEmail, run, step, until, validate } from './support.mjs';

const SCREENSHOTS = process.env.SCREENSHOT_DIR ?? mkdtempSync(join(tmpdir(), 'portcullis-console-'));
const NEW_PASSWORD = `${PASSWORD}, and then some`;
const email = freshEmail('ada');
const complaints = [];
/** Chromium reports failed requests as console errors; these are part of the story (a wrong password, a session over). */
const toleratedStatuses = new Set([401]);

run(async () => {
  mkdirSync(SCREENSHOTS, { recursive: true });
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
  try {
    await story(browser);
  } catch (failure) {
    await pictureEverything(browser);
    for (const complaint of complaints) console.log(`# ${complaint}`);
    throw failure;
  } finally {
    await browser.close();
  }
  console.log(`# screenshots in ${SCREENSHOTS}`);
});

async function story(browser) {
  const laptop = await device(browser, { colorScheme: 'light' });
  const tablet = await device(browser, { colorScheme: 'dark' });
  const one = await open(laptop, NODE_A);
  const two = await open(tablet, NODE_B);

  await step('a visitor sees the login form, and the gate is closed', async () => {
    await one.locator('#login-form').waitFor();
    await socketIs(one, 'disconnected');
    await picture(one, 'login-light');
    await two.locator('#login-form').waitFor();
    await picture(two, 'login-dark');
  });

  await step('a refusal is shown in the words of the problem document', async () => {
    await one.fill('#email', freshEmail('nobody'));
    await one.fill('#password', 'wrong');
    const [response] = await Promise.all([answerTo(one, '/login'), one.click('#login-form [type=submit]')]);
    assert.equal(response.status(), 401);
    const { detail, title } = await response.json();
    await text(one, '#login-error', detail || title);
  });

  await step('signing up opens the hall and the socket', async () => {
    await one.click('#show-signup');
    await one.fill('#signup-name', 'Ada Lovelace');
    await one.fill('#signup-email', email);
    await one.fill('#signup-password', PASSWORD);
    await one.click('#signup-form [type=submit]');
    await text(one, '#user-email', email);
    await socketIs(one, 'connected');
  });

  await step('logging in works with the keyboard alone', async () => {
    await tabTo(two, 'email');
    await two.keyboard.type(email);
    await tabTo(two, 'password');
    await two.keyboard.type(PASSWORD);
    await two.keyboard.press('Enter');
    await text(two, '#user-email', email);
    await socketIs(two, 'connected');
    await tabTo(two, 'logout-all');
  });

  await step('both devices are listed, and each page marks its own', async () => {
    for (const page of [one, two]) {
      await countIs(page, '#devices li', 2);
      await countIs(page, '#devices li.current', 1);
    }
  });

  await step('frames are shown as they come, without a credential in them', async () => {
    await one.click('#send-echo');
    await one.locator('#frames li.out', { hasText: 'rpc · echo' }).waitFor();
    await one.locator('#frames li.in', { hasText: 'connect' }).waitFor();
    await one.locator('#frames li', { hasText: 'redacted' }).first().waitFor();
    const shown = await one.locator('body').innerText();
    for (const key of ['access_token', 'session_id']) {
      const secret = await stored(one, key);
      assert.ok(secret, `${key} is in the storage`);
      assert.ok(!shown.includes(secret), `${key} is not on the page`);
    }
  });

  await step('a change of profile is heard in the other window', async () => {
    await one.fill('#full-name', 'Ada King, Countess of Lovelace');
    await one.click('#save-profile');
    await text(two, '#user-name', 'Ada King, Countess of Lovelace');
    await two.locator('#frames li.in', { hasText: 'user.updated' }).waitFor();
  });

  await step("the cache's hits and misses move", async () => {
    const total = () => one.evaluate(() => Number(document.querySelector('#cache-hits').dataset.value)
      + Number(document.querySelector('#cache-misses').dataset.value));
    await until('the cache is shown', async () => Number.isFinite(await total()));
    const before = await total();
    await until('the counters move', async () => (await total()) > before, { timeout: 30_000 });
    await until('the chart is drawn', () => one.locator('#chart-hits').getAttribute('d'), { timeout: 30_000 });
    await picture(one, 'hall-light');
    await picture(two, 'hall-dark');
  });

  await step('a new tab is logged in without a password', async () => {
    const tab = await open(laptop, NODE_A);
    await text(tab, '#user-email', email);
    await socketIs(tab, 'connected');
    await countIs(tab, '#devices li', 2);
    await tab.close();
  });

  await step('a gateway out of reach logs nobody out, and is found again', async () => {
    await unreachable(laptop);
    const sessionId = await stored(one, 'session_id');
    const tab = await open(laptop, NODE_A);
    await tab.locator('#unreachable').waitFor();
    await picture(tab, 'unreachable-light');
    assert.equal(await stored(tab, 'session_id'), sessionId);
    assert.ok(await tab.locator('#login-form').isHidden());
    await laptop.unrouteAll({ behavior: 'wait' });
    toleratedStatuses.delete(503);
    await text(tab, '#user-email', email);
    await socketIs(tab, 'connected');
    await tab.locator('#unreachable').waitFor({ state: 'hidden' });
    await tab.close();
  });

  await step('a device that loses its network stays logged in, and comes back by itself', async () => {
    const sessionId = await stored(two, 'session_id');
    await tablet.setOffline(true);
    await socketIs(two, 'connecting');
    await two.locator('#unreachable').waitFor();
    await text(two, '#user-email', email);
    assert.equal(await stored(two, 'session_id'), sessionId);
    await tablet.setOffline(false);
    await socketIs(two, 'connected');
    await two.locator('#unreachable').waitFor({ state: 'hidden' });
  });

  await step('ending the other device from the list drops it, and it says why', async () => {
    await one.locator('#devices li:not(.current) .end-session').click();
    await dropped(two, '4502', /signed out/i);
    await countIs(one, '#devices li', 1);
    await socketIs(one, 'connected');
  });

  await step('the device can log in again', async () => {
    await logIn(two);
    await countIs(one, '#devices li', 2);
  });

  await step('a password changed in one window ends the other, and the new one is good', async () => {
    await one.click('#profile-card summary');
    await one.fill('#current-password', PASSWORD);
    await one.fill('#new-password', NEW_PASSWORD);
    await one.press('#new-password', 'Enter');
    await dropped(two, '4504', /password was changed/i);
    await text(one, '#password-status', /changed/i);
    await socketIs(one, 'connected');
    await logIn(two, NEW_PASSWORD);
  });

  await step('"log out everywhere" in one window drops the other, which says so', async () => {
    const sessions = await Promise.all([one, two].map((page) => stored(page, 'session_id')));
    await one.click('#logout-all');
    await dropped(two, '4501', /logged out everywhere/i);
    await one.locator('#login-form').waitFor();
    await text(one, '#notice-title', /logged out everywhere/i);
    await socketIs(one, 'disconnected');
    await picture(two, 'dropped-dark');
    for (const page of [one, two]) await forgotten(page);
    for (const base of [NODE_A, NODE_B]) {
      for (const sessionId of sessions) await validate(base, sessionId, 401);
    }
  });

  await step('logging out ends this device only', async () => {
    await logIn(one, NEW_PASSWORD);
    await logIn(two, NEW_PASSWORD);
    await one.click('#logout');
    await one.locator('#login-form').waitFor();
    await text(one, '#notice-title', /logged out/i);
    await forgotten(one);
    await countIs(two, '#devices li', 1);
    await socketIs(two, 'connected');
  });

  await step('a session that ended while the page was away is told kindly', async () => {
    const sessionId = await stored(two, 'session_id');
    await two.goto('about:blank');
    const { access_token: token } = await validate(NODE_B, sessionId);
    await auth(NODE_B, 'POST', '/logout', { token });
    await two.goto(NODE_B);
    await two.locator('#login-form').waitFor();
    await text(two, '#notice-title', 'Your session has ended');
    await forgotten(two);
  });

  for (const colorScheme of ['light', 'dark']) {
    await step(`the page fits a phone (${colorScheme})`, async () => {
      const phone = await device(browser, { colorScheme, viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
      const page = await open(phone, NODE_A);
      await page.locator('#login-form').waitFor();
      await fits(page);
      await picture(page, `phone-login-${colorScheme}`);
      await logIn(page, NEW_PASSWORD);
      await countIs(page, '#devices li', 1);
      await page.click('#send-echo');
      await page.locator('#frames li', { hasText: 'echo' }).first().waitFor();
      await fits(page);
      await picture(page, `phone-hall-${colorScheme}`);
      await page.click('#logout');
      await text(page, '#notice-title', /logged out/i);
      await picture(page, `phone-dropped-${colorScheme}`);
      await phone.close();
    });
  }

  await step('no page had an error or broke its content security policy', async () => {
    assert.deepEqual(complaints, []);
  });
}

// Devices and pages

async function device(browser, options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, reducedMotion: 'reduce', ...options });
  await context.exposeBinding('complain', (_, complaint) => complaints.push(complaint));
  await context.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => {
      globalThis.complain(`content security policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  context.on('page', (page) => {
    page.on('pageerror', (error) => complaints.push(`uncaught: ${error.stack}`));
    page.on('console', (message) => {
      if (message.type() !== 'error' || isTolerated(message)) return;
      complaints.push(`console: ${message.text()} (${message.location().url})`);
    });
  });
  return context;
}

async function open(context, base) {
  const page = await context.newPage();
  await page.goto(base);
  return page;
}

function isTolerated(message) {
  if (message.text().includes('net::ERR_INTERNET_DISCONNECTED')) return true; // we pulled that plug ourselves
  const [, status] = /^Failed to load resource: .* status of (\d+)/.exec(message.text()) ?? [];
  return toleratedStatuses.has(Number(status));
}

async function unreachable(context) {
  toleratedStatuses.add(503);
  await context.route('**/api/v1/auth/validate-session', (route) => route.fulfill({
    status: 503,
    headers: { 'Retry-After': '1', 'Content-Type': 'application/problem+json' },
    body: JSON.stringify({ type: 'about:blank', title: 'Unavailable', status: 503, code: 'unavailable', detail: 'The stores cannot be reached.' }),
  }));
}

// What a visitor does and sees

async function logIn(page, password = PASSWORD) {
  await page.fill('#email', email);
  await page.fill('#password', password);
  await page.press('#password', 'Enter');
  await text(page, '#user-email', email);
  await socketIs(page, 'connected');
}

async function tabTo(page, id) {
  for (let presses = 0; presses < 40; presses += 1) {
    if (await page.evaluate(() => document.activeElement?.id) === id) return;
    await page.keyboard.press('Tab');
  }
  throw new Error(`#${id} cannot be reached with the Tab key`);
}

async function dropped(page, code, words) {
  await page.locator('#login-form').waitFor();
  await text(page, '#notice-title', words);
  await text(page, '#notice-code', new RegExp(code));
  await socketIs(page, 'disconnected');
  await forgotten(page);
}

async function forgotten(page) {
  for (const key of ['access_token', 'session_id']) assert.equal(await stored(page, key), null, `${key} is forgotten`);
}

const stored = (page, key) => page.evaluate((name) => localStorage.getItem(name), key);

async function socketIs(page, state) {
  await page.locator(`#socket-state[data-state="${state}"]`).waitFor();
  assert.equal(await page.locator('#socket-state').innerText(), state);
}

async function text(page, selector, expected) {
  const locator = page.locator(selector);
  const matches = (value) => (expected instanceof RegExp ? expected.test(value) : value === expected);
  let last;
  await until(`${selector} says ${expected}`, async () => matches(last = (await locator.innerText()).trim()))
    .catch((failure) => { throw new Error(`${failure.message}; it says "${last}"`); });
}

async function countIs(page, selector, expected) {
  await until(`there are ${expected} of ${selector}`, async () => await page.locator(selector).count() === expected);
}

function answerTo(page, path) {
  return page.waitForResponse((response) => new URL(response.url()).pathname === `/api/v1/auth${path}`);
}

async function fits(page) {
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 360, `nothing sticks out of a 360 pixel wide page, but it is ${width} wide`);
}

async function picture(page, name) {
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
}

async function pictureEverything(browser) {
  const pages = browser.contexts().flatMap((context) => context.pages());
  await Promise.all(pages.map((page, i) => picture(page, `failure-${i + 1}`).catch(() => {})));
  console.log(`# pictures of the open pages are in ${SCREENSHOTS}`);
}
