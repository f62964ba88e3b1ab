// Which view is shown, and that it comes back after a newer page has come.

const PLACE = `grpo-agents:place:${location.pathname}`;
const OFTEN = 2000; // milliseconds between two questions whether there is a newer page

function sessionStore() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

function show() {
  const row = rowOf(location.hash);
  const reading = row !== null || location.hash === "#trajectories" || new URLSearchParams(location.hash.slice(1)).has("trajectory");
  at("overview").hidden = reading;
  at("trajectories").hidden = !reading;
  at("to-overview").setAttribute("aria-current", reading ? "false" : "page");
  at("to-trajectories").setAttribute("aria-current", reading ? "page" : "false");
  tip.hide();
  if (row !== null) return open(row);
  if (reading) close();
  if (reading && location.hash !== "#trajectories") {
    at("reader").replaceChildren(make("p", { class: "note" }, "The trajectory of this link is not on this page. It may have been left out: see --limit."));
  }
  return null;
}

function theme() {
  const button = at("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const chosen = memory.get(localStore(), "grpo-agents:theme");
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const say = () => button.setAttribute("aria-pressed", isDark());
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    memory.set(localStore(), "grpo-agents:theme", root.dataset.theme);
    say();
  });
  dark.addEventListener("change", say);
  say();
}

// What a page that is watched keeps when a newer one takes its place.
function keep() {
  const reader = at("reader");
  const place = { filter: asked(), page: scrollY, list: at("list").scrollTop, reader: [reader.scrollTop, reader.querySelector(".rollouts")?.scrollLeft ?? 0] };
  memory.set(sessionStore(), PLACE, JSON.stringify(place));
}

async function comeBack() {
  const kept = memory.get(sessionStore(), PLACE);
  memory.set(sessionStore(), PLACE, "");
  if (kept) put(JSON.parse(kept).filter);
  else sift();
  await show();
  if (!kept) return;
  const { page, list, reader } = JSON.parse(kept);
  scrollTo(0, page);
  at("list").scrollTop = list;
  [at("reader").scrollTop] = reader;
  const side = at("reader").querySelector(".rollouts");
  if (side) [, side.scrollLeft] = reader;
}

function watch() {
  if (!report.watched || !location.protocol.startsWith("http")) return;
  setInterval(async () => {
    const typing = document.activeElement?.matches("input, select") || at("keys").open;
    try {
      const now = await (await fetch("version", { cache: "no-store" })).text();
      if (now === report.watched || typing) return;
      keep();
      location.reload();
    } catch {
      // the server has ended; what is here stays
    }
  }, OFTEN);
}

at("to-trajectories").append(make("span", { class: "dim" }, ` ${thousands(index.rollouts.group.length)}`));
theme();
overview();
filterForm();
at("list").addEventListener("scroll", () => requestAnimationFrame(showRows));
new ResizeObserver(showRows).observe(at("list"));
at("show-keys").addEventListener("click", showKeys);
addEventListener("keydown", pressed);
addEventListener("hashchange", show);
addEventListener("scroll", tip.hide, { passive: true, capture: true });
comeBack().then(() => document.documentElement.setAttribute("data-ready", "true"));
watch();
