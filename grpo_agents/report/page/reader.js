// The reader: a group's rollouts side by side, each with its messages, tool calls and tokens.

const FOLDED = 1500; // letters of a message from which on it is folded

let here = null; // the rollout that is read, as a row of index.rollouts
let group = null; // its group's conversations
let colouring = memory.get(localStore(), "grpo-agents:tokens") ?? "log-prob";

function localStore() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

async function open(row) {
  const number = index.rollouts.group[row];
  const before = here === null ? null : index.rollouts.group[here];
  here = row;
  at("trajectories").classList.add("reading");
  if (before !== number || !group) {
    group = null;
    const found = await conversations(number);
    if (here === null || index.rollouts.group[here] !== number) return; // another was opened meanwhile
    group = found;
    paint();
    at("reader").scrollTop = 0;
  }
  mark();
  reveal(number);
}

function close() {
  here = null;
  group = null;
  at("trajectories").classList.remove("reading");
  at("reader").replaceChildren(make("p", { class: "empty" }, index.rollouts.group.length ? "Choose a group on the left. Press ? for keys." : "There are no trajectories on this page."));
  showRows();
}

function mark() {
  const place = members[index.rollouts.group[here]].indexOf(here);
  at("reader").querySelectorAll(".rollout").forEach((column, which) => {
    column.classList.toggle("current", which === place);
    column.setAttribute("aria-current", which === place);
    if (which === place) bring(column);
  });
}

// Sideways only: what stands above the rollouts stays where it is.
function bring(column) {
  const side = column.parentElement;
  const left = column.offsetLeft - side.offsetLeft;
  if (left < side.scrollLeft || left + column.offsetWidth > side.scrollLeft + side.clientWidth) side.scrollLeft = left;
}

function paint() {
  const number = index.rollouts.group[here];
  const rows = members[number];
  const known = group.words.length > 0;
  const ways = known ? colourings(group.rollouts) : [];
  const way = ways.find(([name]) => name === colouring) ?? (colouring === "off" ? null : ways[0]);
  const top = way && (way[0] === "log-prob" ? UNLIKELY : strongest(group.rollouts, way[1]));
  const columns = group.rollouts.map((rollout, place) => column(rollout, rows[place], way, top, ways));
  const side = make("div", { class: `rollouts${columns.length === 1 ? " one" : ""}`, tabindex: 0, "aria-label": "Rollouts" }, columns);
  at("reader").replaceChildren(groupHead(number), chooser(ways, way, top, known), side);
}

function groupHead(number) {
  const { phase, step, file } = batchOf(number);
  const where = `${step < 0 ? phase : `${phase}, step ${step}`}, group ${index.groups.number[number]}`;
  const weights = group.preference.map(([name, weight]) => make("span", { class: "chip" }, `${name} ${weight}`));
  const turn = (by, label, key) => make("button", { type: "button", "aria-label": label, title: `${label} (${key})`, click: () => nextGroup(by) }, by < 0 ? "↑" : "↓");
  return make(
    "header",
    { class: "group" },
    make("div", { class: "line" }, make("a", { href: "#trajectories", class: "back" }, "← list"), make("h2", {}, where), make("span", { class: "dim file" }, file), turn(-1, "Previous group", "p"), turn(1, "Next group", "n")),
    make(
      "div",
      { class: "line" },
      weights.length ? make("span", { class: "said" }, "weighs") : null,
      weights,
      group.tools.length ? make("span", { class: "said" }, "tools") : null,
      group.tools.map((name) => make("span", { class: "chip" }, name)),
    ),
    make("div", { class: "prompt" }, group.prompt.map((said) => message(said)), fold("task", group.task), group.notes.map((note) => noted(note, number))),
  );
}

function chooser(ways, way, top, known) {
  if (!known || !ways.length) {
    const why = known ? "these turns have no token ids" : report.why_no_text;
    return make("p", { class: "note" }, `Tokens are not coloured: ${why}.`);
  }
  const options = ["off", ...ways.map(([name]) => name)].map((name) => make("option", { value: name, selected: name === (way?.[0] ?? "off") }, name === "off" ? "no colours" : name));
  const change = ({ target }) => {
    colouring = target.value;
    memory.set(localStore(), "grpo-agents:tokens", colouring);
    paint();
    mark();
    at("colouring").focus();
  };
  return make("div", { class: "chooser" }, make("label", {}, make("span", {}, "Tokens by"), make("select", { id: "colouring", change }, options)), way && scale(top, way[0]));
}

