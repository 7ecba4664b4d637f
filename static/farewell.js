// What a close code means to a person. 45xx ends the session's welcome on this page; the rest does not.

const FAREWELLS = {
  4500: ['You are logged out', 'This session was logged out.'],
  4501: ['You were logged out everywhere', 'Every session of this account was ended, on every device, and every open socket was closed.'],
  4502: ['This device was signed out', 'Its session was ended from another device, or by an operator.'],
  4503: ['This account is disabled', 'Ask whoever runs this gateway if that is a surprise.'],
  4504: ['Your password was changed', 'It was changed on another device. Log in with the new one.'],
  4505: ['Your session has expired', 'It has been a while. Log in again to go on.'],
};

export const endsSession = (code) => code >= 4500 && code <= 4999;

export function farewell(code, reason) {
  const [title, text] = FAREWELLS[code] ?? ['You were disconnected', 'The gateway ended this session.'];
  return { title, text, code: `${code} · ${reason}` };
}

export const SESSION_OVER = {
  title: 'Your session has ended',
  text: 'It expired, or was ended while this page was closed. Log in again to go on.',
};

export function loggedOutHere() {
  return { title: 'You are logged out', text: 'This device has forgotten its session. See you soon.' };
}

export function loggedOutEverywhereFromHere({ sessions_revoked, sockets_closed, nodes_confirmed, nodes_live }) {
  const parts = [count(sessions_revoked, 'session') + ' ended'];
  if (sockets_closed !== undefined) parts.push(count(sockets_closed, 'socket') + ' closed');
  if (nodes_live !== undefined) parts.push(`confirmed by ${nodes_confirmed} of ${count(nodes_live, 'node')}`);
  return { title: 'You logged out everywhere', text: `${parts.join(', ')}.` };
}

const count = (n, noun) => `${n} ${noun}${n === 1 ? '' : 's'}`;
