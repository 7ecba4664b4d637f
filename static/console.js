// The console page: which of its three views is shown, and what moves it from one to the next.
//
//   waiting ──restored──▶ hall ──45xx, or logged out──▶ login ──logged in──▶ hall
//      └──────401──────▶ login
//
// Not being able to reach the gateway moves nothing: the page says so, keeps its session and tries again.

import { showHealth } from './cache.js';
import { clearDevices, showDevices } from './devices.js';
import { SESSION_OVER, endsSession, farewell, loggedOutEverywhereFromHere, loggedOutHere } from './farewell.js';
import { FrameList } from './frames.js';
import * as gateway from './gateway.js';
import { openSocket } from './socket.js';

const HEALTH_EVERY_MS = 2_000;
const DEVICES_EVERY_MS = 5_000;
const LONGEST_RETRY_MS = 10_000;
const GATE_WORDS = {
  connecting: 'The gate is moving',
  connected: 'The gate is open',
  disconnected: 'The gate is closed',
};

const find = (id) => document.getElementById(id);
const frames = new FrameList();

let user = null;
let socket = null;
/** Raised with every socket, so that a socket left behind cannot speak for its successor. */
let epoch = 0;
let connectedAt = null;
let renewals = 0;
let reopenedAt = -Infinity;
/** While a logout of our own is under way: what the socket was told meanwhile, if anything. */
let departure = null;

// Arriving and leaving

async function arrive() {
  const sessionId = gateway.storedSessionId();
  if (!sessionId) return showLogin(null);
  show('waiting');
  for (let attempt = 0; ; attempt += 1) {
    try {
      const answer = await gateway.restore(sessionId);
      reach('session', null);
      return enter(answer);
    } catch (failure) {
      if (failure instanceof gateway.SessionEnded) {
        reach('session', null);
        return showLogin(SESSION_OVER);
      }
      await retryLater(failure, attempt);
    }
  }
}

async function retryLater(failure, attempt) {
  const wait = failure.retryAfterSeconds * 1000 || Math.min(1000 * 2 ** attempt, LONGEST_RETRY_MS);
  reach('session', `${failure.message} You stay logged in; trying again in ${Math.ceil(wait / 1000)} s.`);
  await new Promise((resolve) => {
    setTimeout(resolve, wait);
    find('try-now').addEventListener('click', resolve, { once: true });
  });
}

function enter(answer) {
  frames.reset();
  reopenedAt = -Infinity;
  showUser(answer.user, true);
  show('hall');
  find('user-name').focus({ preventScroll: true });
  connect(answer.access_token);
  refreshDevices();
  refreshHealth();
}

function leave(words) {
  epoch += 1;
  socket?.disconnect();
  socket = null;
  if (find('socket-state').dataset.state !== 'disconnected') showSocket('disconnected');
  gateway.forget();
  clearDevices();
  departure = null;
  user = null;
  showLogin(words);
}

/** Logs out by `request`; the socket is usually told first, and has to wait for the answer to be explained. */
async function depart(request, words) {
  departure = { told: null };
  say('who-error', '');
  try {
    leave(words(await request()));
  } catch (failure) {
    const { told } = departure ?? {};
    departure = null;
    if (told || failure instanceof gateway.SessionEnded) return leave(told ?? SESSION_OVER);
    say('who-error', `You are still logged in: ${inWords(failure)}`);
  }
}

// The socket

function connect(accessToken) {
  const mine = ++epoch;
  const heard = (handler) => (...args) => { if (mine === epoch) handler(...args); };
  renewals = 0;
  find('reconnect').hidden = true;
  socket = openSocket(accessToken, {
    state: heard(socketState),
    connected: heard(socketConnected),
    message: heard(socketMessage),
    frame: (direction, data) => {
      frames.frame(direction, data);
      if (direction === 'in' && data.includes('"refresh"')) showRenewals(renewals + 1);
    },
    wire: (text) => frames.note(text),
    trouble: (text) => frames.note(text),
  });
}

function socketState(state, code, reason) {
  showSocket(state, code, reason);
  if (state !== 'disconnected') return;
  if (endsSession(code)) {
    if (departure) departure.told = farewell(code, reason);
    else leave(farewell(code, reason));
  } else if (code === 1) { // the client's own code for an UnauthorizedError from getToken
    if (departure) departure.told = SESSION_OVER;
    else leave(SESSION_OVER);
  } else if (code >= 3000) {
    reopen();
  }
}

