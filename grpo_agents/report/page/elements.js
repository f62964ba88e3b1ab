// Elements are made here and nowhere else. Text is only ever text: nothing is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== "" && child !== 0));
  return element;
}

const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const at = (id) => document.getElementById(id);

// A note beside the pointer, or beside what has the focus.
const tip = {
  show(x, y, ...children) {
    const box = at("tip");
    box.replaceChildren(...children);
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    box.style.top = `${y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18}px`;
  },
  hide() {
    at("tip").hidden = true;
  },
};

// Names and values under each other, for a tip.
const listed = (title, pairs) => [
  make("strong", {}, title),
  make("dl", {}, pairs.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]).flat()),
];

// Something the browser may not let a page from disk do: to remember.
const memory = {
  get(place, name) {
    try {
      return place.getItem(name);
    } catch {
      return null;
    }
  },
  set(place, name, value) {
    try {
      place.setItem(name, value);
    } catch {
      // then it is not remembered
    }
  },
};
