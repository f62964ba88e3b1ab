// The overview: what came of it in figures, then curves, distributions, fronts, tools, and how episodes ended.

const ROWS = 14; // batches that show how they ended

const section = (title, said, ...children) =>
  make("section", { class: "block" }, make("h2", {}, title), said && make("p", { class: "said" }, said), ...children);

const swatch = (kind, name) => make("span", { class: `swatch ${kind}` }, name);

function overview() {
  const parts = [heading(), tiles(), allCurves(), distributions(), front(), toolUse(), endings(), errors()];
  at("overview").replaceChildren(...parts.filter(Boolean));
}

function heading() {
  const about = [...report.about, ["drawn", report.made]];
  return make(
    "div",
    { class: "block heading" },
    make("dl", { class: "about" }, about.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    report.left_out && make("p", { class: "note", id: "left-out" }, report.left_out),
    !report.panels.length && !report.tiles.length && make("p", { class: "note" }, "There is nothing to show yet: this page waits for the run's first step."),
  );
}

const arrow = (name) => ({ max: " ↑", min: " ↓" })[new Map(report.directions).get(name)] ?? "";

function tiles() {
  if (!report.tiles.length) return null;
  const cards = report.tiles.map(({ name, value: [mean, low, high], before }) =>
    make(
      "div",
      { class: "tile" },
      make("h3", {}, name + arrow(name)),
      make("p", { class: "figure" }, number(mean)),
      make("p", { class: "said" }, low === null ? "no interval" : `${number(low)} … ${number(high)}`),
      before && make("p", { class: "said" }, `${report.focus[0]}: ${number(before[0])}`),
    ),
  );
  return section(`In ${report.focus.at(-1)}`, "Means and 95 % intervals, clustered by task.", make("div", { class: "tiles" }, cards));
}

function allCurves() {
  if (!report.panels.length) return null;
  const names = [...new Set(report.panels.flatMap(({ series }) => series.map(({ name }) => name)))];
  const shown = new Map([...names, "smooth"].map((name) => [name, true]));
  const steps = report.panels.flatMap(({ series }) => series.flatMap((one) => [one.steps[0], one.steps.at(-1)]));
  const ends = [Math.min(...steps), Math.max(...steps)];
  const hosts = [];
  const chart = (panel) => {
    const host = curves(panel, ends, shown);
    hosts.push(host);
    const unit = panel.unit && make("span", { class: "unit" }, panel.unit);
    return make("figure", { class: "chart" }, make("figcaption", {}, panel.title + arrow(panel.title), unit), host);
  };
  const toggle = (name, kind) =>
    make(
      "button",
      {
        type: "button",
        class: `toggle ${kind}`,
        "aria-pressed": "true",
        click: ({ currentTarget }) => {
          shown.set(name, !shown.get(name));
          currentTarget.setAttribute("aria-pressed", shown.get(name));
          hosts.forEach((host) => host.redraw());
        },
      },
      name === "smooth" ? "running mean" : name,
    );
  const toggles = names.map((name) => toggle(name, name === "training" ? "c1" : "c2"));
  const others = report.panels.filter(({ main }) => !main);
  return section(
    "Curves",
    "By training step; a band or whisker is a 95 % interval. Point at a chart, or move in it with the arrow keys.",
    make("div", { class: "toggles", role: "group", "aria-label": "What is drawn" }, toggles, toggle("smooth", "plain")),
    make("div", { class: "charts" }, report.panels.filter(({ main }) => main).map(chart)),
    others.length &&
      make("details", { class: "more" }, make("summary", {}, `${others.length} more metrics`), make("div", { class: "charts" }, others.map(chart))),
  );
}

function distributions() {
  if (!report.histograms.length) return null;
  const charts = report.histograms.map((histogram) => {
    const missing = histogram.missing.filter(([, count]) => count).map(([set, count]) => `${set}: ${count} missing`);
    const unit = make("span", { class: "unit" }, [histogram.unit, ...missing].filter(Boolean).join("; "));
    return make("figure", { class: "chart" }, make("figcaption", {}, histogram.name + arrow(histogram.name), unit), bars(histogram));
  });
  const kinds = report.focus.length > 1 ? ["c7", "c2"] : ["c2"];
  const legend = make("p", { class: "legend" }, report.focus.map((name, place) => swatch(kinds[place], name)));
  return section("Distributions", "Share of the episodes.", legend, make("div", { class: "charts" }, charts));
}

function front() {
  const { points, costs, why_not: whyNot, rounded, accuracy } = report.pareto;
  if (!report.focus.length) return null;
  if (whyNot) return section("Accuracy against cost", `Not drawn: ${whyNot}.`);
  const holder = make("div", { class: "charts wide" });
  const highlight = (label) => {
    for (const mark of holder.querySelectorAll(".point")) mark.classList.toggle("lit", mark.dataset.label === label);
  };
  holder.append(
    ...costs.map((cost) => make("figure", { class: "chart" }, make("figcaption", {}, `${accuracy} against ${cost}`, make("span", { class: "unit" }, `↑ ${accuracy}`)), scatter(report.pareto, cost, highlight))),
  );
  const said = `A point a preference${rounded ? ", with weights rounded to quarters" : ""}, of ${report.focus.at(-1)}; filled: no other is as good for less. Whiskers: 95 % intervals.`;
  const whole = points.filter((point) => new Map(point.on_front).get(""));
  const cells = (point) => [accuracy, ...costs].map((axis) => make("td", {}, number(new Map(point.values).get(axis))));
  const table = make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ["preference", accuracy, ...costs, "episodes"].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, whole.map((point) => make("tr", {}, make("th", { scope: "row" }, point.label), cells(point), make("td", {}, thousands(point.episodes))))),
  );
  const folded = make("details", { class: "more" }, make("summary", {}, `The front of ${[accuracy, ...costs].join(", ")}: ${whole.length} of ${points.length} preferences`), make("div", { class: "scroll" }, table));
  return section("Accuracy against cost", said, holder, folded);
}

