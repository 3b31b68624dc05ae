// Makes elements, and changes those that are shown into new ones without losing focus or scroll.
// Text gets in as text nodes and attributes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {}))
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Make `old` as `made` is.  Elements stay where tag and data-key are the same.
export function morph(old, made) {
  for (const { name } of [...old.attributes])
    if (!made.hasAttribute(name) && name !== "open") old.removeAttribute(name); // what a reader has opened stays so
  for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (made.dataset.own !== undefined) return; // somebody else fills it
  morphChildren(old, [...made.childNodes]);
}

export function morphChildren(parent, wanted) {
  const kept = new Map();
  for (const each of parent.children) if (each.dataset.key) kept.set(each.dataset.key, each);
  let at = parent.firstChild;
  for (const each of wanted) {
    const key = each.dataset?.key;
    let found = key ? kept.get(key) : at;
    kept.delete(key);
    if (found && (found.nodeName !== each.nodeName || (!key && found.dataset?.key))) found = null;
    if (!found) {
      parent.insertBefore(each, at);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else parent.insertBefore(found, at);
    if (found.nodeType === Node.TEXT_NODE) {
      if (found.data !== each.data) found.data = each.data;
    } else morph(found, each);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
