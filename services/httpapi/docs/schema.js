// JSON Schema (2020-12, as OpenAPI 3.1 has it) as a type name, as a tree and as
// an example value.
import { h } from './h.js';

const depthLimit = 6; // a schema may contain itself

// resolver follows local references.
export function resolver(doc) {
  return (schema) => {
    let s = schema;
    for (let i = 0; s?.$ref && i < 10; i++) {
      s = s.$ref.replace(/^#\//, '').split('/').reduce((at, key) => at?.[key.replaceAll('~1', '/').replaceAll('~0', '~')], doc);
    }
    return s ?? {};
  };
}

function plainType(s) {
  const t = Array.isArray(s.type) ? s.type.filter((x) => x !== 'null')[0] : s.type;
  return t ?? (s.properties ? 'object' : '');
}

// typeName is one line such as "array of string (uuid), 1 to 10".
export function typeName(schema, resolve) {
  if (!schema) return '';
  const s = resolve(schema);
  const alternatives = s.oneOf ?? s.anyOf;
  if (alternatives) return alternatives.map((a) => typeName(a, resolve)).join(' or ');
  let name = plainType(s);
  if (name === 'array') name = 'array of ' + (typeName(s.items, resolve) || 'anything');
  if (s.format && s.format !== 'int64') name += ` (${s.format})`;
  const limits = [];
  if (s.enum) limits.push('one of ' + s.enum.join(', '));
  if (s.minimum != null || s.maximum != null) limits.push(`${s.minimum ?? ''} to ${s.maximum ?? ''}`.trim());
  if (s.minLength != null || s.maxLength != null) limits.push(`${s.minLength ?? 0} to ${s.maxLength ?? 'any'} characters`);
  if (s.maxItems != null) limits.push(`at most ${s.maxItems}`);
  if (s.default != null) limits.push('default ' + JSON.stringify(s.default));
  return [name, ...limits].filter(Boolean).join(', ');
}

function members(s, resolve, depth) {
  if (depth > depthLimit) return null;
  if (plainType(s) === 'array') return members(resolve(s.items), resolve, depth);
  if (!s.properties) {
    return typeof s.additionalProperties === 'object' ? members(resolve(s.additionalProperties), resolve, depth) : null;
  }
  return h('ul', {}, Object.entries(s.properties).map(([name, p]) => {
    const full = resolve(p);
    return h('li', {},
      h('code', {}, name), s.required?.includes(name) && h('span', { class: 'req' }, 'required'),
      ' ', h('span', { class: 'type' }, typeName(p, resolve)),
      (p.description ?? full.description) && h('span', {}, ' ' + (p.description ?? full.description)),
      members(full, resolve, depth + 1));
  }));
}

// schemaTree is the members of an object, nested.
export function schemaTree(schema, resolve) {
  if (!schema) return null;
  const tree = members(resolve(schema), resolve, 0);
  return tree && h('div', { class: 'schema' }, tree);
}

// bodyExample is a value that has every required member.
export function bodyExample(schema, resolve, depth = 0) {
  const s = resolve(schema ?? {});
  if (s.examples?.length) return s.examples[0];
  if (s.default != null) return s.default;
  if (s.enum) return s.enum[0];
  const type = plainType(s);
  if (type === 'array') return depth > depthLimit ? [] : [bodyExample(s.items, resolve, depth + 1)];
  if (type === 'object') {
    const out = {};
    const all = Object.entries(s.properties ?? {});
    const wanted = all.filter(([name]) => s.required?.includes(name));
    for (const [name, p] of wanted.length ? wanted : all.slice(0, 3)) {
      if (depth <= depthLimit && !p.readOnly) out[name] = bodyExample(p, resolve, depth + 1);
    }
    return out;
  }
  if (type === 'integer' || type === 'number') return s.minimum ?? 1;
  if (type === 'boolean') return false;
  if (s.format === 'uint64' || s.format === 'int64') return '1';
  return '';
}
