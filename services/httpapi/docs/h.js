// h makes an element: h('a', { href: '#' }, 'text', child, [more], falsy).
// Attributes that are false, null or undefined are left out.
export function h(tag, attrs, ...kids) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (value === true) el.setAttribute(name, '');
    else if (value !== false && value != null) el.setAttribute(name, value);
  }
  el.append(...kids.flat(Infinity).filter((k) => k || k === 0));
  return el;
}
