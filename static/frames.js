// The list of frames: newest first, bounded, pretty, and with every credential blacked out.

const KEPT = 150;
const SHOWN_CHARACTERS = 1_200;
const LINE_CHARACTERS = 72;
const SECRETS = new Set(['token', 'access_token', 'session_id', 'ticket', 'password', 'current_password', 'new_password']);
const JWT = /eyJ[\w-]+\.[\w-]+\.[\w-]*/g;

export class FrameList {
  #list = document.querySelector('#frames');
  #empty = document.querySelector('#frames-empty');
  #counters = { in: document.querySelector('#frames-in'), out: document.querySelector('#frames-out') };
  #counts = { in: 0, out: 0 };

  /** Shows one WebSocket message, whose lines are the protocol's objects; gives those back. */
  frame(direction, data) {
    this.#counts[direction] += 1;
    this.#counters[direction].textContent = this.#counts[direction];
    return String(data).split('\n').filter(Boolean).map((line) => this.#object(direction, line));
  }

  /** Something that is no frame but belongs into the story: opened, closed, retrying. */
  note(text) {
    this.#add('note', text, null);
  }

  /** For the next login: nobody reads the frames of the one before. */
  reset() {
    this.clear();
    for (const direction of ['in', 'out']) {
      this.#counts[direction] = 0;
      this.#counters[direction].textContent = 0;
    }
  }

  clear() {
    this.#list.replaceChildren();
    this.#empty.hidden = false;
  }

  #object(direction, line) {
    let object;
    try {
      object = JSON.parse(line);
    } catch {
      this.#add(direction, 'not JSON', shorten(line.replace(JWT, '‹redacted›')), line.length);
      return {};
    }
    const heartbeat = Object.keys(object).length === 0;
    if (heartbeat) this.#add(direction, direction === 'in' ? 'ping' : 'pong', null, line.length, true);
    else this.#add(direction, nameOf(object), shorten(pretty(JSON.parse(line, redact))), line.length);
    return object;
  }

  #add(direction, name, body, size, heartbeat = false) {
    const row = element('li', `frame ${direction}${heartbeat ? ' heartbeat' : ''}`);
    row.dataset.direction = direction;
    const head = element('p', 'frame-head');
    head.append(element('time', '', clock()), element('span', 'direction', direction), element('span', 'name', name));
    if (size !== undefined) head.append(element('span', 'size', `${size} B`));
    row.append(head);
    if (body) row.append(element('pre', '', body));
    this.#list.prepend(row);
    while (this.#list.children.length > KEPT) this.#list.lastElementChild.remove();
    this.#empty.hidden = true;
  }
}

/** "connect", "push · user.updated", "push · disconnect 4501", "error 109": the least that tells rows apart at a glance. */
function nameOf(object) {
  if (object.push) {
    const [kind, push] = Object.entries(object.push)[0] ?? ['empty'];
    return `push · ${push?.data?.type ?? [kind, push?.code].filter(Boolean).join(' ')}`;
  }
  if (object.error) return `error ${object.error.code}`;
  const [kind, body] = Object.entries(object).find(([key]) => key !== 'id') ?? ['empty'];
  return [kind, body?.method].filter(Boolean).join(' · ');
}

function redact(key, value) {
  if (typeof value !== 'string') return value;
  return SECRETS.has(key) ? `‹redacted, ${value.length} characters›` : value.replace(JWT, '‹redacted›');
}

/** Indented JSON, but whatever fits on a line stays on one. */
function pretty(value, indent = '') {
  const flat = JSON.stringify(value, null, 1).replace(/\s*\n\s*/g, ' ');
  if (value === null || typeof value !== 'object' || flat.length + indent.length <= LINE_CHARACTERS) return flat;
  const inner = `${indent}  `;
  const parts = Array.isArray(value)
    ? value.map((item) => inner + pretty(item, inner))
    : Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${pretty(item, inner)}`);
  const [open, close] = Array.isArray(value) ? '[]' : '{}';
  return `${open}\n${parts.join(',\n')}\n${indent}${close}`;
}

function shorten(text) {
  const rest = text.length - SHOWN_CHARACTERS;
  return rest > 0 ? `${text.slice(0, SHOWN_CHARACTERS)}\n… ${rest} more characters` : text;
}

function clock() {
  const now = new Date();
  return `${now.toLocaleTimeString([], { hour12: false })}.${String(now.getMilliseconds()).padStart(3, '0')}`;
}

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
