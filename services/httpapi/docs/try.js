// The form under each operation: sends the request and shows the answer, and
// the curl line that does the same.
import { h } from './h.js';
import { typeName } from './schema.js';

const shownLimit = 200_000; // characters of an answer that are shown

function bodyParts(op, resolve, example) {
  const content = Object.entries(op.requestBody?.content ?? {});
  if (!content.length) return null;
  const [type, media] = content[0];
  const isJSON = type.includes('json');
  const text = isJSON ? JSON.stringify(example(media.schema, resolve), null, 2) : '';
  return { type, isJSON, area: h('textarea', { 'aria-label': 'Body', spellcheck: 'false' }, text) };
}

function quote(s) {
  return `'${s.replaceAll("'", `'\\''`)}'`;
}

export function tryForm(o, resolve, example) {
  const params = (o.op.parameters ?? []).map((p) => ({
    p, input: h('input', { placeholder: typeName(p.schema, resolve), required: p.required, 'aria-label': p.name, autocomplete: 'off' }),
  }));
  const body = bodyParts(o.op, resolve, example);
  const types = [...new Set(Object.entries(o.op.responses ?? {}).filter(([s]) => s !== 'default').flatMap(([, r]) => Object.keys(r.content ?? {})))];
  const accept = types.length > 1 && h('select', { 'aria-label': 'Accept' }, types.map((t) => h('option', {}, t)));
  const out = h('div', { 'aria-live': 'polite' });
  const stop = h('button', { type: 'button', hidden: true }, 'Stop');
  let running;

  function request() {
    let path = o.path;
    const query = new URLSearchParams();
    const headers = {};
    for (const { p, input } of params) {
      const v = input.value;
      if (p.in === 'path') path = path.replace(`{${p.name}}`, encodeURIComponent(v));
      else if (v === '') continue;
      else if (p.in === 'query') query.append(p.name, v);
      else if (p.in === 'header') headers[p.name] = v;
    }
    if (accept) headers.Accept = accept.value;
    const hasBody = body && body.area.value !== '';
    if (hasBody) headers['Content-Type'] = body.type;
    const q = query.toString();
    // The page may stand under a prefix: /docs is beside the API's root.
    const url = new URL('.' + path + (q ? '?' + q : ''), document.baseURI);
    return { url, headers, body: hasBody ? body.area.value : undefined };
  }

  function curl(r) {
    const parts = ['curl', o.method === 'get' ? '' : '-X ' + o.method.toUpperCase()];
    for (const [k, v] of Object.entries(r.headers)) parts.push('-H ' + quote(`${k}: ${v}`));
    if (r.body !== undefined) parts.push('--data-binary ' + quote(r.body));
    parts.push(quote(r.url.href));
    return parts.filter(Boolean).join(' ');
  }

  function pretty(text, type) {
    if (type.includes('json')) {
      try {
        return JSON.stringify(JSON.parse(text), null, 2);
      } catch { /* shown as it came */ }
    }
    return text;
  }

  async function read(answer, pre, type) {
    const decoder = new TextDecoder();
    let text = '';
    for await (const chunk of answer.body ?? []) {
      text += decoder.decode(chunk, { stream: true });
      if (text.length > shownLimit) {
        pre.textContent = text.slice(0, shownLimit) + '\n… cut off';
        running?.abort();
        return;
      }
      pre.textContent = text;
    }
    pre.textContent = pretty(text, type);
  }

  async function send() {
    running?.abort();
    const mine = running = new AbortController();
    const r = request();
    const pre = h('pre', {});
    const line = h('span', { class: 'status' }, '…');
    out.replaceChildren(h('h3', {}, 'Request'), h('pre', {}, curl(r)), h('h3', {}, 'Answer'), line, pre);
    stop.hidden = false;
    const start = performance.now();
    try {
      const answer = await fetch(r.url, { method: o.method.toUpperCase(), headers: r.headers, body: r.body, signal: mine.signal });
      const type = answer.headers.get('content-type') ?? '';
      line.className = 'status ' + (answer.ok ? 'ok' : 'bad');
      line.textContent = `${answer.status} ${answer.statusText}  ${type}  ${(performance.now() - start).toFixed(1)} ms  ${answer.headers.get('x-request-id') ?? ''}`;
      await read(answer, pre, type);
    } catch (err) {
      if (err.name !== 'AbortError') {
        line.className = 'status bad';
        line.textContent = String(err.message ?? err);
      }
    } finally {
      if (running === mine) stop.hidden = true;
    }
  }

  stop.addEventListener('click', () => {
    running?.abort();
    stop.hidden = true;
  });
  const form = h('form', { class: 'try' },
    params.map(({ p, input }) => h('label', { class: 'row' }, h('span', {}, h('code', {}, p.name), p.required && h('span', { class: 'req' }, 'required')), input)),
    accept && h('label', { class: 'row' }, h('code', {}, 'Accept'), accept),
    body && h('label', {}, h('code', {}, body.type), body.area),
    h('div', { class: 'actions' }, h('button', { class: 'send' }, 'Send'), stop));
  form.addEventListener('submit', (e) => {
    e.preventDefault();
    send();
  });
  return h('div', {}, form, out);
}
