// The dashboard. What the agent says goes into the document as text only.

import { Chart, SPAN, Spark } from './chart.js';

const $ = (id) => document.getElementById(id);
const KEY = 'bastion-key'; // in this tab's own store; see signIn

let key = null;
let ended = false;
let isGone = false; // the agent; see gone

// ---- words and numbers

function bytes(n) {
  if (n < 1000) return `${Math.round(n)} B`;
  for (const unit of ['kB', 'MB', 'GB', 'TB']) {
    n /= 1000;
    if (n < 999.95 || unit === 'TB') return `${n.toFixed(1)} ${unit}`;
  }
}

const rate = (n) => `${bytes(n)}/s`;
const ms = (n) => (n > 0 ? `${n < 10 ? n.toFixed(1) : Math.round(n)} ms` : '–');

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${s % 60}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${Math.floor((s % 3600) / 60)}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
}

const dollars = (n, digits) => `$${n.toFixed(digits)}`;
const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;

// ---- elements

// shown replaces what could reorder or hide text on the page: controls, formats (bidirectional ones too) and what is not assigned.
const shown = (text) => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '?');

// el makes an element; text is set as text.
function el(name, className, text) {
  const e = document.createElement(name);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = shown(text);
  return e;
}

// put sets an element's text if it has changed, so that selections and screen readers are left in peace.
function put(e, text) {
  const safe = shown(text);
  if (e.textContent !== safe) e.textContent = safe;
}

function state(e, text, kind) {
  put(e, text);
  if (e.dataset.kind !== kind) e.dataset.kind = kind;
}

function button(className, text, on) {
  const b = el('button', className, text);
  b.type = 'button';
  b.addEventListener('click', on);
  return b;
}

// keep makes parent's children those of items: each is made once and brought up to date each time.
function keep(parent, items, keyOf, make, update) {
  parent.parts ??= new Map();
  const seen = new Set();
  let before = parent.firstElementChild;
  for (const item of items) {
    const k = keyOf(item);
    if (seen.has(k)) continue;
    seen.add(k);
    let part = parent.parts.get(k);
    if (!part) {
      part = make(item);
      parent.parts.set(k, part);
    }
    if (part.root === before) before = before.nextElementSibling;
    else parent.insertBefore(part.root, before);
    update(part, item);
  }
  for (const [k, part] of parent.parts) {
    if (seen.has(k)) continue;
    part.root.remove();
    parent.parts.delete(k);
  }
}

// row makes a table's row; the first cell is its heading.
function row(classes) {
  const root = el('tr');
  const cells = classes.map((c, i) => {
    const cell = el(i === 0 ? 'th' : 'td', c);
    if (i === 0) cell.scope = 'row';
    root.append(cell);
    return cell;
  });
  return { root, cells };
}

function table(caption, columns) {
  const root = el('div', 'scroll');
  root.tabIndex = 0;
  root.setAttribute('role', 'region');
  root.setAttribute('aria-label', caption);
  const t = el('table');
  const head = el('tr');
  for (const [name, className] of columns) {
    const th = el('th', className, name);
    th.scope = 'col';
    head.append(th);
  }
  const thead = el('thead');
  thead.append(head);
  const body = el('tbody');
  t.append(thead, body);
  root.append(t);
  return { root, body };
}

let quietAt = 0;
function say(text) {
  $('say').textContent = '';
  $('say').textContent = shown(text);
  $('say').classList.add('shown');
  clearTimeout(quietAt);
  quietAt = setTimeout(() => $('say').classList.remove('shown'), 4000);
}

// ---- the past two minutes

const past = new Map(); // of curves by their key

function remember(name, at, value) {
  let points = past.get(name);
  if (!points) past.set(name, (points = []));
  if (points.length && points.at(-1)[0] >= at) return points;
  points.push([at, value]);
  while (points.length && at - points[0][0] > SPAN + 2000) points.shift();
  return points;
}

const counters = new Map(); // name: what it was, when, and the rate since

// speed is how fast a counter moves. Frames that come close together leave the rate as it was.
function speed(name, at, value) {
  const c = counters.get(name);
  if (!c || value < c.value) {
    counters.set(name, { at, value, rate: 0 });
    return 0;
  }
  if (at - c.at >= 500) {
    c.rate = ((value - c.value) * 1000) / (at - c.at);
    c.at = at;
    c.value = value;
  }
  return c.rate;
}

