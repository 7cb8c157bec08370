// Draws openapi.json: operations by tag with parameters, bodies, answers and a
// form that sends the request. No dependency, no build step; text only ever
// enters the page as text nodes.
import { bodyExample, schemaTree, typeName, resolver } from './schema.js';
import { tryForm } from './try.js';
import { h } from './h.js';

const methods = ['get', 'put', 'post', 'patch', 'delete', 'head', 'options'];
const places = ['path', 'query', 'header', 'cookie'];
const main = document.getElementById('main');
const nav = document.getElementById('nav');
const filter = document.getElementById('filter');

function operations(doc) {
  const list = [];
  for (const [path, item] of Object.entries(doc.paths ?? {})) {
    for (const method of methods) {
      const op = item[method];
      if (!op) continue;
      op.parameters?.sort((a, b) => places.indexOf(a.in) - places.indexOf(b.in));
      list.push({ path, method, op, tag: op.tags?.[0] ?? 'other', id: op.operationId ?? method + path });
    }
  }
  return list.sort((a, b) => a.path.localeCompare(b.path) || methods.indexOf(a.method) - methods.indexOf(b.method));
}

function paramTable(params, resolve) {
  return h('div', { class: 'scroll' }, h('table', {},
    h('tr', {}, h('th', {}, 'Name'), h('th', {}, 'In'), h('th', {}, 'Type'), h('th', {}, 'Meaning')),
    params.map((p) => h('tr', {},
      h('td', { class: 'name' }, p.name, p.required && h('span', { class: 'req' }, 'required')),
      h('td', {}, p.in),
      h('td', { class: 'type' }, typeName(p.schema, resolve)),
      h('td', {}, p.description ?? '')))));
}

function contents(content, resolve) {
  return Object.entries(content ?? {}).map(([type, media]) => h('div', {},
    h('code', {}, type), ' ', h('span', { class: 'type' }, typeName(media.schema, resolve)),
    schemaTree(media.schema, resolve)));
}

function answers(op, resolve) {
  return Object.entries(op.responses ?? {}).map(([status, r]) => {
    const isError = status === 'default';
    const head = h('summary', {}, h('code', {}, isError ? 'error' : status), ' ', r.description ?? '');
    return h('details', { open: !isError },
      head,
      Object.entries(r.headers ?? {}).map(([name, hd]) => h('div', {}, h('code', {}, name), ' ', hd.description ?? '')),
      contents(r.content, resolve));
  });
}

function operation(o, doc, resolve) {
  const { op } = o;
  const body = h('div', { class: 'opbody' });
  const fill = () => {
    if (body.childNodes.length) return;
    body.append(...[
      op.description && h('p', {}, op.description),
      op.parameters?.length && h('h3', {}, 'Parameters'),
      op.parameters?.length && paramTable(op.parameters, resolve),
      op.requestBody && h('h3', {}, 'Body', op.requestBody.required && h('span', { class: 'req' }, 'required')),
      op.requestBody && contents(op.requestBody.content, resolve),
      h('h3', {}, 'Answers'), answers(op, resolve),
      h('h3', {}, 'Try it'), tryForm(o, resolve, bodyExample),
    ].flat(Infinity).filter(Boolean));
  };
  const el = h('details', { class: 'op', id: o.id },
    h('summary', {},
      h('span', { class: 'method m-' + o.method }, o.method.toUpperCase()),
      h('span', { class: 'path' }, o.path),
      h('span', { class: 'sum' }, op.summary ?? '')),
    body);
  el.addEventListener('toggle', () => el.open && fill());
  return el;
}

function codes(doc) {
  const list = doc['x-error-codes'] ?? [];
  if (!list.length) return null;
  return h('section', { id: 'codes' }, h('h2', {}, 'Error codes'),
    h('p', { class: 'muted' }, 'Every error is a problem document (RFC 9457) whose member code is one of these. Codes are stable.'),
    h('div', { class: 'scroll' }, h('table', {},
      h('tr', {}, h('th', {}, 'Code'), h('th', {}, 'Status'), h('th', {}, 'Retry'), h('th', {}, 'Meaning')),
      list.map((c) => h('tr', { id: 'code-' + c.code },
        h('td', { class: 'name' }, c.code), h('td', {}, String(c.status)), h('td', {}, c.retryable ? 'yes' : 'no'), h('td', {}, c.doc))))));
}

function draw(doc) {
  const resolve = resolver(doc);
  document.title = `${doc.info.title} API ${doc.info.version}`;
  document.getElementById('version').textContent = doc.info.version;
  const ops = operations(doc);
  const tags = [...new Set(ops.map((o) => o.tag))].sort((a, b) => (a === 'system') - (b === 'system') || a.localeCompare(b));
  const about = Object.fromEntries((doc.tags ?? []).map((t) => [t.name, t.description]));
  const shown = [];
  main.replaceChildren(h('h1', {}, doc.info.title), h('p', { class: 'muted' }, doc.info.description ?? ''));
  for (const tag of tags) {
    const els = ops.filter((o) => o.tag === tag).map((o) => {
      const link = h('a', { href: '#' + o.id }, h('span', { class: 'method m-' + o.method }, o.method.toUpperCase()), h('span', {}, o.op.summary ?? o.path));
      const el = operation(o, doc, resolve);
      shown.push({ el, link, text: [o.method, o.path, o.op.summary, o.op.description, o.id].join(' ').toLowerCase() });
      return { el, link };
    });
    const section = h('section', {}, h('h2', {}, tag), about[tag] && h('p', { class: 'muted' }, about[tag]), els.map((e) => e.el));
    const links = h('div', {}, h('h2', {}, tag), els.map((e) => e.link));
    main.append(section);
    nav.append(links);
  }
  const table = codes(doc);
  if (table) {
    main.append(table);
    nav.append(h('div', {}, h('h2', {}, 'Reference'), h('a', { href: '#codes' }, 'Error codes')));
  }
  filter.addEventListener('input', () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const s of shown) {
      const hit = words.every((w) => s.text.includes(w));
      s.el.hidden = s.link.hidden = !hit;
    }
    for (const part of [...main.querySelectorAll('section'), ...nav.children]) {
      if (part.id === 'codes') continue;
      const kids = part.querySelectorAll('details.op, a');
      part.hidden = kids.length > 0 && [...kids].every((k) => k.hidden);
    }
  });
  const follow = () => {
    const el = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!el) return;
    if (el.tagName === 'DETAILS') el.open = true;
    el.scrollIntoView();
  };
  addEventListener('hashchange', follow);
  follow();
}

try {
  const answer = await fetch('openapi.json');
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status} ${answer.statusText}`);
  draw(await answer.json());
} catch (err) {
  main.replaceChildren(h('p', { class: 'status bad' }, `The document could not be read: ${err.message}`));
}
