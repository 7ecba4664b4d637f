// This page's socket: the published Centrifuge client, with its WebSocket watched so that every frame can be shown.

import { SessionEnded, renew } from './gateway.js';

const { Centrifuge } = globalThis;

/**
 * `on` hears: `state(name, code, reason)`, `connected(client)`, `message(data)`, `frame(direction, text)`,
 * `wire(text)` for openings and closings, and `trouble(text)` for what the client will retry by itself.
 */
export function openSocket(accessToken, on) {
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  const client = new Centrifuge(`${scheme}://${location.host}/ws`, {
    name: 'portcullis-console',
    token: accessToken,
    getToken: freshToken,
    websocket: watchedWebSocket(on),
    minReconnectDelay: 300,
    maxReconnectDelay: 10_000,
  });
  client.on('connecting', ({ code, reason }) => on.state('connecting', code, reason));
  client.on('connected', (context) => {
    on.state('connected');
    on.connected(context.client);
  });
  client.on('disconnected', ({ code, reason }) => on.state('disconnected', code, reason));
  client.on('message', ({ data }) => on.message(data));
  client.on('error', ({ type, error }) => on.trouble(`${type}: ${error.message}`));
  client.connect();
  return client;
}

/** Only "this session is over" may stop the client; whatever else went wrong, it tries again. */
async function freshToken() {
  try {
    return (await renew()).access_token;
  } catch (failure) {
    if (failure instanceof SessionEnded) throw new Centrifuge.UnauthorizedError(failure.message);
    throw new Error(failure.message);
  }
}

function watchedWebSocket(on) {
  return class WatchedWebSocket extends WebSocket {
    constructor(url, protocols = []) {
      super(url, protocols);
      this.addEventListener('open', () => on.wire('opened'));
      this.addEventListener('message', ({ data }) => on.frame('in', data));
      this.addEventListener('close', ({ code, reason }) => on.wire(`closed ${code} ${reason}`.trim()));
    }

    send(data) {
      on.frame('out', data);
      super.send(data);
    }
  };
}
