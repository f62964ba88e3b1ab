// Keys, and where they lead.

const KEYS = [
  ["j, →", "next rollout of the group"],
  ["k, ←", "previous rollout"],
  ["n, ↓", "next group"],
  ["p, ↑", "previous group"],
  ["/", "to the filter"],
  ["Esc", "out of the filter; from the reader to the list; from there to the overview"],
  ["?", "these keys"],
];

const go = (row) => history.replaceState(null, "", linkOf(row)) ?? open(row);

function nextRollout(by) {
  if (here === null) return nextGroup(1);
  const rows = members[index.rollouts.group[here]];
  const next = rows[rows.indexOf(here) + by];
  return next === undefined ? null : go(next);
}

function nextGroup(by) {
  const place = here === null ? -1 : listedGroups.indexOf(index.rollouts.group[here]);
  const next = listedGroups[here === null ? 0 : place + by];
  if (next === undefined) return;
  const rows = members[next];
  go(rows.find((row) => matching[row]) ?? rows[0]);
}

function showKeys() {
  const rows = KEYS.map(([key, does]) => [make("dt", {}, key), make("dd", {}, does)]);
  const dialog = at("keys");
  dialog.replaceChildren(make("h2", { id: "keys-title" }, "Keys"), make("dl", {}, rows.flat()), make("form", { method: "dialog" }, make("button", {}, "Close")));
  dialog.showModal();
}

function escape() {
  const field = document.activeElement;
  tip.hide();
  if (field?.matches?.("input, select, textarea")) field.blur();
  else if (here !== null) location.hash = "#trajectories";
  else location.hash = "#overview";
}

const DOES = new Map([
  ["j", () => nextRollout(1)],
  ["ArrowRight", () => nextRollout(1)],
  ["k", () => nextRollout(-1)],
  ["ArrowLeft", () => nextRollout(-1)],
  ["n", () => nextGroup(1)],
  ["ArrowDown", () => nextGroup(1)],
  ["p", () => nextGroup(-1)],
  ["ArrowUp", () => nextGroup(-1)],
]);

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
  if (event.key === "Escape") {
    escape();
    return;
  }
  if (event.target.matches("input, select, textarea") || event.defaultPrevented) return;
  if (event.key === "?") showKeys();
  else if (event.key === "/") {
    event.preventDefault();
    if (at("trajectories").hidden) location.hash = "#trajectories";
    show();
    at("filter").elements.text.focus();
  } else if (!at("trajectories").hidden && DOES.has(event.key)) {
    event.preventDefault();
    DOES.get(event.key)();
  }
}