/** The gateway refused this socket but did not end the session: once in a while, try with a new token. */
function reopen() {
  const now = performance.now();
  if (now - reopenedAt < 30_000) {
    find('reconnect').hidden = false;
    return;
  }
  reopenedAt = now;
  connect('');
}

function socketConnected(client) {
  connectedAt = Date.now();
  showRenewals(0);
  find('socket-client').textContent = client.slice(0, 8);
  find('socket-client').title = client;
  find('socket-facts').hidden = false;
  tick();
}

function socketMessage(data) {
  if (data?.type !== 'user.updated') return;
  showUser(data.user, false);
  say('profile-status', 'Updated just now, heard through the socket.');
}

async function call(method, data) {
  const started = performance.now();
  try {
    await socket.rpc(method, data);
    say('rpc-status', `${method} answered in ${Math.max(1, Math.round(performance.now() - started))} ms`);
  } catch (failure) {
    say('rpc-status', `${method}: ${failure.message ?? 'no answer'}`);
  }
}

// What is on the page

function show(view) {
  document.body.dataset.view = view;
  for (const part of document.querySelectorAll('[data-for]')) part.hidden = part.dataset.for !== view;
}

function showLogin(words) {
  show('login');
  showForm('login');
  find('notice').hidden = !words;
  find('welcome').hidden = Boolean(words);
  find('socket-facts').hidden = true;
  find('reconnect').hidden = true;
  for (const field of document.querySelectorAll('input[type=password]')) field.value = '';
  if (words) {
    say('notice-title', words.title);
    say('notice-text', words.text);
    say('notice-code', words.code ?? '');
    find('notice').focus();
  } else if (matchMedia('(hover: hover)').matches) {
    find('email').focus(); // not on a phone, where it would pull the keyboard up
  }
}

function showForm(name) {
  find('login-form').hidden = name !== 'login';
  find('signup-form').hidden = name !== 'signup';
  say('login-error', '');
  say('signup-error', '');
}

function showSocket(state, code, reason) {
  document.body.dataset.gate = state;
  document.title = user ? `Portcullis · ${state}` : 'Portcullis';
  const pill = find('socket-state');
  pill.dataset.state = state;
  pill.textContent = state;
  say('gate-words', GATE_WORDS[state]);
  // 0 to 9 are the client's own codes: "connect called", "disconnect called" are no news.
  say('socket-reason', code > 9 ? `${code} · ${reason}` : '');
  if (state !== 'connected') connectedAt = null;
  tick();
}

function showUser(next, fresh) {
  const input = find('full-name');
  if (fresh || input.value === (user?.full_name ?? '')) input.value = next.full_name ?? '';
  if (!fresh && next.full_name !== user?.full_name) pulse(find('user-name'));
  user = next;
  const name = next.full_name || next.email.split('@')[0];
  say('user-name', name);
  say('user-email', next.email);
  say('initials', name.split(/\s+/).slice(0, 2).map((word) => [...word][0]?.toUpperCase() ?? '').join(''));
}

function showRenewals(count) {
  renewals = count;
  say('socket-renewals', count === 1 ? 'once' : `${count} times`);
}

function tick() {
  say('socket-uptime', connectedAt ? duration(Date.now() - connectedAt) : '–');
}

function duration(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return [h && `${h} h`, (h || m) && `${m} min`, !h && `${s} s`].filter(Boolean).join(' ');
}

function pulse(target) {
  target.classList.remove('moved');
  void target.offsetWidth; // restarts the animation
  target.classList.add('moved');
}

function say(id, text) {
  const target = find(id);
  if (target.textContent !== text) target.textContent = text;
}

// Out of reach: one banner, whoever noticed

const troubles = new Map();

function reach(source, trouble) {
  if (trouble) troubles.set(source, trouble);
  else troubles.delete(source);
  const [first] = troubles.values();
  find('unreachable').hidden = first === undefined;
  if (first !== undefined) say('unreachable-detail', first);
}

function inWords(failure) {
  return failure instanceof gateway.Unreachable ? `the gateway cannot be reached. ${failure.message}` : failure.message;
}

/** What any call made for the hall may end in; whatever is left is for the caller's own line. */
function explain(failure, id) {
  if (failure instanceof gateway.SessionEnded) {
    if (gateway.heldSessionId() && !departure) leave(SESSION_OVER);
    return;
  }
  say(id, inWords(failure));
}

// What moves by itself

