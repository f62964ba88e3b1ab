// What group rewards left behind: a reference and who agrees with it, criteria and what a judge said of each rollout.

function noted(note, number) {
  if (!note.rollouts) return fold(note.name, note.text);
  const took = (note.took ?? []).map(([word, count]) => `${word} ${thousands(count)}`).join(", ");
  return make(
    "details",
    { class: "fold noted" },
    make("summary", {}, make("strong", {}, note.name), " ", headline(note), took && make("span", { class: "dim" }, ` (${took})`)),
    note.text && make("pre", {}, note.text),
    note.answers && answersTable(note, number),
    note.criteria && verdictsTable(note, number),
  );
}

function headline(note) {
  if (note.criteria) return `${note.criteria.length} criteria`;
  const agree = note.agrees.filter(Boolean).length;
  const gold = note.gold === null ? "" : note.gold >= 0.5 ? ", right by gold" : ", wrong by gold";
  return `${note.answer || "no answer"}: ${agree} of ${note.agrees.length} agree${gold}`;
}

const columnsOf = (note, number) => note.rollouts.map((rollout) => make("th", { scope: "col" }, `${index.groups.number[number]}.${rollout}`));
const verdictOf = (verdict) => (verdict === null ? "missing" : verdict ? "yes" : "no");

function answersTable(note, number) {
  const cells = (values) => values.map((value) => make("td", {}, value));
  return make(
    "table",
    {},
    make("thead", {}, make("tr", {}, make("th", {}, ""), columnsOf(note, number))),
    make("tbody", {}, make("tr", {}, make("th", { scope: "row" }, "answer"), cells(note.answers.map((answer) => answer || "none"))), make("tr", {}, make("th", { scope: "row" }, "agrees"), cells(note.agrees.map(verdictOf)))),
  );
}

function verdictsTable(note, number) {
  const row = ([text, points], which) =>
    make("tr", {}, make("th", { scope: "row" }, points === 1 ? text : `${text} (${points})`), note.verdicts.map((verdicts) => make("td", {}, verdictOf(verdicts[which]))));
  return make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "criterion"), columnsOf(note, number))), make("tbody", {}, note.criteria.map(row)));
}