// A table with a bar in each cell.
function toolUse() {
  const groups = report.tool_use;
  if (!groups.length) return null;
  const names = [...new Set(groups.flatMap(([, calls]) => calls.map(([name]) => name)))];
  const most = Math.max(...groups.flatMap(([, calls]) => calls.map(([, often]) => often))) || 1;
  const cell = (calls, name) => {
    const often = new Map(calls).get(name) ?? 0;
    const bar = make("span", { class: "fill c1" });
    bar.style.width = `${(100 * often) / most}%`;
    return make("td", { class: "barred" }, make("span", { class: "track" }, bar), make("span", {}, number(often)));
  };
  const table = make(
    "table",
    { class: "bars" },
    make("thead", {}, make("tr", {}, ["weighs most", ...names].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, groups.map(([group, calls]) => make("tr", {}, make("th", { scope: "row" }, group), names.map((name) => cell(calls, name))))),
  );
  return section("Tool calls by preference", `Calls an episode in ${report.focus.at(-1)}, by what the user weighs most.`, make("div", { class: "scroll" }, table));
}

function endings() {
  const { batches, reasons, counts } = report.ends;
  if (!batches.length) return null;
  const places = batches.map((_, place) => place);
  const evaluated = places.filter((place) => batches[place].startsWith("eval"));
  const rest = places.filter((place) => !batches[place].startsWith("eval"));
  const some = (all, most) => (all.length <= most ? all : Array.from({ length: most }, (_, n) => all[Math.round((n * (all.length - 1)) / (most - 1))]));
  const kinds = reasons.map((_, place) => `c${(place % 7) + 1}`);
  const rows = [...some(evaluated, ROWS / 2), ...some(rest, ROWS / 2)].map((place) => {
    const total = counts[place].reduce((sum, count) => sum + count, 0);
    const parts = counts[place].map((count, which) => {
      const part = make("span", { class: `fill ${kinds[which]}` });
      part.style.width = `${(100 * count) / total}%`;
      return part;
    });
    const said = counts[place].map((count, which) => [reasons[which], `${thousands(count)} (${number((100 * count) / total)} %)`]).filter((_, which) => counts[place][which]);
    const stack = make("span", { class: "track tall", role: "img", "aria-label": said.map((pair) => pair.join(" ")).join(", ") }, parts);
    stack.addEventListener("pointermove", (event) => tip.show(event.clientX, event.clientY, ...listed(batches[place], said)));
    stack.addEventListener("pointerleave", tip.hide);
    return make("tr", {}, make("th", { scope: "row" }, batches[place]), make("td", { class: "stack" }, stack), make("td", {}, thousands(total)));
  });
  const legend = reasons.map((reason, place) =>
    make("button", { type: "button", class: `toggle ${kinds[place]}`, title: "Show these trajectories", click: () => choose({ stop: reason }) }, reason),
  );
  return section("How episodes ended", "Share by stop reason; choose one to see its trajectories.", make("div", { class: "toggles" }, legend), make("table", { class: "ends" }, make("tbody", {}, rows)));
}

function errors() {
  const { errors: found, others } = report.ends;
  if (!found.length) return null;
  const items = found.map(([text, count]) =>
    make("li", {}, make("button", { type: "button", class: "error-row", click: () => choose({ error: text }) }, make("span", { class: "count" }, thousands(count)), make("span", {}, text))),
  );
  const rest = others ? make("li", { class: "said" }, `${thousands(others)} with rarer errors`) : null;
  return section("Errors", "Of episodes and of tool calls, with how many episodes had them; choose one to see them.", make("ol", { class: "errors" }, items, rest));
}