async function refreshDevices() {
  if (!gateway.heldSessionId() || departure) return;
  try {
    const { sessions } = await gateway.listSessions();
    if (!gateway.heldSessionId()) return;
    showDevices(sessions, endDevice);
    say('devices-error', '');
    reach('devices', null);
  } catch (failure) {
    if (failure instanceof gateway.Unreachable) reach('devices', stillIn(failure));
    else explain(failure, 'devices-error');
  }
}

async function refreshHealth() {
  try {
    showHealth(await gateway.health());
    reach('health', null);
  } catch (failure) {
    reach('health', stillIn(failure));
  }
}

function stillIn(failure) {
  const loggedIn = gateway.heldSessionId() ? ' You stay logged in.' : '';
  return `${failure.message}${loggedIn} This page keeps trying.`;
}

function every(milliseconds, action) {
  const again = async () => {
    if (!document.hidden) await action();
    setTimeout(again, milliseconds);
  };
  setTimeout(again, milliseconds);
  document.addEventListener('visibilitychange', () => { if (!document.hidden) action(); });
}

// What the visitor does

async function endDevice(sid, current, button) {
  if (current) return depart(gateway.logout, loggedOutHere);
  button.disabled = true;
  try {
    await gateway.endSession(sid);
  } catch (failure) {
    button.disabled = false;
    // 404: it ended meanwhile, which is what was asked for.
    if (failure.status !== 404) explain(failure, 'devices-error');
  }
  await refreshDevices();
}

function onSubmit(form, statusId, action) {
  find(form).addEventListener('submit', async (event) => {
    event.preventDefault();
    const button = find(form).querySelector('[type=submit]');
    if (button.getAttribute('aria-busy') === 'true') return;
    button.setAttribute('aria-busy', 'true');
    say(statusId, '');
    try {
      await action();
    } catch (failure) {
      explain(failure, statusId);
    }
    button.removeAttribute('aria-busy');
  });
}

function onClick(id, action) {
  find(id).addEventListener('click', action);
}

/** The value of a field that may not be empty; else the focus goes there. */
function filled(id, words) {
  const field = find(id);
  const value = field.type === 'password' ? field.value : field.value.trim();
  field.setAttribute('aria-invalid', String(!value));
  if (value) return value;
  field.focus();
  throw new Error(words);
}

onSubmit('login-form', 'login-error', async () => {
  const email = filled('email', 'Enter your e-mail address.');
  enter(await gateway.login(email, filled('password', 'Enter your password.')));
});

onSubmit('signup-form', 'signup-error', async () => {
  const email = filled('signup-email', 'Enter your e-mail address.');
  const password = filled('signup-password', 'Choose a password.');
  const answer = await gateway.signup(email, password, find('signup-name').value.trim());
  if (answer) return enter(answer);
  find('email').value = email;
  showLogin({ title: 'Almost there', text: 'If this address was new, its account is ready: log in with it.' });
});

onSubmit('profile-form', 'profile-status', async () => {
  showUser(await gateway.updateProfile({ full_name: find('full-name').value.trim() }), true);
  say('profile-status', 'Saved.');
});

onSubmit('password-form', 'password-status', async () => {
  const current = filled('current-password', 'Enter your current password.');
  await gateway.changePassword(current, filled('new-password', 'Choose a new password.'));
  find('password-form').reset();
  say('password-status', 'Changed. Every other device was logged out.');
  await refreshDevices();
});

onSubmit('echo-form', 'rpc-status', () => call('echo', { text: find('echo-text').value }));
onClick('ask-me', () => call('auth.me', {}));
onClick('logout', () => depart(gateway.logout, loggedOutHere));
onClick('logout-all', () => depart(gateway.logoutEverywhere, loggedOutEverywhereFromHere));
onClick('clear-frames', () => frames.clear());
onClick('reconnect', () => connect(''));
onClick('try-now', () => { refreshHealth(); refreshDevices(); });
onClick('show-signup', () => { showForm('signup'); find('signup-email').value ||= find('email').value; find('signup-name').focus(); });
onClick('show-login', () => { showForm('login'); find('email').value ||= find('signup-email').value; find('email').focus(); });
find('hide-heartbeats').addEventListener('change', ({ target }) => {
  find('frames').classList.toggle('without-heartbeats', target.checked);
});

// Another tab of this browser logged in: this one is that session too.
addEventListener('storage', ({ key, newValue }) => {
  if (key !== 'session_id' || !newValue || newValue === gateway.heldSessionId()) return;
  if (gateway.heldSessionId()) location.reload();
  else arrive();
});

every(HEALTH_EVERY_MS, refreshHealth);
every(DEVICES_EVERY_MS, refreshDevices);
setInterval(tick, 1000);
refreshHealth();
arrive();
