// The cache card: what /health says, as numbers and as a small chart of hits and misses a second.

import { find, flash } from './view.js';

const SAMPLES = 60;
const LEAST_APART_MS = 1_000;
const WIDTH = 300;
const HEIGHT = 64;

const whole = new Intl.NumberFormat('en');

/** Samples of {at, hits, misses}; rates come from neighbours. */
let samples = [];

export function showHealth(health) {
  const cache = health.redis_cache;
  remember(cache);
  showCounts(cache);
  drawChart();
  chip(find('cache-chip'), cacheWords(cache), cache.enabled && !cache.connected ? 'bad' : 'good');
  chip(find('database-chip'), ...databaseWords(health.database));
  facts(find('cache-facts'), [
    ['Users cached', number(cache.users_cached)],
    ['Sessions cached', number(cache.sessions_cached)],
    ['Tokens listed', number(cache.tokens_blacklisted)],
    ['Latency', cache.latency_ms == null ? '–' : `${round(cache.latency_ms)} ms`],
    ['Memory', cache.used_memory_bytes == null ? '–' : bytes(cache.used_memory_bytes)],
  ]);
  find('node-label').textContent = nodeWords(health.node ?? {}, health.status);
}

function remember({ hits = 0, misses = 0 }) {
  const last = samples.at(-1);
  // A node that started again counts from zero: its rates before that mean nothing.
  if (last && (hits < last.hits || misses < last.misses)) samples = [];
  const at = performance.now();
  // Two looks in quick succession would make a rate out of noise.
  if (samples.length && at - samples.at(-1).at < LEAST_APART_MS) return;
  samples = [...samples, { at, hits, misses }].slice(-SAMPLES - 1);
}

function showCounts({ hits = 0, misses = 0 }) {
  const total = hits + misses;
  count(find('cache-hits'), hits);
  count(find('cache-misses'), misses);
  find('cache-ratio').textContent = total ? `${(100 * hits / total).toFixed(total > 999 ? 2 : 1)} %` : '–';
}

function count(target, value) {
  if (target.dataset.value !== undefined && Number(target.dataset.value) !== value) {
    flash(target);
  }
  target.dataset.value = value;
  target.textContent = whole.format(value);
}

function drawChart() {
  const rates = samples.slice(1).map((sample, i) => {
    const seconds = Math.max((sample.at - samples[i].at) / 1000, 0.001);
    return { hits: (sample.hits - samples[i].hits) / seconds, misses: (sample.misses - samples[i].misses) / seconds };
  });
  const peak = Math.max(1, ...rates.flatMap(({ hits, misses }) => [hits, misses]));
  const points = (key) => rates.map((rate, i) => {
    const x = WIDTH - (rates.length - 1 - i) * (WIDTH / (SAMPLES - 1));
    const y = HEIGHT - 2 - (rate[key] / peak) * (HEIGHT - 6);
    return [x.toFixed(1), y.toFixed(1)];
  });
  const hits = points('hits');
  find('chart-hits').setAttribute('d', path(hits));
  find('chart-misses').setAttribute('d', path(points('misses')));
  find('chart-area').setAttribute('d', hits.length > 1 ? `${path(hits)}L${WIDTH} ${HEIGHT}L${hits[0][0]} ${HEIGHT}z` : '');
  const now = rates.at(-1);
  find('chart-peak').textContent = `peak ${round(peak)}/s`;
  find('cache-chart').setAttribute('aria-label', now
    ? `${round(now.hits)} hits and ${round(now.misses)} misses per second; peak ${round(peak)} per second`
    : 'Hits and misses per second: waiting for a second sample');
}

const path = (points) => (points.length > 1 ? `M${points.map((point) => point.join(' ')).join('L')}` : '');

function cacheWords({ enabled, connected }) {
  if (!enabled) return 'in-process cache';
  return connected ? 'Redis connected' : 'Redis away';
}

function databaseWords(database) {
  if (!database || typeof database !== 'object') return ['database', 'good'];
  const kind = database.kind ?? database.backend ?? database.type ?? 'database';
  return database.connected === false || database.status === 'down' ? [`${kind} away`, 'bad'] : [String(kind), 'good'];
}

function nodeWords(node, status) {
  const id = typeof node === 'string' ? node : node.id ?? node.name ?? '';
  return [id && `node ${String(id).slice(0, 8)}`, node.version, status].filter(Boolean).join(' · ');
}

function chip(target, text, mood) {
  target.textContent = text;
  target.dataset.mood = mood;
}

function facts(target, pairs) {
  target.replaceChildren(...pairs.map(([term, value]) => {
    const pair = document.createElement('div');
    for (const [tag, text] of [['dt', term], ['dd', value]]) {
      pair.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
    return pair;
  }));
}

const number = (value) => (value == null ? '–' : whole.format(value));
const round = (value) => (value >= 10 ? Math.round(value) : Math.round(value * 100) / 100);

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  const step = Math.min(Math.floor(Math.log2(Math.max(value, 1)) / 10), units.length - 1);
  return `${(value / 1024 ** step).toFixed(step ? 1 : 0)} ${units[step]}`;
}
