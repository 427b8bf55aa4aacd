'use strict';
// Everything that /status says may come from the network: it becomes text nodes and attributes, never markup.
const EVERY = 2000;
const SVG = 'http://www.w3.org/2000/svg';
const at = (id) => document.getElementById(id);

// What is the same is left alone: nothing flickers, and a selection stays.
function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}
function attribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}
function classes(node, value) {
  if (node.className !== value) node.className = value;
}
function hide(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

function number(n) {
  if (n === null || n === undefined) return '–';
  if (n >= 10000000) return (n / 1000000).toFixed(1) + ' M';
  if (n >= 100 || Number.isInteger(n)) return Math.round(n).toLocaleString('en');
  return n.toFixed(n < 0.1 && n > 0 ? 2 : 1);
}
function seconds(s) {
  if (s === null || s === undefined) return '–';
  if (s < 0) return '0 s';
  if (s < 1) return Math.round(s * 1000) + ' ms';
  if (s < 120) return s.toFixed(s < 10 ? 1 : 0) + ' s';
  if (s < 7200) return (s / 60).toFixed(1) + ' min';
  if (s < 172800) return (s / 3600).toFixed(1) + ' h';
  return (s / 86400).toFixed(1) + ' days';
}
function size(b) {
  if (b < 1000) return b + ' B';
  if (b < 1000000) return (b / 1000).toFixed(0) + ' kB';
  if (b < 1000000000) return (b / 1000000).toFixed(1) + ' MB';
  return (b / 1000000000).toFixed(2) + ' GB';
}
function clock(time) {
  const date = new Date(time);
  const day = date.toDateString() === new Date().toDateString() ? '' : date.toLocaleDateString() + ' ';
  return day + date.toLocaleTimeString('en-GB');
}
function printable(base64) {
  return atob(base64).replace(/[^\x20-\x7e]/g, '\u00b7');
}

// Fills a table: each row is a list of cells [text, class, second text]. Rows and cells are used again.
function fill(id, rows) {
  const body = at(id).tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, i) => {
    const tr = body.rows[i] || body.insertRow();
    row.forEach(([value, kind, more], j) => {
      let td = tr.cells[j];
      if (!td) {
        td = tr.insertCell();
        td.appendChild(document.createElement('span'));
      }
      classes(td, kind || '');
      text(td.firstChild, value);
      let pre = td.childNodes[1];
      if (more && !pre) pre = td.appendChild(document.createElement('pre'));
      if (!more && pre) pre.remove();
      if (more) text(pre, more);
    });
  });
  hide(at(id), rows.length === 0);
  const none = at(id + '-none');
  if (none) hide(none, rows.length > 0);
}

