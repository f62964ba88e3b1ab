// The filter: which rollouts are looked for. A group is listed where at least one of its rollouts is.

const ANY = "";
const EACH = ["text", "phase", "from", "to", "component", "least", "most", "tool", "error", "stop"];

const phases = [...new Set(index.batches.map(([phase]) => phase))];
const lower = index.groups.text.map((text) => text.toLowerCase());

let matching = new Uint8Array(index.rollouts.group.length); // 1 for a rollout that is looked for
let listedGroups = [];

function filterForm() {
  const select = (name, label, options) => field(label, make("select", { name }, options.map(([value, text]) => make("option", { value }, text))));
  const input = (name, label, attributes) => field(label, make("input", { name, ...attributes }));
  const field = (label, control) => make("label", {}, make("span", {}, label), control);
  const named = (names) => names.map((name, place) => [place, name.length > 60 ? `${name.slice(0, 60)}…` : name]);
  const any = (text) => [[ANY, text]];
  const numeric = { type: "number", step: "any", inputmode: "decimal" };
  at("filter").append(
    input("text", "Task", { type: "search", placeholder: "words of the task   /" }),
    make(
      "details",
      { class: "more" },
      make("summary", {}, "Filter"),
      make(
        "div",
        { class: "fields" },
        select("phase", "Phase", [...any("any"), ...phases.map((phase, place) => [place, phase])]),
        make("div", { class: "pair" }, input("from", "Step from", numeric), input("to", "to", numeric)),
        select("component", "Reward", named(index.components)),
        make("div", { class: "pair" }, input("least", "at least", numeric), input("most", "at most", numeric)),
        select("tool", "Tool", [...any("any"), ["none", "none called"], ...named(index.tools)]),
        select("error", "Error", [...any("any or none"), ["some", "some error"], ["none", "no error"], ...named(index.errors)]),
        select("stop", "Stop reason", [...any("any"), ...named(index.stops)]),
        make("button", { type: "reset" }, "Clear"),
      ),
    ),
  );
  if (innerWidth > 900) at("filter").querySelector("details").open = true;
  at("filter").addEventListener("input", sift);
  at("filter").addEventListener("reset", () => setTimeout(sift));
  at("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    document.activeElement.blur();
  });
}

const asked = () => Object.fromEntries(EACH.map((name) => [name, at("filter").elements[name].value]));

function put(values) {
  for (const name of EACH) at("filter").elements[name].value = values[name] ?? (name === "component" ? 0 : ANY);
  sift();
}

// Shows the trajectories with a stop reason or an error.
function choose({ stop, error }) {
  const place = (names, name) => (name === undefined ? ANY : Math.max(0, names.indexOf(name)));
  put({ stop: place(index.stops, stop), error: place(index.errors, error) });
  location.hash = "#trajectories";
}

function sift() {
  const wanted = asked();
  const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
  const end = (text, otherwise) => (text === ANY ? otherwise : Number(text));
  const [from, to] = [end(wanted.from, -Infinity), end(wanted.to, Infinity)];
  const [least, most] = [end(wanted.least, -Infinity), end(wanted.most, Infinity)];
  const bounded = wanted.least !== ANY || wanted.most !== ANY;
  const { group: groups, stop, tools, errors: wrong } = index.rollouts;
  const fits = index.groups.batch.map((batch, group) => {
    const [phase, step] = index.batches[batch];
    if (wanted.phase !== ANY && phase !== phases[wanted.phase]) return false;
    return step >= from && step <= to && words.every((word) => lower[group].includes(word));
  });
  const among = (numbers, choice) => {
    if (choice === ANY) return true;
    if (choice === "none") return !numbers.length;
    return choice === "some" ? numbers.length > 0 : numbers.includes(Number(choice));
  };
  const found = new Set();
  let count = 0;
  groups.forEach((group, row) => {
    const value = bounded ? valueOf(row, Number(wanted.component)) : null;
    const fit =
      fits[group] &&
      (!bounded || (value !== null && value >= least && value <= most)) &&
      (wanted.stop === ANY || stop[row] === Number(wanted.stop)) &&
      among(tools[row], wanted.tool) &&
      among(wrong[row], wanted.error);
    matching[row] = fit ? 1 : 0;
    if (fit) {
      count++;
      found.add(group);
    }
  });
  listedGroups = [...found];
  const all = groups.length;
  at("found").textContent = `${count === all ? "" : `${thousands(count)} of `}${thousands(all)} trajectories, ${thousands(found.size)} groups`;
  at("list").scrollTop = 0;
  showRows();
}
