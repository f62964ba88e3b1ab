// The list of groups: only the rows in view are there, so that thousands cost no more than dozens.

const ROW = 62; // pixels, as in the style
const BEYOND = 6; // rows above and below what is seen

function showRows() {
  const list = at("list");
  const rows = at("rows");
  rows.style.height = `${listedGroups.length * ROW}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - BEYOND);
  const last = Math.min(listedGroups.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + BEYOND);
  const shown = [];
  for (let place = first; place < last; place++) shown.push(groupRow(listedGroups[place], place));
  const focused = document.activeElement?.closest?.("#rows a")?.getAttribute("href");
  rows.replaceChildren(...shown);
  if (focused) shown.map((row) => row.firstChild).find((link) => link.getAttribute("href") === focused)?.focus({ preventScroll: true });
}

function groupRow(group, place) {
  const { phase, step } = batchOf(group);
  const rows = members[group];
  const first = rows.find((row) => matching[row]) ?? rows[0];
  const values = rows.map((row) => valueOf(row, 0)).filter((value) => value !== null);
  const mean = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  const wrong = rows.some((row) => index.rollouts.errors[row].length);
  const link = make(
    "a",
    { href: linkOf(first), "aria-current": here !== null && index.rollouts.group[here] === group && "true" },
    make("span", { class: "where" }, step < 0 ? phase : `${phase} ${step}`, make("span", { class: "dim" }, ` · ${index.groups.number[group]}`), wrong && make("span", { class: "wrong" }, "error")),
    make("span", { class: "mean" }, index.components.length ? number(mean) : ""),
    make("span", { class: "task" }, index.groups.text[group] || "no text"),
    strip(rows),
  );
  const row = make("li", { "aria-setsize": listedGroups.length, "aria-posinset": place + 1 }, link);
  row.style.top = `${place * ROW}px`;
  return row;
}

const rewardEnds = extent(index.rollouts.values.map((values) => values[0] ?? null), 0);

// A bar for each rollout, as high as its reward.
function strip(rows) {
  const shown = rows.slice(0, 24);
  const height = linear(rewardEnds, [3, 16]);
  const svg = draw("svg", { class: "strip", width: shown.length * 5, height: 16, "aria-hidden": "true" });
  shown.forEach((row, place) => {
    const value = valueOf(row, 0);
    const high = value === null ? 3 : height(value);
    const kind = `bar ${value === null ? "c7" : "c1"}${matching[row] ? "" : " faint"}`;
    svg.append(draw("rect", { class: kind, x: place * 5, y: 16 - high, width: 4, height: high }));
  });
  return svg;
}

function reveal(group) {
  const place = listedGroups.indexOf(group);
  const list = at("list");
  if (place < 0 || !list.clientHeight) return showRows();
  const top = place * ROW;
  if (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = Math.max(0, top - list.clientHeight / 2);
  return showRows();
}
