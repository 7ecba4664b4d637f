// The list of devices. Rows are kept by `sid`, so that a refresh never takes the focus off a button.

const rows = new Map();

export function showDevices(sessions, onEnd) {
  const list = document.querySelector('#devices');
  const alive = new Set(sessions.map(({ sid }) => sid));
  for (const [sid, row] of rows) {
    if (!alive.has(sid)) {
      row.remove();
      rows.delete(sid);
    }
  }
  const ordered = [...sessions].sort((a, b) => b.current - a.current || b.created_at.localeCompare(a.created_at));
  ordered.forEach((session, place) => {
    const row = rows.get(session.sid) ?? newRow(session, onEnd);
    rows.set(session.sid, row);
    describe(row, session);
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
  });
}

export function clearDevices() {
  rows.clear();
  document.querySelector('#devices').replaceChildren();
}

function newRow({ sid, current }, onEnd) {
  const row = document.createElement('li');
  row.dataset.sid = sid;
  const text = document.createElement('div');
  for (const part of ['device-name', 'device-facts']) {
    text.append(Object.assign(document.createElement('p'), { className: part }));
  }
  const button = Object.assign(document.createElement('button'), {
    type: 'button',
    className: 'end-session',
    textContent: current ? 'Log out' : 'End',
  });
  button.addEventListener('click', () => onEnd(sid, current, button));
  row.append(text, button);
  return row;
}

function describe(row, session) {
  const name = session.device_name || session.user_agent || 'Unknown device';
  row.classList.toggle('current', session.current);
  if (session.current) row.setAttribute('aria-current', 'true');
  row.querySelector('.device-name').textContent = name;
  row.querySelector('.device-facts').textContent = [
    session.current ? 'this device' : `seen ${ago(session.last_seen_at)}`,
    session.ip,
    `since ${new Date(session.created_at).toLocaleString([], { day: 'numeric', month: 'short', hour: 'numeric', minute: '2-digit' })}`,
    moved(session.fingerprint_change),
  ].filter(Boolean).join(' · ');
  row.querySelector('button').setAttribute('aria-label', session.current ? 'Log out this device' : `End the session on ${name}`);
}

function moved(change) {
  if (!change) return null;
  return `used from elsewhere ${ago(change.at)}: ${[change.browser, change.network].filter(Boolean).join(', ')}`;
}

function ago(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const format = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
  if (seconds < 45) return 'just now';
  if (seconds < 3600) return format.format(-Math.round(seconds / 60), 'minute');
  if (seconds < 86_400) return format.format(-Math.round(seconds / 3600), 'hour');
  return format.format(-Math.round(seconds / 86_400), 'day');
}
