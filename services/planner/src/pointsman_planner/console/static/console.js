// SPDX-License-Identifier: Apache-2.0
// Joins the stream of the planner, the forms and the parts of the page.

import { ask, clock, duration, endpointsAnswer, explainAnswer, make, nodeAnswer } from "./answers.js";
import { Nodes, STATES } from "./nodes.js";

const ANNOUNCED_MS = 3000;
const CHANGES_SHOWN = 25;
const SERVICES_ASKED_MS = 250;

const part = (id) => document.getElementById(id);
const nodes = new Nodes(part("grid"), showNode);
const changes = new Map();
const counts = new Map();
let announced = "";

for (const [state, mark] of STATES) {
  const box = make("input", { type: "checkbox", checked: "", value: state });
  const count = make("span", {}, "0");
  counts.set(state, count);
  const sample = make("span", { class: `sample ${state}`, "aria-hidden": "true" }, mark);
  part("states").append(make("label", {}, box, sample, make("span", {}, state), count));
  box.addEventListener("change", () => {
    const off = [...part("states").querySelectorAll("input:not(:checked)")].map((each) => each.value);
    show({ hidden: new Set(off) });
  });
}
part("filter").addEventListener("input", () => show({ text: part("filter").value.trim() }));
part("back").addEventListener("click", () => show({ page: Math.max(0, nodes.page - 1) }));
part("next").addEventListener("click", () => show({ page: nodes.page + 1 }));

function show(what) {
  nodes.show(what);
  showPages();
}

function showPages() {
  part("pages").hidden = nodes.pages < 2;
  part("page").textContent = `Page ${nodes.page + 1} of ${nodes.pages}`;
}

function summary() {
  const total = nodes.states.size;
  if (!total) return "No nodes yet.";
  const others = STATES.slice(1).map(([state]) => [state, nodes.counts.get(state)]).filter(([, count]) => count);
  const rest = others.map(([state, count]) => `${count.toLocaleString("en")} ${state}`).join(", ");
  return `${nodes.counts.get("synced").toLocaleString("en")} of ${total.toLocaleString("en")} nodes are synced${rest ? `; ${rest}` : ""}.`;
}

// The sentence is read out when it changes, so it changes now and then only; the figures beside the states are at once.
setInterval(() => {
  const now = summary();
  if (now !== announced) part("summary").textContent = announced = now;
}, ANNOUNCED_MS);

function take(message) {
  if (message.reset) {
    nodes.clear();
    changes.clear();
  }
  nodes.take(message.nodes, message.gone);
  for (const [state, element] of counts) element.textContent = nodes.counts.get(state).toLocaleString("en");
  if (!announced) part("summary").textContent = announced = summary();
  showPages();
  const text = `planner ${message.planner}, revision ${message.revision}, ${message.services.toLocaleString("en")} services`;
  part("planner").textContent = message.inSync ? text : `${text}; has not seen the whole cluster yet`;
  if (message.changes.length || message.reset) showChanges(message);
  if (nodes.chosen && message.nodes.some(([name]) => name === nodes.chosen)) showNode(nodes.chosen, false);
}

function showChanges(message) {
  for (const change of message.changes) changes.set(change.number, change);
  const newest = [...changes.values()].sort((one, other) => other.number - one.number).slice(0, CHANGES_SHOWN);
  changes.clear();
  for (const change of newest) changes.set(change.number, change);
  const longest = Math.max(1, ...newest.map((change) => change.longest));
  part("timeline").replaceChildren(...newest.map((change) => changeRow(change, longest)));
  const { p50, p90, p99, longest: worst } = message.latency;
  if (worst) part("latency").textContent = `Until the last node had a change: half within ${duration(p50)}, 90 % within ${duration(p90)}, 99 % within ${duration(p99)}.`;
}

function changeRow(change, longest) {
  const more = change.servicesTotal - change.services.length;
  const services = change.services.join(", ") + (more > 0 ? ` and ${more} more` : "");
  const meter = make("meter", { min: 0, max: longest, value: change.longest, "aria-label": `last after ${duration(change.longest)}` });
  const cells = [clock(change.begun), services || "nodes or overrides", change.nodes, duration(change.p50), duration(change.p99), duration(change.longest), meter, changeState(change)];
  return make("tr", { "data-change": change.number }, ...cells.map((value, index) => make("td", index === 1 || index > 5 ? {} : { class: "number" }, value)));
}

function changeState(change) {
  const notes = [];
  if (change.refused) notes.push(`${change.refused} refused`);
  if (change.left) notes.push(`${change.left} went away`);
  if (change.waiting) notes.unshift(change.isFollowed ? `waits for ${change.waiting}` : `${change.waiting} had not got it when newer changes came`);
  return notes.join(", ") || "on every node";
}

async function showNode(name, moves = true) {
  const detail = part("node");
  detail.hidden = false;
  if (moves) {
    for (const form of ["endpoints-form", "explain-form"]) part(form).elements.node.value = name;
  }
  try {
    detail.replaceChildren(...nodeAnswer(await ask("api/node", { node: name })));
  } catch (error) {
    detail.replaceChildren(make("p", { class: "error" }, error.message));
  }
}

function answering(name, path, render) {
  const form = part(`${name}-form`);
  const answer = part(`${name}-answer`);
  let asked = 0;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const turn = (asked += 1);
    let shown;
    try {
      shown = render(await ask(path, new FormData(form)));
    } catch (error) {
      shown = [make("p", { class: "error" }, error.message)];
    }
    if (turn === asked) answer.replaceChildren(...shown);
  });
}

answering("endpoints", "api/endpoints", endpointsAnswer);
answering("explain", "api/explain", explainAnswer);

let typed;
part("endpoints-form").elements.service.addEventListener("input", (event) => {
  clearTimeout(typed);
  typed = setTimeout(async () => {
    const names = await ask("api/services", { like: event.target.value }).catch(() => []);
    part("services").replaceChildren(...names.map((name) => make("option", { value: name })));
  }, SERVICES_ASKED_MS);
});

function say(state, text) {
  part("link").dataset.state = state;
  part("link").textContent = text;
}

function connect() {
  const stream = new EventSource("api/stream");
  stream.addEventListener("open", () => say("live", "live"));
  stream.addEventListener("state", (event) => take(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    say("lost", "connection lost; shows what was last known");
    if (stream.readyState !== EventSource.CLOSED) return;
    setTimeout(connect, 5000);
  });
}

connect();
