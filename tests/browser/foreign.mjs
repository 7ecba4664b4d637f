// Pages of somebody else, for the scripts that show what the cookie lets them do; and the gateway behind TLS.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

export const COOKIE = 'portcullis_session';
export const COOKIE_BEHIND_TLS = '__Host-portcullis_session';

export function port(name) {
  const value = Number(process.env[name]);
  if (!value) throw new Error(`set ${name} to a free port`);
  return value;
}

/** An empty page at every path of this port, on every name that leads to this machine. */
export function emptyPages(at) {
  const server = http.createServer((_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>elsewhere</title><body></body>');
  });
  return new Promise((resolve) => { server.listen(at, '127.0.0.1', () => resolve(server)); });
}

/** The gateway as a proxy shows it that ends TLS: https://localhost:<at>. */
export function behindTls(base, at) {
  const folder = mkdtempSync(join(tmpdir(), 'portcullis-tls-'));
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', '/CN=localhost',
    '-keyout', key, '-out', cert], { stdio: 'ignore' });
  const { hostname, port: target } = new URL(base);
  const forwarded = (headers) => ({ ...headers, 'x-forwarded-proto': 'https', 'x-forwarded-for': '203.0.113.7' });
  const server = https.createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
    const { method, url: path, headers } = request;
    const onward = http.request({ hostname, port: target, method, path, headers: forwarded(headers) }, (answer) => {
      response.writeHead(answer.statusCode, answer.rawHeaders);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    request.pipe(onward);
  });
  server.on('upgrade', (request, socket) => {
    const onward = net.connect(target, hostname, () => {
      const lines = Object.entries(forwarded(request.headers)).map(([name, value]) => `${name}: ${value}`);
      onward.write(`${request.method} ${request.url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
      onward.pipe(socket);
      socket.pipe(onward);
    });
    for (const end of [onward, socket]) end.on('error', () => { onward.destroy(); socket.destroy(); });
  });
  return new Promise((resolve) => { server.listen(at, '127.0.0.1', () => resolve(server)); });
}

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--ignore-certificate-errors'],
});

export async function visit(context, url) {
  const page = await context.newPage();
  await page.goto(url);
  return page;
}

/** The session cookie as the browser keeps it, if it does. */
export async function cookieOf(context, url, name = COOKIE) {
  const cookies = await context.cookies(url);
  return cookies.find((cookie) => cookie.name === name);
}
