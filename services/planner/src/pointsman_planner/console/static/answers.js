// SPDX-License-Identifier: Apache-2.0
// Answers of the planner as elements. Text is only ever text: nothing here reads markup.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== undefined && child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

export function table(caption, columns, rows) {
  const head = make("tr", {}, ...columns.map((title) => make("th", { scope: "col" }, title)));
  const body = rows.map((row) => make("tr", {}, ...row.map((value) => make("td", {}, value))));
  return make("div", { class: "scroll" }, make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body)));
}

export async function ask(path, fields) {
  const response = await fetch(`${path}?${new URLSearchParams(fields)}`);
  const text = await response.text();
  try {
    const answer = JSON.parse(text);
    if (response.ok) return answer;
    throw new Error(answer.error);
  } catch (error) {
    throw error instanceof SyntaxError ? new Error(text || response.statusText) : error;
  }
}

export function duration(milliseconds) {
  if (!milliseconds) return "-";
  return milliseconds < 1000 ? `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

export function clock(milliseconds) {
  return milliseconds > 0 ? new Date(milliseconds).toLocaleTimeString("en-GB") : "unknown";
}

export function nodeAnswer(node) {
  const facts = [
    ["State", node.reason ? `${node.state}: ${node.reason}` : node.state], ["Since", clock(node.since)], ["Heard of", clock(node.lastSeen)],
    ["Mode", node.mode], ["Version", node.version || "unknown"], ["Zone", node.zone || "none"], ["Planner", node.planner || "none"],
    ["Revision", `sent ${node.sent}, programmed ${node.programmed}`], ["Services waiting", node.pending],
  ];
  const list = make("dl", {}, ...facts.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  const parts = [make("h3", {}, node.name), list];
  for (const [title, lines] of [["Refused", node.failures], ["Trouble", node.conditions]]) {
    if (lines.length) parts.push(make("h3", {}, title), make("ol", {}, ...lines.map((line) => make("li", {}, line))));
  }
  if (node.differences.length) {
    const rows = node.differences.map((each) => [each.service, each.standing, each.reason]);
    parts.push(table("Services that differ from what is wanted", ["Service", "Standing", "Reason"], rows));
  }
  return parts;
}

export function endpointsAnswer(found) {
  const seen = found.node ? `as ${found.node} sees it` : "as a node sees it of which nothing is known";
  if (!found.rows.length) return [make("p", {}, `${found.service} has no endpoints.`)];
  const more = found.total > found.rows.length ? `, the first ${found.rows.length} shown` : "";
  const rows = found.rows.map((row) => [row.port, row.endpoint, row.node || "-", row.says, row.sets.join(", ") || "none", row.reasons.join("; ") || "-"]);
  const caption = `${found.service}, ${seen}: ${found.total} endpoints${more}`;
  return [table(caption, ["Port", "Endpoint", "On node", "API server says", "In sets", "Why not"], rows)];
}

export function explainAnswer(found) {
  const what = found.service ? `${found.outcome}: ${found.service}${found.port ? ` port ${found.port}` : ""}` : found.outcome;
  const parts = [make("p", { class: "outcome" }, what), make("ol", {}, ...found.steps.map((step) => make("li", {}, step)))];
  if (found.endpoints.length) {
    const rows = found.endpoints.map((each) => [each.endpoint, each.weight, each.masquerade ? "the node's address" : "the client's address"]);
    parts.push(table("Goes to one of", ["Endpoint", "Weight", "Sees"], rows));
  }
  if (found.exclusions.length) {
    parts.push(table("And not to", ["Endpoint", "Reason"], found.exclusions.map((each) => [each.endpoint, each.reason])));
  }
  return parts;
}