function column(rollout, row, way, top, all) {
  const scalar = index.components.indexOf("reward (scalar)");
  const main = scalar < 0 ? null : valueOf(row, scalar);
  const known = (value, missing) => (value === null ? `missing${missing ? `: ${missing}` : ""}` : number(value));
  const facts = [
    scalar < 0 ? null : ["reward", number(main)],
    ...rollout.rewards.map(([name, value, missing]) => [name, known(value, missing)]),
    rollout.advantage === null ? null : ["advantage", signed(rollout.advantage)],
    ["tokens", thousands(index.rollouts.tokens[row])],
  ];
  const turns = rollout.steps.map((step, place) => turn(rollout, step, place, way, top, group.words, all));
  return make(
    "article",
    { class: `rollout${matching[row] ? "" : " unmatched"}`, click: (event) => event.target.closest("a, summary, button, .token") ?? go(row) },
    make(
      "header",
      {},
      make("h3", {}, make("a", { href: linkOf(row) }, idOf(row))),
      make("span", { class: `chip${rollout.stop === "terminated" ? "" : " warn"}` }, rollout.stop),
      rollout.masked && make("span", { class: "chip warn" }, "not learned from"),
      make("dl", { class: "facts" }, facts.filter(Boolean).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
      rollout.error !== null && make("p", { class: "error" }, rollout.error),
    ),
    rollout.prompt ? rollout.prompt.map((said) => message(said)) : null,
    turns,
  );
}

function turn(rollout, step, place, way, top, words, all) {
  const said = step.message;
  const coloured = way && step.tokens;
  const counted = step.tokens?.length ?? step.count;
  const head = [`turn ${place + 1}`, counted === null ? "" : `${thousands(counted)} tokens`, step.dollars ? `${number(step.dollars)} $` : "", step.finish === "stop" ? "" : step.finish];
  const rewards = step.rewards.map(([name, value]) => make("span", { class: "chip" }, `${name} ${number(value)}`));
  const body = coloured ? [tokenText(rollout, step, words, way, top, all)] : [said.thought && fold("reasoning", said.thought), text(said.text)];
  const calls = said.calls ?? [];
  const replies = [...step.observation];
  const folded = calls.map((call, which) => {
    const at = replies.findIndex(({ role, reply }) => role === "tool" && (!call.id || !reply || reply === call.id));
    const [reply] = at < 0 ? [null] : replies.splice(at, 1);
    return toolCall(call, reply, step.tools[which]);
  });
  return make(
    "section",
    { class: "turn" },
    make("h4", {}, head.filter(Boolean).join(" · "), step.advantage ? ` · advantage ${signed(step.advantage)} here` : "", step.advantage === null && " · not learned from", rewards),
    make("div", { class: "said-by assistant" }, body, folded),
    replies.map((reply) => message(reply)),
  );
}

function toolCall(call, reply, run) {
  const cost = run ? [run[1] ? `${number(run[1])} $` : "", run[2] ? `${number(run[2])} s` : ""].filter(Boolean).join(", ") : "";
  const failed = run?.[3] ?? call.invalid;
  return make(
    "details",
    { class: `call${failed ? " failed" : ""}` },
    make("summary", {}, make("span", { class: "mono name" }, call.name || "unreadable call"), make("span", { class: "mono brief" }, brief(call.arguments)), reply && make("span", { class: "mono brief result" }, `→ ${brief(reply.text)}`), cost && make("span", { class: "cost" }, cost)),
    failed && make("p", { class: "error" }, failed),
    make("h5", {}, "arguments"),
    make("pre", {}, indented(call.arguments)),
    make("h5", {}, "result"),
    make("pre", {}, reply ? reply.text : "no result"),
  );
}

const brief = (words) => {
  const line = words.replace(/\s+/g, " ").trim();
  return line.length > 48 ? `${line.slice(0, 48)}…` : line === "{}" ? "" : line;
};

function indented(words) {
  try {
    return JSON.stringify(JSON.parse(words), null, 2);
  } catch {
    return words;
  }
}

const fold = (title, words) => make("details", { class: "fold" }, make("summary", {}, title), make("pre", {}, words));

function text(words) {
  if (!words) return null;
  if (words.length <= FOLDED) return make("div", { class: "text" }, words);
  return make("details", { class: "fold long" }, make("summary", {}, `${words.slice(0, 160)}…`, make("span", { class: "dim" }, ` ${thousands(words.length)} letters`)), make("div", { class: "text" }, words));
}

function message(said) {
  const who = said.name ? `${said.role} ${said.name}` : said.role;
  const calls = (said.calls ?? []).map((call) => toolCall(call, null, null));
  return make("div", { class: `said-by ${["user", "system", "tool", "assistant"].find((role) => role === said.role) ?? "other"}` }, make("h5", {}, who), said.thought && fold("reasoning", said.thought), text(said.text), calls);
}
