// What Python put into the page: figures and index at once, conversations block by block as they are looked at.

const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
const report = parsed("figures");
const index = parsed("index");

const KEPT = 8; // blocks that stay unpacked
const opened = new Map();

// The script runs before the blocks below it are there: what is missing is waited for.
const whole = new Promise((resolve) => {
  if (document.readyState !== "loading") resolve();
  else document.addEventListener("DOMContentLoaded", resolve);
});

async function unpack(id) {
  if (!document.getElementById(id)) await whole;
  const letters = atob(document.getElementById(id).textContent.trim());
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function block(number) {
  const found = opened.get(number) ?? unpack(`block-${number}`);
  opened.delete(number);
  opened.set(number, found); // last in the order in which they are dropped
  if (opened.size > KEPT) opened.delete(opened.keys().next().value);
  return found;
}

let texts = null;

// A group's conversations, and the texts of all tokens.
async function conversations(group) {
  texts ??= unpack("texts");
  const [groups, words] = await Promise.all([block(index.groups.block[group]), texts]);
  return { ...groups[index.groups.place[group]], words };
}

// The rollouts of each group, as rows of index.rollouts.
const members = index.groups.batch.map(() => []);
index.rollouts.group.forEach((group, row) => members[group].push(row));

const batchOf = (group) => {
  const [phase, step, file] = index.batches[index.groups.batch[group]];
  return { phase, step, file };
};
const idOf = (row) => `${index.groups.number[index.rollouts.group[row]]}.${index.rollouts.index[row]}`;
const valueOf = (row, component) => index.rollouts.values[row][component] ?? null;

// Files that share phase and step, as no run writes them, have to be told apart in links.
const shared = new Set();
{
  const seen = new Set();
  for (const [phase, step] of index.batches) {
    const name = JSON.stringify([phase, step]);
    (seen.has(name) ? shared : seen).add(name);
  }
}

function linkOf(row) {
  const { phase, step, file } = batchOf(index.rollouts.group[row]);
  const place = new URLSearchParams({ step, phase, trajectory: idOf(row) });
  if (shared.has(JSON.stringify([phase, step]))) place.set("file", file);
  return `#${place}`;
}

// The rollout that a link means; null where the page has none.
function rowOf(hash) {
  const asked = new URLSearchParams(hash.slice(1));
  const id = asked.get("trajectory");
  if (id === null) return null;
  const found = index.rollouts.group.findIndex((group, row) => {
    if (idOf(row) !== id) return false;
    const { phase, step, file } = batchOf(group);
    const fits = (name, value) => !asked.has(name) || asked.get(name) === String(value);
    return fits("phase", phase) && fits("step", step) && fits("file", file);
  });
  return found < 0 ? null : found;
}
