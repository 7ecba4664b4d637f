// What is on the page: views, forms, the gate, the user. Decides nothing; console.js says what to show.

const GATE_WORDS = {
  connecting: 'The gate is moving',
  connected: 'The gate is open',
  disconnected: 'The gate is closed',
};

export const find = (id) => document.getElementById(id);

/** Writes only what changed, so that a live region speaks only of news. */
export function say(id, text) {
  const target = find(id);
  if (target.textContent !== text) target.textContent = text;
}

export function show(view) {
  document.body.dataset.view = view;
  for (const part of document.querySelectorAll('[data-for]')) part.hidden = part.dataset.for !== view;
}

/** The login form, below the words of a farewell if there was one. */
export function showLogin(words) {
  show('login');
  showForm('login');
  find('notice').hidden = !words;
  find('welcome').hidden = Boolean(words);
  find('socket-facts').hidden = true;
  find('reconnect').hidden = true;
  for (const field of document.querySelectorAll('input[type=password]')) field.value = '';
  for (const line of document.querySelectorAll('.status, .error')) line.textContent = '';
  if (words) {
    say('notice-title', words.title);
    say('notice-text', words.text);
    say('notice-code', words.code ?? '');
    find('notice').focus();
  } else if (matchMedia('(hover: hover)').matches) {
    find('email').focus(); // not on a phone, where it would pull the keyboard up
  }
}

export function showForm(name) {
  find('login-form').hidden = name !== 'login';
  find('signup-form').hidden = name !== 'signup';
  say('login-error', '');
  say('signup-error', '');
}

// The gate

let connectedAt = null;

export const socketState = () => find('socket-state').dataset.state;

export function showSocket(state, code, reason) {
  document.body.dataset.gate = state;
  document.title = state === 'connected' ? 'Portcullis · connected' : 'Portcullis';
  find('socket-state').dataset.state = state;
  say('socket-state', state);
  say('gate-words', GATE_WORDS[state]);
  // 0 to 9 are the client's own codes: "connect called", "disconnect called" are no news.
  say('socket-reason', code > 9 ? `${code} · ${reason}` : '');
  connectedAt = state === 'connected' ? Date.now() : null;
  showUptime();
}

export function showClient(client) {
  say('socket-client', client.slice(0, 8));
  find('socket-client').title = client;
  find('socket-facts').hidden = false;
}

export function showRenewals(count) {
  say('socket-renewals', ['not yet', 'once'][count] ?? `${count} times`);
}

export function showUptime() {
  say('socket-uptime', connectedAt ? duration(Date.now() - connectedAt) : '–');
}

function duration(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return [h && `${h} h`, (h || m) && `${m} min`, !h && `${s} s`].filter(Boolean).join(' ');
}

// The user

/** The name of this user as it was last shown: what the visitor types meanwhile is not overwritten. */
let shownName = null;

export function showUser(user, { overwrite }) {
  const fullName = user.full_name ?? '';
  const input = find('full-name');
  if (overwrite || input.value === shownName) input.value = fullName;
  if (!overwrite && fullName !== shownName) flash(find('user-name'));
  shownName = fullName;
  const name = fullName || user.email.split('@')[0];
  say('user-name', name);
  say('user-email', user.email);
  say('initials', name.split(/\s+/).slice(0, 2).map((word) => [...word][0]?.toUpperCase() ?? '').join(''));
}

/** Draws the eye to something that changed by itself. */
export function flash(target) {
  target.classList.remove('moved');
  void target.offsetWidth; // restarts the animation
  target.classList.add('moved');
}

// Out of reach: one banner, whoever noticed

const troubles = new Map();

export function showTrouble(source, words) {
  if (words) troubles.set(source, words);
  else troubles.delete(source);
  const [first] = troubles.values();
  find('unreachable').hidden = first === undefined;
  if (first !== undefined) say('unreachable-detail', first);
}
