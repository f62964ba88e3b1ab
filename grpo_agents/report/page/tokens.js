// Sampled tokens, each with a background that says how much of something it has.

const LEVELS = 4; // shades on either side of none
const UNLIKELY = 3; // a log-prob this far below 0, a chance of 5 %, has the strongest shade
const UNIT = 1000; // log-probs and coefficients come as thousandths

// What tokens can be coloured by: name, and the value of each token of a step, or null.
function colourings(rollouts) {
  const steps = rollouts.flatMap(({ steps }) => steps).filter(({ tokens }) => tokens);
  if (!steps.length) return [];
  const found = [["log-prob", (_, step) => step.logprobs.map((value) => value / UNIT)]];
  if (rollouts.some(({ advantage }) => advantage !== null)) {
    found.push(["advantage", (rollout, step) => step.tokens.map(() => (rollout.advantage === null || step.advantage === null ? null : rollout.advantage + step.advantage))]);
  }
  const methods = [...new Set(steps.flatMap(({ coefficients }) => coefficients.map(([method]) => method)))];
  for (const method of methods) {
    const scaled = (step) => new Map(step.coefficients).get(method)?.map((value) => (value === null ? null : value / UNIT));
    found.push([`coefficient: ${method}`, (_, step) => scaled(step) ?? step.tokens.map(() => null)]);
  }
  return found;
}

// The value that has the strongest shade: what one in fifty exceeds, so that a single one does not pale the rest.
function strongest(rollouts, values) {
  const sizes = rollouts
    .flatMap((rollout) => rollout.steps.filter(({ tokens }) => tokens).flatMap((step) => values(rollout, step)))
    .filter((value) => value !== null)
    .map(Math.abs)
    .sort((a, b) => a - b);
  return sizes[Math.floor(0.98 * (sizes.length - 1))] || sizes.at(-1) || 1;
}

function shade(value, top) {
  if (value === null) return "t-none";
  const level = Math.min(LEVELS, Math.ceil((Math.abs(value) / top) * LEVELS - 0.25));
  return level <= 0 ? "t-0" : `t-${value < 0 ? "minus" : "plus"}-${level}`;
}

function scale(top, name) {
  const levels = Array.from({ length: LEVELS }, (_, place) => place + 1);
  const below = [...levels].reverse().map((level) => make("span", { class: `cell t-minus-${level}` }));
  const above = levels.map((level) => make("span", { class: `cell t-plus-${level}` }));
  const up = name === "log-prob" ? [] : above; // a log-prob is never above 0
  return make("span", { class: "scale", "aria-label": `shades from ${number(-top)} to ${number(up.length ? top : 0)}` }, number(-top), below, make("span", { class: "cell t-0" }), up, up.length ? signed(top) : "0");
}

// The tokens of a step as one text; point at one, or tap it, to see its numbers.
function tokenText(rollout, step, words, [name, values], top, all) {
  const shown = values(rollout, step);
  const spans = step.tokens.map((token, place) => {
    const text = words[token];
    const visible = text.trim() ? text : text.replace(/\n/g, "↵\n");
    return make("span", { class: `token ${shade(shown[place], top)}`, "data-place": place }, visible || "∅");
  });
  const box = make("div", { class: "text tokens", "aria-label": `Sampled tokens, coloured by ${name}` }, spans);
  const say = (event) => {
    const place = event.target.dataset?.place;
    if (place === undefined) return tip.hide();
    const pairs = all.map(([other, of]) => [other, other === "log-prob" || of(rollout, step)[place] === null ? number(of(rollout, step)[place]) : signed(of(rollout, step)[place])]);
    return tip.show(event.clientX, event.clientY, ...listed(JSON.stringify(words[step.tokens[place]]), pairs));
  };
  box.addEventListener("pointerover", say);
  box.addEventListener("click", say);
  box.addEventListener("pointerleave", tip.hide);
  return box;
}