function element(parent, name, kind) {
  const node = parent.appendChild(document.createElement(name));
  if (kind) node.className = kind;
  return node;
}
function drawn(parent, name, attributes) {
  const node = parent.appendChild(document.createElementNS(SVG, name));
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// A chart of the last 15 minutes: one or two lines from 0 to the largest value.
function chart(title, names, format) {
  const box = element(at('charts'), 'div', 'chart');
  const legend = element(box, 'span', 'legend');
  if (names.length > 1) {
    names.forEach((name, i) => {
      element(legend, 'span', 'key s' + i);
      legend.append(name);
    });
  }
  element(box, 'h2').textContent = title;
  const svg = drawn(box, 'svg', { viewBox: '0 0 600 120', preserveAspectRatio: 'none', role: 'img', 'aria-label': title });
  for (const y of [1, 60, 119]) drawn(svg, 'line', { x1: 0, x2: 600, y1: y, y2: y });
  const area = names.length > 1 ? null : drawn(svg, 'path', { class: 'area' });
  const lines = names.map((name, i) => drawn(svg, 'path', { class: 's' + i }));
  const scale = element(box, 'div', 'scale');
  const [left, right] = [element(scale, 'span'), element(scale, 'span')];
  // The ends are the last sample and the first, or two minutes before where there are not so many yet.
  return (columns, count, step) => {
    const most = Math.max(120 / step, count);
    text(left, `${Math.round((most * step) / 60)} minutes ago`);
    const top = Math.max(1e-9, ...columns.flat().filter((v) => v !== null));
    const x = (i) => (600 * (most - count + i + 1)) / most;
    const y = (v) => 119 - (118 * Math.max(0, v)) / top;
    columns.forEach((column, c) => {
      let path = '';
      let pen = 'M';
      column.forEach((v, i) => {
        if (v === null) {
          pen = 'M';
          return;
        }
        path += pen + x(i).toFixed(1) + ' ' + y(v).toFixed(1);
        pen = 'L';
      });
      attribute(lines[c], 'd', path);
      if (area) attribute(area, 'd', path && path.indexOf('M', 1) < 0 ? path + 'L600 119L' + path.slice(1).split(' ')[0] + ' 119Z' : '');
    });
    text(right, top > 1e-8 ? 'at most ' + format(top) : 'nothing yet');
  };
}
const rate = chart('per second', ['received', 'delivered'], number);
const lagging = chart('lag', ['lag'], seconds);
const delivery = chart('delivery time, mean', ['delivery time'], seconds);

function mean(column) {
  const last = column.slice(-2).filter((v) => v !== null);
  return last.length ? last.reduce((a, b) => a + b, 0) / last.length : null;
}

function show(s) {
  const h = s.history;
  text(at('state'), s.standby ? 'standby' : s.ready ? 'ready' : 'not ready');
  classes(at('state'), s.ready ? 'pill good' : 'pill bad');
  text(at('about'), `version ${s.version}, into ${s.output}, up ${seconds(s.uptime_seconds)}, ${size(s.resident_bytes)} of memory`);
  const reasons = at('reasons');
  hide(reasons, s.reasons.length === 0);
  while (reasons.children.length > s.reasons.length) reasons.lastChild.remove();
  s.reasons.forEach((reason, i) => text(reasons.children[i] || element(reasons, 'li'), reason));

  text(at('received'), number(mean(h.received_per_second)) + '/s');
  text(at('received-more'), `${number(s.totals.received)} messages, ${number(s.totals.filtered)} filtered`);
  text(at('delivered'), number(mean(h.delivered_per_second)) + '/s');
  text(at('delivered-more'), `${number(s.totals.delivered)} records, ${number(s.totals.refused)} refused`);
  const lags = s.sources.map((source) => source.lag_seconds).filter((lag) => lag !== null);
  const lag = lags.length ? Math.max(...lags) : null;
  const before = h.lag_seconds.length > 6 ? h.lag_seconds[h.lag_seconds.length - 7] : null;
  text(at('lag'), seconds(lag));
  const falls = lag !== null && before !== null && lag > 30 && lag < before - 5;
  const rest = falls ? lag / ((before - lag) / (6 * h.seconds)) : 0;
  text(at('lag-more'), falls ? `catching up, about ${seconds(rest)} left` : 'of the source that is farthest behind');
  text(at('delivery'), seconds(mean(h.delivery_seconds)));
  text(at('waiting'), size(s.waiting.bytes));
  at('limit').value = s.waiting.limit_bytes ? s.waiting.bytes / s.waiting.limit_bytes : 0;
  const lookups = s.waiting.lookups ? `, ${number(s.waiting.lookups)} look-ups` : '';
  text(at('waiting-more'), `${number(s.waiting.frames)} frames of at most ${size(s.waiting.limit_bytes)}${lookups}`);

  rate([h.received_per_second, h.delivered_per_second], h.time.length, h.seconds);
  lagging([h.lag_seconds], h.time.length, h.seconds);
  delivery([h.delivery_seconds], h.time.length, h.seconds);

  // Those that need attention first; a page of hundreds is not read.
  const order = { away: 0, silent: 1, connected: 2, standby: 3 };
  const sources = s.sources.slice().sort((a, b) => order[a.state] - order[b.state] || (b.lag_seconds || 0) - (a.lag_seconds || 0));
  fill('sources', sources.slice(0, 50).map((source) => [
    [source.name],
    [source.state + (source.since_seconds === null ? '' : ' for ' + seconds(source.since_seconds)) + (source.reason ? ': ' + source.reason : ''),
      ['connected', 'standby'].includes(source.state) ? 'good' : 'bad'],
    [seconds(source.lag_seconds), 'n'],
    [number(source.frames_per_second), 'n'],
    [number(source.frames), 'n wide'],
  ]));
  text(at('sources-none'), `and ${sources.length - 50} more`);
  hide(at('sources-none'), sources.length <= 50);
  fill('events', s.events.slice(0, 20).map((e) => [[e.collection || '–'], [e.action.replace('operation#', ''), 'kind'], [number(e.per_second), 'n'], [number(e.count), 'n']]));

  const others = s.events.length - 20;
  text(at('events-none'), others > 0 ? `and ${others} more` : 'No event yet.');
  hide(at('events-none'), s.events.length > 0 && others <= 0);

  const kinds = (list) => list.map((kind) => `${kind.name} ${number(kind.count)}`).join(', ');
  text(at('letters-count'), s.dead_letters.count ? number(s.dead_letters.count) : '');
  text(at('letters-kinds'), kinds(s.dead_letters.by_reason));
  fill('letters', s.dead_letters.last.map((l) => [
    [clock(l.time), 'time'], [l.reason, 'kind'], [l.host, 'wide'], [l.seq ? String(l.seq) : '–', 'n wide'],
    [l.detail, '', l.bytes ? printable(l.bytes) + (l.size > 512 ? ` ... (${size(l.size)})` : '') : ''],
  ]));
  text(at('gaps-count'), s.gaps.count ? number(s.gaps.count) : '');
  text(at('gaps-kinds'), kinds(s.gaps.by_kind));
  fill('gaps', s.gaps.last.map((g) => [[clock(g.time), 'time'], [g.kind, 'kind'], [g.host, 'wide'], [g.detail]]));
  hide(at('caches-section'), s.caches.length === 0);
  fill('caches', s.caches.map((c) => [[c.kind], [number(c.entries), 'n'], [size(c.bytes), 'n']]));
  fill('settings', (s.settings || []).map((setting) => [[setting.flag, 'kind'], [setting.value], [setting.from, 'wide']]));
  text(at('settings-none'), s.local ? 'Nothing is set: all defaults.' : 'Shown only on the machine itself, with the bytes of dead letters.');
}

let timer = 0;
async function update() {
  clearTimeout(timer);
  // Nobody looks: nothing is asked.
  if (document.hidden) return;
  const patience = new AbortController();
  const limit = setTimeout(() => patience.abort(), 10000);
  try {
    const answer = await fetch('status', { cache: 'no-store', signal: patience.signal });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const status = await answer.json();
    document.body.classList.remove('stale');
    show(status);
  } catch (error) {
    document.body.classList.add('stale');
    text(at('state'), 'no answer');
    classes(at('state'), 'pill bad');
  }
  clearTimeout(limit);
  clearTimeout(timer);
  timer = setTimeout(update, EVERY);
}
document.addEventListener('visibilitychange', update);
update();