function forget(now) {
  for (const [name, points] of past) if (now - points.at(-1)[0] > SPAN) past.delete(name);
  for (const [name, c] of counters) if (now - c.at > SPAN) counters.delete(name);
}

// ---- forwards

let copies = {};

async function copy(text, what, from) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied: ${what}`);
    from.classList.add('done');
    setTimeout(() => from.classList.remove('done'), 1500);
  } catch {
    $('hand-text').value = text;
    $('hand').showModal();
    $('hand-text').select();
  }
}

function makeForward() {
  const root = el('li', 'card forward');
  const p = { root };
  const head = el('div', 'card-head');
  p.name = el('h3');
  p.state = el('span', 'pill');
  p.flags = el('span', 'flags');
  p.close = button('quiet close', 'Close', () => closeForward(p.last));
  head.append(p.name, p.state, p.flags, p.close);
  p.way = el('p', 'way');
  p.listen = el('code');
  p.target = el('span');
  p.way.append(p.listen, el('span', 'arrow', ' → '), p.target);
  p.error = el('p', 'error');
  const figures = el('dl', 'figures');
  p.figures = ['Connections', 'Down', 'Up', 'So far'].map((name) => {
    const box = el('div');
    const dd = el('dd');
    box.append(el('dt', '', name), dd);
    figures.append(box);
    return dd;
  });
  p.spark = new Spark();
  p.copies = el('div', 'copies');
  p.copies.append(el('span', 'label', 'Copy'));
  p.buttons = el('span', 'buttons-row');
  p.copies.append(p.buttons);
  p.more = el('details', 'clients');
  p.summary = el('summary');
  const t = table('Clients', [['Client', ''], ['Target', ''], ['Since', 'num'], ['Down', 'num'], ['Up', 'num']]);
  p.clients = t.body;
  p.more.append(p.summary, t.root);
  root.append(head, p.way, p.error, figures, p.spark.element, p.copies, p.more);
  return p;
}

const forwardKinds = { ready: 'good', waiting: 'bad', failed: 'bad' };

// askSignIn asks the user to sign in to AWS again, if only that renews the credentials.
const askSignIn = (live) => (live.sign_in
  ? [live.sign_in.command ? `Sign in to AWS again: ${live.sign_in.command}` : live.sign_in.next, live.sign_in.reason].filter(Boolean) : []);

// trouble says why something waits or has failed, when that is tried again, and what to do.
const trouble = (t, now) => [t.error, t.retry_at && Date.parse(t.retry_at) > now
  && `next try in ${span((Date.parse(t.retry_at) - now) / 1000)}`, t.next].filter(Boolean);

// reference means a forward alone: several accounts may have one of the same name.
const reference = (f) => f.ref || f.name;

function updateForward(p, f, now) {
  p.last = f;
  const ref = reference(f);
  put(p.name, ref);
  state(p.state, f.state, forwardKinds[f.state] ?? 'wait');
  const flags = [f.kind === 'proxy' ? 'proxy' : f.engine, f.tls ? 'TLS only' : '', f.detached ? 'detached' : `of ${f.command || 'a command'}`,
    f.environment && `environment ${f.environment}`, f.profile && `profile ${f.profile}`, f.account && `account ${f.account}`, f.region,
    `for ${span((now - Date.parse(f.opened_at)) / 1000)}`];
  put(p.flags, flags.filter(Boolean).join(' · '));
  p.close.setAttribute('aria-label', shown(`Close forward ${ref}`));
  put(p.listen, f.listen);
  put(p.target, f.kind === 'proxy' ? 'whatever its clients ask for' : f.target || f.spec || '');
  put(p.error, [f.since && `${f.state} for ${span((now - Date.parse(f.since)) / 1000)}`, ...trouble(f, now), f.note]
    .filter(Boolean).join(' – '));
  p.error.hidden = p.error.textContent === '';
  p.error.dataset.kind = f.error || f.since ? 'bad' : 'note';
  const up = speed(`f/${ref}/up`, now, f.stats.bytes_up);
  const down = speed(`f/${ref}/down`, now, f.stats.bytes_down);
  const [conns, downCell, upCell, total] = p.figures;
  put(conns, f.stats.failed ? `${f.stats.active} (${f.stats.failed} failed)` : String(f.stats.active));
  put(downCell, rate(down));
  put(upCell, rate(up));
  put(total, `${bytes(f.stats.bytes_down)} down, ${bytes(f.stats.bytes_up)} up`);
  p.spark.draw(remember(`f/${ref}/down`, now, down), remember(`f/${ref}/up`, now, up), now);
  keep(p.buttons, copies[ref] ?? [], (c) => c.label, (c) => {
    const part = {};
    part.root = button('copy', c.label, () => copy(part.text, `${part.label} of ${ref}`, part.root));
    return part;
  }, (part, c) => {
    part.text = c.text;
    part.label = c.label;
    part.root.title = shown(c.text);
    part.root.setAttribute('aria-label', shown(`Copy ${c.label} of ${ref}`));
  });
  const clients = f.clients ?? [];
  p.more.hidden = clients.length === 0 && !p.more.open;
  put(p.summary, count(clients.length, 'client', 'clients'));
  keep(p.clients, clients, (c) => `${c.addr} ${c.since}`, () => row(['mono', 'mono', 'num', 'num', 'num']), (r, c) => {
    [c.addr, c.target || f.target || '', span((now - Date.parse(c.since)) / 1000), bytes(c.bytes_down), bytes(c.bytes_up)]
      .forEach((text, i) => put(r.cells[i], text));
  });
}

async function closeForward(f) {
  if (f.stats.active > 0 || !f.detached) {
    const why = [];
    if (f.stats.active > 0) why.push(`${count(f.stats.active, 'connection', 'connections')} will be cut.`);
    if (!f.detached) why.push(`The command that opened it (${f.command || 'unknown'}) will end.`);
    if (!(await ask(`Close ${reference(f)}?`, why.join(' ')))) return;
  }
  try {
    await post('/api/close', { name: reference(f) });
    say(`Closed: ${reference(f)}`);
    $('forwards-title').focus();
  } catch (e) {
    say(`Not closed: ${e.message}`);
  }
}

// ask shows a question and returns whether the answer was yes.
function ask(title, text) {
  put($('ask-title'), title);
  put($('ask-text'), text);
  const d = $('ask');
  return new Promise((resolve) => {
    d.returnValue = '';
    const closed = () => {
      if (d.open) return; // the end of the question before, which is told late
      d.removeEventListener('close', closed);
      resolve(d.returnValue === 'yes');
    };
    d.addEventListener('close', closed);
    d.showModal();
    $('ask-no').focus();
  });
}
$('ask-yes').addEventListener('click', () => $('ask').close('yes'));
$('ask-no').addEventListener('click', () => $('ask').close('no'));
$('hand-done').addEventListener('click', () => $('hand').close());

$('open-kind').addEventListener('change', () => {
  const proxy = $('open-kind').value === 'proxy';
  $('open-target').disabled = proxy;
  $('open-target').required = !proxy;
  $('open-target-label').classList.toggle('off', proxy);
});

$('open').addEventListener('submit', async (event) => {
  event.preventDefault();
  const status = $('open-status');
  const proxy = $('open-kind').value === 'proxy';
  const submit = $('open-submit');
  if (submit.getAttribute('aria-disabled') === 'true') return;
  submit.setAttribute('aria-disabled', 'true'); // not disabled: it keeps the focus
  status.dataset.kind = 'note';
  put(status, 'Opening');
  try {
    const request = { kind: proxy ? 'proxy' : 'tcp', target: proxy ? '' : $('open-target').value, listen: $('open-listen').value };
    const opened = await openForward(request, (text) => put(status, text));
    put(status, '');
    say(`Open: ${opened.map((f) => `${f.name} at ${f.listen}`).join(', ')}`);
    $('open-target').value = '';
    $('open-listen').value = '';
    if (!proxy) $('open-target').focus();
  } catch (e) {
    status.dataset.kind = 'bad';
    put(status, e.message);
    if (!proxy) $('open-target').focus();
  } finally {
    submit.removeAttribute('aria-disabled');
  }
});

// openForward asks for a forward, tells of the steps, and returns what was opened.
async function openForward(request, step) {
  const answer = await send('/api/open', request);
  for await (const line of lines(answer.body, '\n')) {
    const e = JSON.parse(line);
    if (e.event === 'forwards') return e.forwards ?? [];
    if (e.event === 'error') throw new Error(reason(e.error));
    if (e.event === 'stopped') throw new Error('It was closed meanwhile.');
    if (e.text) step(e.text);
  }
  throw new Error('The agent has ended.');
}

// ---- links

const linkKinds = { up: 'good', connecting: 'wait', reconnecting: 'bad', waiting: 'bad', draining: 'wait', idle: 'off', down: 'bad' };
const sessionKinds = { up: 'good', stalled: 'bad', leaving: 'off' };

function makeLink() {
  const root = el('li', 'card link');
  const p = { root };
  const head = el('div', 'card-head');
  p.name = el('h3');
  p.state = el('span', 'pill');
  p.flags = el('span', 'flags');
  head.append(p.name, p.state, p.flags);
  p.error = el('p', 'error');
  const charts = el('div', 'charts');
  p.flow = new Chart('Throughput', rate, 10_000);
  p.trip = new Chart('Round trip', ms, 10);
  charts.append(p.flow.element, p.trip.element);
  const t = table('Sessions', [['Session', ''], ['State', ''], ['Flow', ''], ['Down', 'num'], ['Up', 'num'], ['Round trip', 'num'],
    ['In flight', 'num'], ['Sent again', 'num'], ['Age', 'num'], ['Rotates', 'num']]);
  p.sessions = t.body;
  root.append(head, p.error, charts, t.root);
  return p;
}

function makeSession() {
  const r = row(['mono', '', 'flow', 'num', 'num', 'num', 'num', 'num', 'num', 'num']);
  r.state = el('span', 'pill');
  r.cells[1].append(r.state);
  r.spark = new Spark();
  r.cells[2].append(r.spark.element);
  return r;
}

// rotation is how long a session stays at most; none where the far end cannot take another in its place.
const rotation = (live, s) => (live.session_max_age_seconds ? live.session_max_age_seconds - s.age_seconds : null);

function updateLink(p, { link, live, name }, now) {
  put(p.name, live.bastion ? `to ${live.bastion}` : 'to a bastion');
  state(p.state, live.state, linkKinds[live.state] ?? 'wait');
  put(p.flags, [link.environment, link.profile, link.region, link.cluster, `for ${span((now - Date.parse(live.since)) / 1000)}`,
    count(live.channels, 'connection', 'connections'), live.bond_version && `bond version ${live.bond_version}`,
    live.damaged_sessions && `${count(live.damaged_sessions, 'session', 'sessions')} ended because of damaged data`,
  ].filter(Boolean).join(' · '));
  const limit = live.session_limit;
  put(p.error, [...askSignIn(live), ...trouble(live, now), live.far_end?.limiting_factor, ...(live.lacks ?? []),
    limit && `AWS starts no more than ${count(limit.sessions, 'session', 'sessions')}: ${limit.reason}`].filter(Boolean).join(' – '));
  p.error.hidden = p.error.textContent === '';
  p.error.dataset.kind = live.error || live.sign_in ? 'bad' : 'note';
  const sessions = live.sessions ?? [];
  const down = speed(`${name}/down`, now, live.received_bytes);
  const up = speed(`${name}/up`, now, live.sent_bytes);
  p.flow.draw([
    { key: 'down', name: 'down', look: 'down', area: true, points: remember(`${name}/down`, now, down) },
    { key: 'up', name: 'up', look: 'up', area: true, points: remember(`${name}/up`, now, up) },
  ], now);
  const trips = sessions.map((s) => s.rtt_ms).filter((n) => n > 0);
  const best = remember(`${name}/rtt`, now, trips.length ? Math.min(...trips) : null);
  p.trip.draw([
    ...sessions.map((s) => ({ key: s.session_id, look: 'each', points: remember(`${name}/${s.session_id}/rtt`, now, s.rtt_ms || null) })),
    { key: 'best', name: 'fastest session', look: 'best', points: best },
  ], now);
  keep(p.sessions, sessions, (s) => s.session_id, makeSession, (r, s) => {
    state(r.state, s.state, sessionKinds[s.state] ?? 'wait');
    const id = `${name}/${s.session_id}`;
    r.spark.draw(remember(`${id}/down`, now, s.receive_bytes_per_second), remember(`${id}/up`, now, s.send_bytes_per_second), now);
    const left = rotation(live, s);
    [s.session_id, null, null, rate(s.receive_bytes_per_second), rate(s.send_bytes_per_second), ms(s.rtt_ms),
      bytes(s.in_flight_bytes), bytes(s.reinjected_bytes), span(s.age_seconds), left === null ? 'never' : `within ${span(left)}`]
      .forEach((text, i) => text === null || put(r.cells[i], text));
  });
}

// ---- bastions and connections

function bastionState(b) {
  if (b.refused) return ['refused', 'bad'];
  if (b.outdated) return ['outdated', 'off'];
  if (b.ready) return ['ready', 'good'];
  if (b.status === 'RUNNING') return [`running, exec ${(b.exec_agent || 'not there').toLowerCase()}`, 'wait'];
  return [b.status.toLowerCase(), /STOP|DEPROV|DEACT|DELETED/.test(b.status) ? 'off' : 'wait'];
}

function makeBastion() {
  const r = row(['mono', '', '', '', 'num', 'num', 'num']);
  r.state = el('span', 'pill');
  r.cells[1].append(r.state);
  return r;
}

function showBastions(frame, lives, now) {
  const all = [];
  const problems = [];
  let price = null;
  for (const a of frame.accounts ?? []) {
    for (const b of a.bastions ?? []) all.push({ a, b });
    if (a.error) problems.push(`${a.region || a.link}: ${reason(a.error)}`);
    if (a.target) problems.push(`${a.target} is an OpenSSH server, which bastion neither starts nor stops.`);
  }
  let sum = 0;
  keep($('bastions'), all, ({ b }) => b.task_arn, makeBastion, (r, { a, b }) => {
    const [text, kind] = bastionState(b);
    state(r.state, text, kind);
    const cost = b.cost_estimate_usd;
    if (cost) {
      sum += cost.so_far;
      price = cost.price;
    }
    const left = lives.filter((l) => l.live.bastion?.includes(b.task_id))
      .flatMap((l) => (l.live.sessions ?? []).map((s) => rotation(l.live, s))).filter((n) => n !== null);
    const begin = b.started_at || b.created_at;
    r.root.title = shown(b.refused || b.outdated || b.stopped_reason || b.task_arn);
    [b.task_id, null, [a.region, b.cluster].filter(Boolean).join(' · '),
      b.cpu ? `${b.cpu / 1024} vCPU, ${b.memory_mib / 1024} GB${b.architecture ? `, ${b.architecture}` : ''}` : '–',
      begin ? span((now - Date.parse(begin)) / 1000) : '–',
      cost ? `≈ ${dollars(cost.so_far, 4)} (${dollars(cost.per_hour, 4)}/h)` : '–',
      left.length ? `within ${span(Math.min(...left))}` : '–'].forEach((t, i) => t === null || put(r.cells[i], t));
  });
  put($('bastions-sum'), all.length ? `≈ ${dollars(sum, 4)} so far` : '');
  const notes = [...problems];
  if (!frame.accounts_at) notes.push('Asking AWS.');
  else if (!(frame.accounts ?? []).length) notes.push('AWS is asked about the accounts that links lead to; there is no link yet.');
  else if (!all.length && !problems.length) notes.push('No bastion is running. The first connection of a forward starts one.');
  if (price) {
    notes.push(`Costs are estimates for Fargate at ${price.vcpu_hour} USD per vCPU-hour and ${price.gb_hour} USD per GB-hour `
      + '(settings price_vcpu_hour, price_gb_hour), without data transfer and without what serves the VPC.');
  }
  if ((frame.accounts ?? []).length) notes.push(`AWS was asked ${span((now - Date.parse(frame.accounts_at)) / 1000)} ago.`);
  put($('bastions-note'), notes.join(' '));
}

const AUDIT = 50;

function showAudit(events) {
  const latest = events.slice(-AUDIT).reverse();
  keep($('audit'), latest, (e) => `${e.at} ${e.forward} ${e.client ?? ''} ${e.target}`, () => row(['', '', 'mono', 'mono', 'num', 'num', 'num', '']), (r, e) => {
    const at = new Date(e.at);
    [at.toLocaleTimeString(), e.forward, e.target, e.client ?? '', span(e.duration_seconds), bytes(e.bytes_up), bytes(e.bytes_down),
      e.error || 'ended'].forEach((text, i) => put(r.cells[i], text));
    r.root.title = at.toLocaleString();
    r.root.dataset.kind = e.error ? 'bad' : '';
  });
  $('audit-empty').hidden = latest.length > 0;
  put($('audit-sum'), events.length > AUDIT ? `the last ${AUDIT}` : '');
}

// ---- a frame

let lastFrame = 0;

// ---- the overview: what is wrong, and where everything is

const linkLabel = (l) => `link ${l.live.bastion ? `to ${l.live.bastion}` : 'to a bastion'}`;

// wrongs are what needs attention, each with the list and the key of its card.
function wrongs(s, lives, accounts, now) {
  const out = [];
  for (const f of s.forwards ?? []) {
    if (f.state === 'ready' && !f.error) continue;
    out.push({ id: `f ${forwardKey(f)}`, list: 'forwards', card: forwardKey(f), name: reference(f), state: f.state, why: trouble(f, now) });
  }
  for (const l of lives) {
    if (!l.live.error && !l.live.sign_in && linkKinds[l.live.state] !== 'bad') continue;
    out.push({ id: `l ${l.name}`, list: 'links', card: l.name, name: linkLabel(l), state: l.live.sign_in ? 'sign in' : l.live.state,
      why: [...askSignIn(l.live), ...trouble(l.live, now)] });
  }
  for (const link of s.links ?? []) {
    if ((link.live ?? []).length || !link.error) continue;
    out.push({ id: `k ${link.id}`, list: 'links', name: `link to a bastion in ${link.region ?? ''}`, state: link.state, why: trouble(link, now) });
  }
  for (const a of accounts) {
    if (a.error) out.push({ id: `a ${a.link}`, list: 'bastions', name: `bastions in ${a.region || a.link}`, state: 'not known', why: [reason(a.error)] });
    for (const b of a.bastions ?? []) {
      if (b.refused) out.push({ id: `b ${b.task_arn}`, list: 'bastions', name: `bastion ${b.task_id}`, state: 'refused', why: [b.refused] });
    }
  }
  return out;
}

function makeWrong() {
  const root = el('li');
  const p = { root, go: button('', '', () => goTo(p.last)), state: el('span', 'pill'), why: el('span') };
  root.append(p.go, p.state, p.why);
  return p;
}

function updateWrong(p, w) {
  p.last = w;
  put(p.go, w.name);
  state(p.state, w.state || 'failed', 'bad');
  put(p.why, w.why.join(' – '));
}

// goTo shows the card of what is wrong, also one that the filter hides.
function goTo({ list, card }) {
  const find = () => $(list).parts?.get(card)?.root;
  if (card && !find() && $('filter').value) {
    $('filter').value = '';
    render(lastShown);
  }
  const heading = find()?.querySelector('h3') ?? $(`${list}-title`);
  heading.tabIndex = -1;
  heading.scrollIntoView({ block: 'start' });
  heading.focus({ preventScroll: true });
}

const forwardKey = (f) => `${reference(f)} ${f.opened_at}`;

// filter returns the forwards in which each word of the filter is.
function filter(forwards) {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = forwards.filter((f) => {
    const text = [reference(f), f.spec, f.target, f.listen, f.state, f.engine, f.environment, f.profile, f.account, f.region, f.command, f.error]
      .filter(Boolean).join(' ').toLowerCase();
    return words.every((w) => text.includes(w));
  });
  put($('filter-sum'), words.length ? `${kept.length} of ${forwards.length}` : '');
  return kept;
}

$('filter').addEventListener('input', () => { if (lastShown) render(lastShown); });

let lastShown = null;

function show(frame) {
  lastFrame = Date.now();
  back();
  $('content').hidden = false;
  $('out').hidden = true;
  $('logout').hidden = false;
  live('good', 'Live');
  render(frame);
}

function render(frame) {
  lastShown = frame;
  const s = frame.state;
  const now = Date.parse(s.at) || lastFrame;
  copies = frame.copies ?? {};
  put($('agent'), `agent ${s.version} · process ${s.pid} · up for ${span((now - Date.parse(s.started_at)) / 1000)}`);

  const forwards = s.forwards ?? [];
  keep($('forwards'), filter(forwards), forwardKey, makeForward, (p, f) => updateForward(p, f, now));
  $('forwards-empty').hidden = forwards.length > 0;
  const conns = forwards.reduce((n, f) => n + f.stats.active, 0);
  put($('forwards-sum'), forwards.length ? `${forwards.length} open, ${count(conns, 'connection', 'connections')}` : '');

  const lives = (s.links ?? []).flatMap((link) => (link.live ?? []).map((l, i) => ({ link, live: l, name: `l/${link.id}/${i}` })));
  keep($('links'), lives, (l) => l.name, makeLink, (p, l) => updateLink(p, l, now));
  $('links-empty').hidden = lives.length > 0;
  const sessions = lives.reduce((n, l) => n + (l.live.sessions ?? []).length, 0);
  put($('links-sum'), lives.length ? count(sessions, 'session', 'sessions') : '');

  const accounts = frame.accounts ?? [];
  const wrong = wrongs(s, lives, accounts, now);
  keep($('wrong'), wrong, (w) => w.id, makeWrong, updateWrong);
  put($('overview-sum'), wrong.length ? count(wrong.length, 'thing needs attention', 'things need attention') : 'nothing needs attention');
  put($('forwards-count'), forwards.length);
  put($('links-count'), lives.length);
  put($('bastions-count'), accounts.reduce((n, a) => n + (a.bastions ?? []).length, 0));

  showBastions(frame, lives, now);
  showAudit(s.audit ?? []);
  keep($('targets'), (frame.targets ?? []).filter((t) => t === shown(t)), (t) => t, (t) => ({ root: Object.assign(el('option'), { value: t }) }), () => {});
  forget(now);
}

function live(kind, text) {
  if ($('live').dataset.state === kind && $('live').textContent === text) return;
  $('live').dataset.state = kind;
  put($('live'), text);
}

setInterval(() => {
  if (!ended && !isGone && lastFrame && Date.now() - lastFrame > 5000) live('bad', 'Not live');
}, 1000);

// ---- the agent

const reason = (e) => (e ? [e.message, e.next].filter(Boolean).join(' – ') : 'it failed');

class SignedOut extends Error {}

async function request(path, options) {
  const r = await fetch(path, { ...options, cache: 'no-store', headers: { ...options.headers, 'Bastion-Key': key ?? '' } });
  if (r.ok) return r;
  const body = await r.json().catch(() => null);
  if (r.status === 401) throw new SignedOut(reason(body?.error));
  throw new Error(reason(body?.error));
}

async function send(path, body) {
  try {
    return await request(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  } catch (e) {
    if (e instanceof SignedOut) signedOut(e.message);
    throw e;
  }
}

const post = async (path, body) => (await send(path, body)).json();

// lines yields what the separator ends.
async function* lines(stream, separator) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      for (let i = rest.indexOf(separator); i >= 0; i = rest.indexOf(separator)) {
        yield rest.slice(0, i);
        rest = rest.slice(i + separator.length);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// A browser opens few connections to one place, therefore all tabs live on one stream: the tab that holds the lock reads it and
// tells the others. When that tab goes, another gets the lock.
const tabs = new BroadcastChannel('bastion');

tabs.addEventListener('message', ({ data }) => {
  if (ended) return;
  if (data.frame && key) show(data.frame);
  else if (data.out !== undefined && data.of === key) signedOut(data.out, true);
  else if (data.gone && key) gone(true);
  else if (data.ask && key) tabs.postMessage({ key });
});

class Gone extends Error {}

const QUIET = 10_000; // without a frame, of which one comes each second: the agent hangs

// read shows what the stream brings. It returns or throws at the stream's end.
async function read(onFrame) {
  const quiet = new AbortController();
  let timer = setTimeout(() => quiet.abort(), QUIET);
  try {
    const answer = await request('/api/events', { signal: quiet.signal });
    for await (const message of lines(answer.body, '\n\n')) {
      clearTimeout(timer);
      timer = setTimeout(() => quiet.abort(), QUIET);
      const data = message.split('\n').find((l) => l.startsWith('data: '));
      if (message.startsWith('event: end')) throw new SignedOut('The session has ended.');
      if (message.startsWith('event: gone')) throw new Gone();
      if (!data || ended) continue;
      const frame = JSON.parse(data.slice(6));
      onFrame();
      tabs.postMessage({ frame });
      show(frame);
    }
  } finally {
    clearTimeout(timer);
  }
}

const pause = (time) => new Promise((resolve) => { setTimeout(resolve, time); });

const GIVE_UP = 4; // failures in a row

// follow reads the stream for as long as there is a session. After some failures it says that the agent is gone, and goes on asking: an
// agent that hung may come back.
function follow() {
  navigator.locks.request('bastion-stream', async () => {
    let failures = 0;
    for (let wait = 500; !ended; wait = Math.min(wait * 2, 8000)) {
      try {
        await read(() => { failures = 0; wait = 500; });
        failures++;
      } catch (e) {
        if (e instanceof SignedOut) return signedOut(e.message);
        failures = e instanceof Gone || e.name === 'AbortError' ? GIVE_UP : failures + 1;
      }
      if (ended) return undefined;
      if (failures >= GIVE_UP) gone();
      else live('bad', 'Not live');
      await pause(wait);
    }
    return undefined;
  });
}

// gone says that the agent does not answer, here and in the other tabs, and takes the buttons away: none of them would work.
function gone(told) {
  if (ended || isGone) return;
  isGone = true;
  if (!told) tabs.postMessage({ gone: true });
  for (const d of document.querySelectorAll('dialog[open]')) d.close();
  $('content').inert = true;
  $('content').classList.add('stale');
  $('logout').hidden = true;
  const since = lastFrame ? ` What you see below is of ${new Date(lastFrame).toLocaleTimeString()}.` : '';
  put($('gone-why'), `It has ended, or hangs.${since}`);
  live('off', 'No agent');
  $('gone').hidden = false;
  $('gone-title').focus();
}

function back() {
  if (!isGone) return;
  isGone = false;
  $('gone').hidden = true;
  $('content').inert = false;
  $('content').classList.remove('stale');
}

// signedOut shows that there is nothing to see any more, here and in the other tabs.
function signedOut(why, told) {
  if (ended) return;
  ended = true;
  if (!told) tabs.postMessage({ out: why, of: key });
  key = null;
  sessionStorage.removeItem(KEY);
  for (const d of document.querySelectorAll('dialog[open]')) d.close();
  $('content').hidden = true;
  $('gone').hidden = true;
  $('logout').hidden = true;
  put($('agent'), '');
  live('off', 'Signed out');
  if (why) put($('out-why'), why);
  $('out').hidden = false;
  $('out-title').focus();
}

$('logout').addEventListener('click', async () => {
  try {
    await post('/api/logout', {});
  } catch { /* then it had ended */ }
  signedOut('You have signed out.');
});

// signIn finds the session's key: by the token in the address, in this tab's store, or from another tab. The cookie alone would
// not do: browsers send cookies to every port of an address, and this store belongs to one.
async function signIn() {
  const token = location.hash.slice(1);
  if (/^[\w-]{43}$/.test(token)) {
    history.replaceState(null, '', '/');
    const body = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ token }) };
    key = (await (await request('/api/login', body)).json()).key;
  } else {
    key = sessionStorage.getItem(KEY) ?? (await new Promise((resolve) => {
      const listen = ({ data }) => { if (data.key) resolve(data.key); };
      tabs.addEventListener('message', listen);
      tabs.postMessage({ ask: true });
      setTimeout(() => resolve(null), 700);
    }));
  }
  if (!key) throw new SignedOut('This page opens with a link that works once.');
  sessionStorage.setItem(KEY, key);
}

try {
  await signIn();
  $('logout').hidden = false;
  follow();
} catch (e) {
  signedOut(e.message, true);
}
// A link that is opened in a tab that is here already does not load the page again.
addEventListener('hashchange', () => { if (/^#[\w-]{43}$/.test(location.hash)) location.reload(); });
