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
import {
  find, say, show, showClient, showForm, showLogin, showRenewals, showSocket, showTrouble, showUptime, showUser, socketState,
} from './view.js';

const HEALTH_EVERY_MS = 2_000;
const DEVICES_EVERY_MS = 5_000;
const LONGEST_RETRY_MS = 10_000;
const REOPEN_EVERY_MS = 30_000;

const frames = new FrameList();

let socket = null;
/** Raised with every socket, so that a socket left behind cannot speak for its successor. */
let epoch = 0;
let renewals = 0;
let reopenedAt = -Infinity;
/** Raised with every arrival: another tab may log in while this one still waits for an answer. */
let arrival = 0;
/** Ends the wait for the next try at once. */
let wake = () => {};
/** While a logout of our own is under way: what the socket was told meanwhile, if anything. */
let departure = null;

// Arriving and leaving

async function arrive() {
  const session = gateway.storedSession();
  if (session === null) return showLogin(null);
  show('waiting');
  const mine = ++arrival;
  for (let attempt = 0; mine === arrival; attempt += 1) {
    try {
      const answer = await gateway.restore(session);
      showTrouble('session', null);
      return enter(answer);
    } catch (failure) {
      if (failure instanceof gateway.SessionEnded) {
        showTrouble('session', null);
        // Without a trace of an earlier visit nothing has ended.
        return showLogin(session ? SESSION_OVER : null);
      }
      await retryLater(failure, attempt);
    }
  }
}

async function retryLater(failure, attempt) {
  const wait = failure.retryAfterSeconds * 1000 || Math.min(1000 * 2 ** attempt, LONGEST_RETRY_MS);
  showTrouble('session', `${failure.message} You stay logged in; trying again in ${Math.ceil(wait / 1000)} s.`);
  await new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, wait);
  });
}

function enter(answer) {
  frames.reset();
  reopenedAt = -Infinity;
  showUser(answer.user, { overwrite: true });
  show('hall');
  find('user-name').focus({ preventScroll: true });
  connect(answer.access_token);
  refreshDevices();
  refreshHealth();
}

function leave(words) {
  epoch += 1; // first, so that nobody hears of our own disconnect
  socket?.disconnect();
  socket = null;
  if (socketState() !== 'disconnected') showSocket('disconnected');
  gateway.forget();
  clearDevices();
  showTrouble('devices', null);
  departure = null;
  showLogin(words);
}

/** Logs out by `request`; the socket is usually told first, and has to wait for the answer to be explained. */
async function depart(request, words) {
  if (departure) return;
  departure = { told: null };
  say('who-error', '');
  try {
    leave(words(await request()));
  } catch (failure) {
    const { told } = departure;
    departure = null;
    if (told || failure instanceof gateway.SessionEnded) return leave(told ?? SESSION_OVER);
    say('who-error', `You are still logged in. ${inWords(failure)}`);
  }
}

// The socket

function connect(accessToken) {
  const mine = ++epoch; // first, so that nobody hears of the predecessor's end
  socket?.disconnect();
  const heard = (handler) => (...args) => { if (mine === epoch) handler(...args); };
  renewals = 0;
  find('reconnect').hidden = true;
  socket = openSocket(accessToken, {
    state: heard(onState),
    connected: heard(onConnected),
    message: heard(onMessage),
    frame: (direction, data) => {
      const objects = frames.frame(direction, data);
      if (direction === 'in' && objects.some((object) => object.refresh)) showRenewals(renewals += 1);
    },
    wire: (text) => frames.note(text),
    trouble: (text) => frames.note(text),
  });
}

function onState(state, code, reason) {
  showSocket(state, code, reason);
  if (state !== 'disconnected') return;
  if (endsSession(code)) {
    if (departure) departure.told = farewell(code, reason);
    else leave(farewell(code, reason));
  } else if (code === 1) { // the client's own code for an UnauthorizedError from getToken
    if (departure) departure.told = SESSION_OVER;
    else leave(SESSION_OVER);
  } else {
    reopen();
  }
}

/** The gateway refused this socket but did not end the session: once in a while, try with a new token. */
function reopen() {
  const now = performance.now();
  if (now - reopenedAt < REOPEN_EVERY_MS) {
    find('reconnect').hidden = false;
    return;
  }
  reopenedAt = now;
  connect('');
}

function onConnected(client) {
  showClient(client);
  showRenewals(renewals = 0);
}

function onMessage(data) {
  if (data?.type !== 'user.updated') return;
  showUser(data.user, { overwrite: false });
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

// Failures

function inWords(failure) {
  return failure instanceof gateway.Unreachable ? `Cannot reach the gateway. ${failure.message}` : failure.message;
}

/** What any call made for the hall may end in; whatever is left is for the caller's own line. */
function explain(failure, id) {
  if (failure instanceof gateway.SessionEnded) {
    if (gateway.heldSession() && !departure) leave(SESSION_OVER);
    return;
  }
  say(id, inWords(failure));
}

// What moves by itself

async function refreshDevices() {
  if (!gateway.heldSession() || departure) return;
  try {
    const { sessions } = await gateway.listSessions();
    if (!gateway.heldSession()) return;
    showDevices(sessions, endDevice);
    say('devices-error', '');
    showTrouble('devices', null);
  } catch (failure) {
    if (failure instanceof gateway.Unreachable) showTrouble('devices', stillIn(failure));
    else explain(failure, 'devices-error');
  }
}

async function refreshHealth() {
  try {
    showHealth(await gateway.health());
    showTrouble('health', null);
  } catch (failure) {
    showTrouble('health', stillIn(failure));
  }
}

function stillIn(failure) {
  const loggedIn = gateway.heldSession() ? ' You stay logged in.' : '';
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
  if (document.activeElement === document.body) find('devices-title').focus(); // its button went with the row
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
  const user = await gateway.updateProfile({ full_name: find('full-name').value.trim() });
  showUser(user, { overwrite: true });
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
onClick('try-now', () => { wake(); refreshHealth(); refreshDevices(); });
onClick('show-signup', () => {
  showForm('signup');
  find('signup-email').value ||= find('email').value;
  find('signup-name').focus();
});
onClick('show-login', () => {
  showForm('login');
  find('email').value ||= find('signup-email').value;
  find('email').focus();
});
find('hide-heartbeats').addEventListener('change', ({ target }) => {
  find('frames').classList.toggle('without-heartbeats', target.checked);
});

// Another tab of this browser logged in: this one is that session too.
addEventListener('storage', ({ key, newValue }) => {
  if (key !== gateway.STORAGE_KEY || !newValue || newValue === gateway.heldSession() || gateway.adopt(newValue)) return;
  if (gateway.heldSession()) location.reload();
  else arrive();
});

every(HEALTH_EVERY_MS, refreshHealth);
every(DEVICES_EVERY_MS, refreshDevices);
setInterval(showUptime, 1000);
refreshHealth();
arrive();
