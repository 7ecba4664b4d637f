// The REST side of the console: calls, their failures, and the one session this page stands on.
//
// A call ends in one of two failures, and they must never be mixed up:
//   Refused      the gateway answered, and the answer is no (its `status`, `code` and `detail`);
//   Unreachable  we could not find out (network, 5xx, throttled renewal). Nobody is logged out for that.

const AUTH = '/api/v1/auth';
const CALL_TIMEOUT_MS = 10_000;

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The gateway answered ${status}.`);
    this.status = status;
    this.code = problem.code;
  }
}

export class Unreachable extends Error {
  constructor(message, retryAfterSeconds) {
    super(message);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** The session is over; only a 401 of validate-session may say so. */
export class SessionEnded extends Error {}

/**
 * In cookie mode the session's secret is in a cookie that no script can read. What tabs tell each other then is the
 * session's public handle, and nothing that opens a session is kept where a script could find it.
 */
const COOKIES = document.querySelector('meta[name="portcullis-cookies"]')?.content === 'on';

/** Under which name the browser keeps the session this page stands on: its secret, or in cookie mode its handle. */
export const STORAGE_KEY = COOKIES ? 'session_handle' : 'session_id';

/** What this page holds: `{session, accessToken, renewal}`, `session` being what is stored; or null. */
let held = null;

export const heldSession = () => held?.session;
/** What an earlier visit has left. In cookie mode the cookie may outlive it: then there is something to try, too. */
export const storedSession = () => localStorage.getItem(STORAGE_KEY) ?? (COOKIES ? '' : null);

export async function login(email, password) {
  return hold(await call('POST', `${AUTH}/login`, { email, password, device_name: deviceName() }));
}

/** Null when the gateway will not say whether the address was free (202). */
export async function signup(email, password, fullName) {
  const body = { email, password, device_name: deviceName() };
  if (fullName) body.full_name = fullName;
  const answer = await call('POST', `${AUTH}/signup`, body);
  return answer.session_id ? hold(answer) : null;
}

/** Turns a session id kept from an earlier visit into a login, without a password. */
export async function restore(session) {
  try {
    return hold(await validate(session));
  } catch (failure) {
    // A value that is no session id at all, or no cookie, gets a 400 or 422: just as useless.
    if (!(failure instanceof Refused) || ![400, 401, 422].includes(failure.status)) throw failure;
    if (storedSession() === session) clearStorage();
    throw new SessionEnded(failure.message);
  }
}

/** A new access token for the session held. Callers at the same time share one request. */
export async function renew() {
  const session = held;
  if (!session) throw new SessionEnded('not logged in');
  session.renewal ??= renewOnce(session).finally(() => { session.renewal = null; });
  return session.renewal;
}

async function renewOnce(session) {
  try {
    const answer = await validate(session.session);
    // Logged out while we waited: what came back must not bring the login back.
    if (held !== session) throw new SessionEnded('logged out');
    return hold(answer);
  } catch (failure) {
    if (failure instanceof Refused && failure.status === 401) throw new SessionEnded(failure.message);
    throw failure;
  }
}

/** Drops the session held. Another tab may have logged in anew: its storage is left alone. */
export function forget() {
  if (held && storedSession() === held.session) clearStorage();
  held = null;
}

export const logout = () => authorized('POST', '/logout');
export const listSessions = () => authorized('GET', '/sessions');
export const endSession = (sid) => authorized('DELETE', `/sessions/${encodeURIComponent(sid)}`);
export const updateProfile = (changes) => authorized('PATCH', '/update-profile', changes);

export const logoutEverywhere = () =>
  authorized('POST', '/logout-all-devices', undefined, { Prefer: 'wait=2' });

export const changePassword = (current, next) =>
  authorized('POST', '/change-password', { current_password: current, new_password: next });

/** `/health`, whose 503 carries the same document and is an answer like any other. */
export async function health() {
  const response = await send('GET', '/health');
  const document = await response.json().catch(() => null);
  if (!document?.redis_cache) throw new Unreachable(`/health answered ${response.status}.`);
  return document;
}

function validate(session) {
  return call('POST', `${AUTH}/validate-session`, COOKIES ? undefined : { session_id: session });
}

function hold(answer) {
  const session = COOKIES ? handle(answer.access_token) : answer.session_id;
  held = { session, accessToken: answer.access_token, renewal: null };
  localStorage.setItem(STORAGE_KEY, session);
  if (!COOKIES) localStorage.setItem('access_token', held.accessToken);
  return answer;
}

/** Another tab was given a new secret of the session held here. False when it is another session. */
export function adopt(session) {
  const token = localStorage.getItem('access_token');
  if (!held || COOKIES || !token || handle(token) !== handle(held.accessToken)) return false;
  held.session = session;
  return true;
}

/** The `sid` of a token: names the session, opens nothing. */
function handle(token) {
  const [, payload] = token.split('.');
  return parse(atob(payload.replaceAll('-', '+').replaceAll('_', '/'))).sid;
}

function clearStorage() {
  localStorage.removeItem('access_token');
  localStorage.removeItem(STORAGE_KEY);
}

/** A 401 here usually means that the short-lived token ran out: renew it once and ask again. */
async function authorized(method, path, body, headers = {}) {
  const attempt = () => {
    if (!held) throw new SessionEnded('not logged in');
    return call(method, AUTH + path, body, { ...headers, Authorization: `Bearer ${held.accessToken}` });
  };
  try {
    return await attempt();
  } catch (failure) {
    if (!(failure instanceof Refused) || failure.status !== 401) throw failure;
    await renew();
    return attempt();
  }
}

async function call(method, path, body, headers) {
  const response = await send(method, path, body, headers);
  const text = await response.text().catch(() => '');
  const answer = parse(text);
  if (response.ok) return answer;
  if (response.status >= 500) {
    const wait = Number(response.headers.get('Retry-After'));
    throw new Unreachable(answer.detail || `It answered ${response.status}.`, wait > 0 ? wait : undefined);
  }
  throw new Refused(response.status, answer);
}

async function send(method, path, body, headers = {}) {
  const init = { method, headers, cache: 'no-store', signal: AbortSignal.timeout(CALL_TIMEOUT_MS) };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { ...headers, 'Content-Type': 'application/json' };
  }
  try {
    return await fetch(path, init);
  } catch {
    throw new Unreachable('No answer from the network.');
  }
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/** A name a person recognises in the list of devices: "Firefox on Linux". */
function deviceName() {
  const agent = navigator.userAgent;
  const first = (names) => names.find(([pattern]) => pattern.test(agent))?.[1];
  const browser = first([[/Edg\//, 'Edge'], [/OPR\//, 'Opera'], [/Firefox\//, 'Firefox'],
    [/Chrome\//, 'Chrome'], [/Safari\//, 'Safari']]) ?? 'Browser';
  const system = first([[/Android/, 'Android'], [/iPhone|iPad/, 'iOS'], [/Windows/, 'Windows'],
    [/Mac OS X/, 'macOS'], [/CrOS/, 'ChromeOS'], [/Linux/, 'Linux']]);
  return system ? `${browser} on ${system}` : browser;
}
